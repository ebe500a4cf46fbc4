"""The three questions of an engine, answered over any model with a memory of sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lite_interp.engine import ChatTokens, EngineFailure
from lite_interp.engine.chat import Chat, Vocabulary
from lite_interp.engine.plan import groups
from lite_interp.engine.sequences import FIRST, Sequences
from lite_interp.engine.writing import Writer, log_normalizers, picked
from lite_interp.errors import EngineError
from lite_interp.prompts import Message
from lite_interp.records import Generation, Sampling


class Tokenizer(Vocabulary, Protocol):
    """What an engine needs to know of a tokenizer."""

    n_vocab: int
    """Number of tokens."""

    def special(self, text: str) -> list[int]:
        """Tokens of a text in which names of special tokens become those tokens."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; none for a control token."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""
        ...


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

    def chat(self, messages: Sequence[Message], begun_answer: str = "") -> ChatTokens:
        """A chat in the model's own format, open for the answer."""
        return self._chat.tokens(messages, begun_answer)

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
        for item, start, rows in self._sequences.evaluate(items, [0] * len(items)):
            targets = np.asarray(suffixes[item][start + 1 : start + 1 + len(rows)], np.int64)
            out[item][start + 1 : start + 1 + len(rows)] = picked(rows, targets)
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
        wanted_from = [max(0, last) for last in before]
        for item, start, rows in self._sequences.evaluate(items, wanted_from):
            for offset, row in enumerate(rows):
                add(item, start + offset - before[item], row)
        return out.astype(np.float32)

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
        tokenizer = self._tokenizer
        writers = [Writer(how, i, tokenizer.is_end, tokenizer.piece) for i in range(len(prompts))]
        lengths = [len(tail) for tail in tails]
        for group in groups(len(shared), lengths, how.max_tokens, self._sequences.limits):
            head = self._sequences.hold(shared, len(shared))
            self._write([tails[i] for i in group], [writers[i] for i in group], len(shared), head)
        return [writer.result() for writer in writers]

    def close(self) -> None:
        """Free everything; closing twice is harmless."""
        self._sequences.close()

    def __enter__(self) -> BatchedEngine:
        """The engine itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()

    def _write(
        self,
        tails: list[Sequence[int]],
        writers: list[Writer],
        n_shared: int,
        head: NDArray[np.float32] | None,
    ) -> None:
        """Answer a group of prompts in lock step."""
        last = [len(tail) - 1 for tail in tails]
        drawn: dict[int, int] = {}
        for item, tail in enumerate(tails):
            if not tail and head is not None and not writers[item].done:
                self._sequences.open(FIRST + item)
                drawn[item] = self._draw(writers[item], head)
        for item, _, rows in self._sequences.evaluate(tails, [max(0, p) for p in last], keep=True):
            if not writers[item].done:
                drawn[item] = self._draw(writers[item], rows[-1])
        while active := [item for item in sorted(drawn) if not writers[item].done]:
            for item in set(drawn) - set(active):
                self._sequences.release(FIRST + item)
            tokens = [drawn[item] for item in active]
            places = [n_shared + last[item] + writers[item].n_tokens for item in active]
            rows = self._sequences.step(tokens, places, [FIRST + item for item in active])
            drawn = {
                item: self._draw(writers[item], row) for item, row in zip(active, rows, strict=True)
            }
        for item in range(len(tails)):
            self._sequences.release(FIRST + item)

    def _draw(self, writer: Writer, logits: NDArray[np.float32]) -> int:
        if not np.isfinite(logits).all():
            self._sequences.reset()
            raise EngineFailure("the model's numbers are not finite")
        self.n_written += 1
        return writer.write(logits)

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
