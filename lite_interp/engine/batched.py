"""The questions of an engine, answered over any model with a memory of sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lite_interp.engine import ChatTokens
from lite_interp.engine.chat import Chat
from lite_interp.engine.generating import Prompts, write_answers
from lite_interp.engine.sequences import Sequences
from lite_interp.engine.writing import Tokenizer, Writer, log_normalizers, picked, streams
from lite_interp.errors import EngineError, one_line
from lite_interp.prompts import Message
from lite_interp.records import Generation, Sampling


class BatchedEngine:
    """An engine over sequences, a tokenizer and a chat format; see `Engine` for its methods."""

    def __init__(
        self,
        sequences: Sequences,
        tokenizer: Tokenizer,
        chat: Chat,
        n_ctx: int,
        provenance: Mapping[str, Any],
    ) -> None:
        """Join the parts.

        Args:
            sequences: the model and its memory.
            tokenizer: its tokenizer.
            chat: its chat format.
            n_ctx: tokens that one sequence may hold.
            provenance: what it is; must hold `id` and `name`.
        """
        self._sequences = sequences
        self._tokenizer = tokenizer
        self._chat = chat
        self.id: str = provenance["id"]
        self.name: str = provenance["name"]
        self.n_ctx = n_ctx
        self.provenance = provenance
        self.n_written = 0

    @property
    def n_evaluated(self) -> int:
        """Tokens evaluated since it was opened that it did not write itself."""
        return self._sequences.n_evaluated

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text that goes on from other text."""
        return self._tokenizer.special(text) if special else self._tokenizer.going_on(text)

    def chat(self, messages: Sequence[Message]) -> ChatTokens:
        """A chat in the model's own format, open for the answer."""
        return self._chat.tokens(messages)

    def logprobs(
        self, prefix: Sequence[int], suffixes: Sequence[Sequence[int]], root: int = 0
    ) -> list[NDArray[np.float32]]:
        """Log-probability of each suffix token; one (len(suffix),) for each suffix, nats."""
        if not prefix:
            raise ValueError("the first token has no probability without a prefix")
        self._check(prefix, suffixes, root)
        head = self._sequences.hold(prefix, root)
        assert head is not None
        out = [np.zeros(len(suffix), np.float32) for suffix in suffixes]
        normalizer = log_normalizers(head[None])[0]
        for suffix, values in zip(suffixes, out, strict=True):
            if len(suffix):
                values[0] = head[suffix[0]] - normalizer
        items = [suffix[:-1] for suffix in suffixes]
        everywhere = [range(len(item)) for item in items]
        for item, positions, rows in self._sequences.evaluate(items, everywhere):
            targets = np.asarray(suffixes[item], np.int64)[positions + 1]
            out[item][positions + 1] = picked(rows, targets)
        return out

    def answers(
        self,
        prefix: Sequence[int],
        suffixes: Sequence[Sequence[int]],
        choices: Sequence[Sequence[int]],
        root: int = 0,
    ) -> NDArray[np.float32]:
        """Log-probability of each choice after each suffix; (n_suffixes, n_choices), nats."""
        bodies = _bodies(choices)
        if any(not choice for choice in choices):
            raise ValueError("a choice needs a token")
        if not prefix and any(not suffix for suffix in suffixes):
            raise ValueError("a choice has no probability without tokens before it")
        items = [[*suffix, *body] for suffix in suffixes for body in bodies]
        self._check(prefix, items, root, choices)
        head = self._sequences.hold(prefix, root)
        out = np.zeros((len(suffixes), len(choices)), np.float64)

        def add(item: int, depth: int, row: NDArray[np.float32]) -> None:
            """Add the token `depth` of each choice that this item stands for."""
            body = bodies[item % len(bodies)]
            normalizer = log_normalizers(row[None])[0]
            for column, choice in enumerate(choices):
                if depth < len(choice) and _body_of(choice, bodies) == body:
                    out[item // len(bodies), column] += float(row[choice[depth]]) - normalizer

        before = [len(suffix) - 1 for suffix in suffixes for _ in bodies]
        for item, last in enumerate(before):
            if last < 0 and head is not None:
                add(item, 0, head)
        wanted = [range(max(0, last), len(item)) for item, last in zip(items, before, strict=True)]
        for item, positions, rows in self._sequences.evaluate(items, wanted):
            for position, row in zip(positions.tolist(), rows, strict=True):
                add(item, position - before[item], row)
        return out.astype(np.float32)

    def digits(
        self,
        prefix: Sequence[int],
        suffixes: Sequence[Sequence[int]],
        places: Sequence[Sequence[int]],
        highest: int = 10,
        root: int = 0,
    ) -> list[NDArray[np.float32]]:
        """Log-probability of each rating at each place; (n_places, highest + 1) each, nats."""
        ratings = self._ratings(highest)
        check_places(suffixes, places)
        self._check(prefix, suffixes, root)
        self._sequences.hold(prefix, root)
        first = np.array([tokens[0] for tokens in ratings])
        out = [np.zeros((len(each), highest + 1), np.float32) for each in places]
        for item, positions, rows in self._sequences.evaluate(suffixes, places):
            at = np.searchsorted(places[item], positions)
            out[item][at] = picked(rows, np.broadcast_to(first, (len(rows), len(first))))
        if len(ratings[-1]) == 2:
            self._split_one_and_ten(suffixes, places, ratings[-1], out)
        return out

    def generate(
        self, prompts: Sequence[Sequence[int]], how: Sampling, root: int = 0
    ) -> list[Generation]:
        """One answer for each prompt."""
        if any(not prompt for prompt in prompts):
            raise ValueError("an answer needs a prompt")
        shared = list(prompts[0][:root]) if prompts else []
        if any(list(prompt[:root]) != shared for prompt in prompts):
            raise ValueError(f"the prompts do not share their first {root} tokens")
        tails = [prompt[root:] for prompt in prompts]
        self._check(shared, tails, root, n_new=how.max_tokens)
        writers = [Writer(how, stream, self._tokenizer) for stream in streams(prompts)]
        try:
            write_answers(self._sequences, Prompts(shared, tails, how.max_tokens), writers)
            return [writer.result() for writer in writers]
        finally:
            for writer in writers:
                self.n_written += writer.n_drawn
                writer.close()

    def close(self) -> None:
        """Free everything; closing twice is harmless."""
        self._sequences.close()

    def __enter__(self) -> BatchedEngine:
        """The engine itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()

    def _ratings(self, highest: int) -> list[list[int]]:
        """The tokens of each rating: one token up to 9, one or two for 10."""
        if not 1 <= highest <= 10:
            raise ValueError(f"the highest rating is not within 1 to 10: {highest}")
        ratings = [self._tokenizer.going_on(str(rating)) for rating in range(highest + 1)]
        simple = [len(tokens) == 1 for tokens in ratings]
        if all(simple) or (all(simple[:10]) and ratings[10] == ratings[1] + ratings[0]):
            return ratings
        raise EngineError(
            f"this engine does not write numbers digit by digit: {one_line(self.name)}",
            "rate with another engine",
        )

    def _split_one_and_ten(
        self,
        suffixes: Sequence[Sequence[int]],
        places: Sequence[Sequence[int]],
        ten: Sequence[int],
        out: list[NDArray[np.float32]],
    ) -> None:
        """Share the probability of the token 1 between the ratings 1 and 10, in place."""
        where = [(item, index) for item, each in enumerate(places) for index in range(len(each))]
        lines = [[*suffixes[item][: places[item][index] + 1], ten[0]] for item, index in where]
        self._check(self._sequences.prefix, lines, 0)
        ends = [[len(line) - 1] for line in lines]
        for number, _, rows in self._sequences.evaluate(lines, ends):
            item, index = where[number]
            zero = min(0.0, float(picked(rows, np.array([ten[1]]))[0]))
            out[item][index, 10] = out[item][index, 1] + zero
            out[item][index, 1] += np.log1p(-np.exp(zero)) if zero < 0 else -np.inf

    def _check(
        self,
        prefix: Sequence[int],
        items: Sequence[Sequence[int]],
        root: int,
        choices: Sequence[Sequence[int]] = (),
        n_new: int = 0,
    ) -> None:
        """Refuse what does not fit, before llama.cpp sees it."""
        if not 0 <= root <= len(prefix):
            raise ValueError(f"root {root} is not within the prefix of {len(prefix)} tokens")
        for tokens in (prefix, *items, *choices):
            ids = np.asarray(tokens, np.int64)
            if ids.size and (ids.min() < 0 or ids.max() >= self._tokenizer.n_vocab):
                raise ValueError("a token id is not in the engine's vocabulary")
        longest = len(prefix) + max(map(len, items), default=0)
        if longest + n_new > self.n_ctx:
            limit = self.provenance.get("n_ctx_train", self.n_ctx)
            need = -(-(longest + n_new) // 256) * 256
            answer = f" and an answer of {n_new}" if n_new else ""
            raise EngineError(
                f"a prompt of {longest} tokens{answer} does not fit into a context of: "
                f"{self.n_ctx}",
                f"--n-ctx {need}"
                if need <= limit
                else f"this model takes at most --n-ctx {limit}: show fewer or shorter windows",
            )


def check_places(suffixes: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> None:
    """Raise `ValueError` unless there are ascending places within each suffix."""
    for suffix, each in zip(suffixes, places, strict=True):
        edges = [-1, *each, len(suffix)]
        if any(a >= b for a, b in zip(edges, edges[1:], strict=False)):
            raise ValueError("places must ascend and lie within their suffix")


def _bodies(choices: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """What must be evaluated behind a suffix: choices without their last token, none twice."""
    bodies = sorted({tuple(choice[:-1]) for choice in choices})
    return [
        body
        for body in bodies
        if not any(other != body and other[: len(body)] == body for other in bodies)
    ]


def _body_of(choice: Sequence[int], bodies: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The body whose evaluation gives the log-probabilities of a choice's tokens."""
    body = tuple(choice[:-1])
    return next(longer for longer in bodies if longer[: len(body)] == body)
