"""The questions of an engine, answered by a server.

The bytes of the model are not seen: the engine's id rests on what the server says of itself. And
what a server evaluates side by side, or has in its cache, changes its numbers in the last digits:
the same question is not answered with the same bits twice, as a GGUF file's is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lite_interp.engine import ChatTokens, EngineSettings
from lite_interp.engine.batched import check_places
from lite_interp.engine.chat import Chat
from lite_interp.engine.serving import Service, Written
from lite_interp.engine.wire import Wire
from lite_interp.engine.writing import streams
from lite_interp.errors import EngineError, one_line
from lite_interp.ids import content_id, generator
from lite_interp.prompts import Message
from lite_interp.records import Generation, Sampling, Usage

_ROOM = 2
"""Tokens that a question needs behind its prompt: one asked for, one drawn."""
_NO_LOGPROBS = (
    "use the GGUF file itself, --engine FILE.gguf, or a server whose completions take `echo`"
)

Item = TypeVar("Item")
Result = TypeVar("Result")


class ServerEngine:
    """An engine behind a server; see `Engine` for its methods.

    `logprobs` raises `EngineError` where the server gives no log-probabilities of a prompt: to
    ask for one token after the other would be exact, and slow beyond use.
    """

    def __init__(
        self, wire: Wire, service: Service, has_logprobs: bool, settings: EngineSettings
    ) -> None:
        """Join the parts; `open_server` has tested them.

        Args:
            wire: the connections to the server.
            service: what it can do.
            has_logprobs: whether it gives log-probabilities of a prompt.
            settings: `n_parallel` limits the requests sent side by side.
        """
        facts = service.facts
        self._wire, self._service, self._has_logprobs = wire, service, has_logprobs
        self._chat = Chat(facts.template, service.vocabulary)
        self.name = facts.model
        self.n_ctx = facts.n_ctx
        self.n_evaluated = 0
        self.n_written = 0
        n_parallel = min(settings.n_parallel, facts.n_parallel)
        self._pool = ThreadPoolExecutor(n_parallel, "lite-interp-server")
        asked = {
            "kind": "server",
            "model": facts.model,
            "facts": dict(facts.model_facts),
            "chat_template": content_id(facts.template),
            "settings": {"n_ctx": facts.n_ctx},
        }
        self.id = content_id(asked)
        methods = ["answers", "digits", "generate", *(["logprobs"] if has_logprobs else [])]
        self.provenance: Mapping[str, Any] = {
            "id": self.id,
            "name": self.name,
            "server": facts.kind,
            "url": str(wire.address),
            **facts.build,
            **facts.model_facts,
            "methods": methods,
            "chat_template": facts.template,
            "settings": {"n_ctx": facts.n_ctx, "n_parallel": n_parallel},
        }

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text that goes on from other text."""
        vocabulary = self._service.vocabulary
        return vocabulary.special(text) if special else vocabulary.going_on(text)

    def chat(self, messages: Sequence[Message]) -> ChatTokens:
        """A chat in the model's own format, open for the answer."""
        return self._chat.tokens(messages)

    def logprobs(
        self, prefix: Sequence[int], suffixes: Sequence[Sequence[int]], root: int = 0
    ) -> list[NDArray[np.float32]]:
        """Log-probability of each suffix token; one (len(suffix),) for each suffix, nats."""
        if not prefix:
            raise ValueError("the first token has no probability without a prefix")
        if not self._has_logprobs:
            raise EngineError(
                f"this server gives no log-probabilities of a prompt: {self._wire.address}",
                _NO_LOGPROBS,
            )
        self._check(prefix, suffixes, root)

        def ask(suffix: Sequence[int]) -> tuple[list[float], int]:
            if not len(suffix):
                return [], 0
            return self._service.spoken([*prefix, *suffix], len(prefix))

        found = self._each(ask, suffixes)
        self.n_evaluated += sum(n for _, n in found)
        return [np.array(values, np.float32) for values, _ in found]

    def answers(
        self,
        prefix: Sequence[int],
        suffixes: Sequence[Sequence[int]],
        choices: Sequence[Sequence[int]],
        root: int = 0,
    ) -> NDArray[np.float32]:
        """Log-probability of each choice after each suffix; (n_suffixes, n_choices), nats."""
        if any(not choice for choice in choices):
            raise ValueError("a choice needs a token")
        if not prefix and any(not suffix for suffix in suffixes):
            raise ValueError("a choice has no probability without tokens before it")
        bodies: dict[tuple[int, ...], list[int]] = {}
        for choice in choices:
            for depth, token in enumerate(choice):
                bodies.setdefault(tuple(choice[:depth]), []).append(token)
        items = [[*suffix, *body] for suffix in suffixes for body in sorted(bodies)]
        self._check(prefix, items, root, choices)

        def ask(suffix: Sequence[int]) -> tuple[list[float], int]:
            found = {
                body: self._service.following([*prefix, *suffix, *body], wanted)
                for body, wanted in sorted(bodies.items())
            }
            values = [
                sum(found[tuple(choice[:d])].values[token] for d, token in enumerate(choice))
                for choice in choices
            ]
            return values, sum(each.n_evaluated for each in found.values())

        found = self._each(ask, suffixes)
        self.n_evaluated += sum(n for _, n in found)
        values = np.array([values for values, _ in found], np.float32)
        return values.reshape(len(suffixes), len(choices))

    def digits(
        self,
        prefix: Sequence[int],
        suffixes: Sequence[Sequence[int]],
        places: Sequence[Sequence[int]],
        highest: int = 10,
        root: int = 0,
    ) -> list[NDArray[np.float32]]:
        """Log-probability of each rating at each place; (n_places, highest + 1) each, nats.

        One request for each place, two where 10 is two tokens.
        """
        ratings = self._ratings(highest)
        check_places(suffixes, places)
        self._check(prefix, suffixes, root)
        first = [tokens[0] for tokens in ratings]

        def ask(item: int) -> tuple[list[list[float]], int]:
            rows, n_evaluated = [], 0
            for place in places[item]:
                line = [*prefix, *suffixes[item][: place + 1]]
                found = self._service.following(line, first)
                n_evaluated += found.n_evaluated
                row = [found.values[token] for token in first]
                if len(ratings[-1]) == 2:
                    one, zero = ratings[-1]
                    found = self._service.following([*line, one], [zero])
                    n_evaluated += found.n_evaluated
                    share = min(0.0, found.values[zero])
                    row[10] = row[1] + share
                    row[1] += float(np.log1p(-np.exp(share))) if share < 0 else -np.inf
                rows.append(row)
            return rows, n_evaluated

        found = self._each(ask, range(len(suffixes)))
        self.n_evaluated += sum(n for _, n in found)
        return [np.array(rows, np.float32).reshape(-1, highest + 1) for rows, _ in found]

    def generate(
        self, prompts: Sequence[Sequence[int]], how: Sampling, root: int = 0
    ) -> list[Generation]:
        """One answer for each prompt."""
        if any(not prompt for prompt in prompts):
            raise ValueError("an answer needs a prompt")
        if any(list(prompt[:root]) != list(prompts[0][:root]) for prompt in prompts):
            raise ValueError(f"the prompts do not share their first {root} tokens")
        self._check([], prompts, 0, n_new=how.max_tokens)
        if how.max_tokens <= 0:
            return [Generation("", (), 0.0, "length") for _ in prompts]

        names = streams(prompts)

        def ask(index: int) -> Generation:
            started = time.perf_counter()
            seed = int(generator(how.seed, "generate", names[index]).integers(1 << 31))
            written = self._service.write(prompts[index], how, seed)
            return self._finished(prompts[index], written, started)

        started = time.perf_counter()
        found = self._each(ask, range(len(prompts)))
        # Answers written side by side share the time; their own clocks ran at the same time.
        together = sum(answer.usage.seconds for answer in found) or 1.0
        share = (time.perf_counter() - started) / together
        self.n_evaluated += sum(answer.usage.prompt_tokens for answer in found)
        self.n_written += sum(answer.usage.output_tokens for answer in found)
        return [
            replace(each, usage=each.usage._replace(seconds=each.usage.seconds * share))
            for each in found
        ]

    def close(self) -> None:
        """Close the connections; closing twice is harmless."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._wire.close()
        self._pool.shutdown(wait=True)

    def __enter__(self) -> ServerEngine:
        """The engine itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()

    def _finished(self, prompt: Sequence[int], written: Written, started: float) -> Generation:
        """The answer: the tokens that cover its text; what the server left out is asked for."""
        n, n_evaluated = len(written.tokens), written.n_evaluated
        if written.stop == "stop":
            while n and self._service.text(written.tokens[: n - 1]).startswith(written.text):
                n -= 1
        total = 0.0
        for place, (token, value) in enumerate(zip(written.tokens, written.logprobs, strict=True)):
            if place == n:
                break
            if value is None:
                line = [*prompt, *written.tokens[:place]]
                found = self._service.following(line, [token])
                value, n_evaluated = found.values[token], n_evaluated + found.n_evaluated
            total += value
        seconds = time.perf_counter() - started
        usage = Usage(n_evaluated, written.n_written, seconds)
        return Generation(written.text, tuple(written.tokens[:n]), total, written.stop, usage)

    def _each(self, ask: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Ask about each item, several at a time; results in the order of the items."""
        futures = [self._pool.submit(ask, item) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()
        wait(futures)  # what was under way ends before the next call begins
        failures = [each.exception() for each in futures if not each.cancelled()]
        for failure in failures:
            if failure is not None:
                raise failure
        return [each.result() for each in futures]

    def _ratings(self, highest: int) -> list[list[int]]:
        """The tokens of each rating: one token up to 9, one or two for 10."""
        if not 1 <= highest <= 10:
            raise ValueError(f"the highest rating is not within 1 to 10: {highest}")
        ratings = [self.tokenize(str(rating)) for rating in range(highest + 1)]
        simple = [len(tokens) == 1 for tokens in ratings]
        if all(simple) or (all(simple[:10]) and ratings[10] == ratings[1] + ratings[0]):
            return ratings
        raise EngineError(
            f"this engine does not write numbers digit by digit: {one_line(self.name)}",
            "rate with another engine",
        )

    def _check(
        self,
        prefix: Sequence[int],
        items: Sequence[Sequence[int]],
        root: int,
        choices: Sequence[Sequence[int]] = (),
        n_new: int = 0,
    ) -> None:
        """Refuse what does not fit, before the server sees it."""
        if not 0 <= root <= len(prefix):
            raise ValueError(f"root {root} is not within the prefix of {len(prefix)} tokens")
        n_vocab = self._service.facts.n_vocab or 1 << 31
        for tokens in (prefix, *items, *choices):
            ids = np.asarray(tokens, np.int64)
            if ids.size and (ids.min() < 0 or ids.max() >= n_vocab):
                raise ValueError("a token id is not in the engine's vocabulary")
        longest = len(prefix) + max(map(len, items), default=0)
        if longest + max(n_new, _ROOM) > self.n_ctx:
            answer = f" and an answer of {n_new}" if n_new else ""
            raise EngineError(
                f"a prompt of {longest} tokens{answer} does not fit into a context of: "
                f"{self.n_ctx}",
                "start the server with a longer context: "
                f"{longest + max(n_new, _ROOM)} tokens for each request",
            )
