"""One answer while it is being written: draw a token, know when to stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lite_interp.engine import EngineFailure
from lite_interp.engine.chat import Vocabulary
from lite_interp.ids import content_id, generator
from lite_interp.records import Generation, Sampling, Usage

BLOCK = 1024
"""Tokens that are summed up together when one is drawn."""


def log_normalizers(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logarithm of the sum of exponentials of each row, (n, n_vocab) → (n,).

    Row by row: a second array of a few hundred rows and 150,000 columns would be a burden.
    """
    out = np.empty(len(rows), np.float64)
    for index, row in enumerate(rows):
        top = row.max()
        out[index] = float(top) + np.log(np.exp(row - top).sum(dtype=np.float64))
    return out


def picked(rows: NDArray[np.float32], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Log-probabilities of chosen tokens: rows (n, n_vocab), tokens (n,) or (n, k) → its shape."""
    columns = tokens.reshape(len(rows), -1)
    values = np.take_along_axis(rows, columns, axis=1) - log_normalizers(rows)[:, None]
    return values.reshape(tokens.shape).astype(np.float32)


def place_in(weights: NDArray[np.float32], share: float) -> int:
    """The index at which the running sum of (n,) weights passes a share of the whole, 0 to 1.

    By sums of blocks, then within one: the running sum of 150,000 weights takes as long as the
    model takes for a good part of a token.
    """
    starts = np.arange(0, len(weights), BLOCK)
    sums = np.add.reduceat(weights, starts, dtype=np.float64)
    ends = sums.cumsum()
    block = min(int(np.searchsorted(ends, share * ends[-1], side="right")), len(starts) - 1)
    left = share * ends[-1] - (ends[block] - sums[block])
    within = weights[starts[block] : starts[block] + BLOCK].cumsum(dtype=np.float64)
    return int(starts[block] + min(np.searchsorted(within, left, side="right"), len(within) - 1))


def streams(prompts: Sequence[Sequence[int]]) -> list[str]:
    """Names of streams of random numbers: of a prompt, and how often it stood before.

    So what is drawn for a prompt does not depend on its neighbours or its place among them, and
    yet the same prompt asked for five times is answered in five ways.
    """
    seen: Counter[tuple[int, ...]] = Counter()
    names = []
    for prompt in map(tuple, prompts):
        names.append(content_id(["stream", list(prompt), seen[prompt]]))
        seen[prompt] += 1
    return names


class Grammar(Protocol):
    """What an answer may go on with, as it is being written."""

    def allows(self, token: int) -> bool:
        """Whether the answer may go on with this token, or end with it."""
        ...

    def masked(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n_vocab,) logits with minus infinity for each token that is not allowed."""
        ...

    def accept(self, token: int) -> None:
        """Go on with a token that is allowed and ends nothing."""
        ...

    def close(self) -> None:
        """Free it; closing twice is harmless."""
        ...


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

    def grammar(self, schema: str) -> Grammar | None:
        """The grammar of a JSON schema; None if this tokenizer has no grammars."""
        ...


class Writer:
    """Writes one answer, a token at a time."""

    def __init__(self, how: Sampling, stream: str, tokenizer: Tokenizer) -> None:
        """Begin an answer.

        Args:
            how: longest answer, temperature, seed, stop texts, schema.
            stream: with the seed it names the stream of random numbers; see `streams`.
            tokenizer: what tokens mean.
        """
        self._how = how
        self._random = generator(how.seed, "generate", stream)
        self._tokenizer = tokenizer
        self._grammar = tokenizer.grammar(how.schema) if how.schema else None
        self._stops = [text.encode() for text in how.stop if text]
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._ends: list[int] = []
        self._bytes = b""
        self.n_drawn = 0
        self.n_prompt = 0
        self.seconds = 0.0
        self._reason: Literal["end", "stop", "length"] | None = (
            None if how.max_tokens > 0 else "length"
        )

    @property
    def done(self) -> bool:
        """Whether the answer is complete."""
        return self._reason is not None

    @property
    def n_tokens(self) -> int:
        """Tokens written so far."""
        return len(self._tokens)

    def write(self, logits: NDArray[np.float32]) -> int:
        """Draw the next token from (n_vocab,) logits; it may be the one that ends the answer."""
        self.n_drawn += 1
        token = self._draw(logits)
        if self._grammar and not self._grammar.allows(token):
            # Nearly always the first draw is allowed, and looking at one token costs nothing.
            token = self._draw(self._grammar.masked(logits))
        if self._tokenizer.is_end(token):
            self._reason = "end"
            return token
        if self._grammar:
            self._grammar.accept(token)
        self._logprobs.append(float(picked(logits[None], np.array([token]))[0]))
        self._tokens.append(token)
        self._bytes += self._tokenizer.piece(token)
        self._ends.append(len(self._bytes))
        if self._find_stop() is not None:
            self._reason = "stop"
        elif len(self._tokens) == self._how.max_tokens:
            self._reason = "length"
        return token

    def result(self) -> Generation:
        """The answer: what stands before a stop text, and the tokens that cover it."""
        stop = self._find_stop()
        end = len(self._bytes) if stop is None else stop
        n = len(self._tokens)
        while stop is not None and n and (self._ends[n - 2] if n > 1 else 0) >= end:
            n -= 1
        return Generation(
            text=self._bytes[:end].decode("utf-8", "replace"),
            token_ids=tuple(self._tokens[:n]),
            logprob=float(sum(self._logprobs[:n])),
            stop=self._reason or "length",
            usage=Usage(self.n_prompt, self.n_drawn, self.seconds),
        )

    def close(self) -> None:
        """Free the grammar; closing twice is harmless."""
        if self._grammar:
            self._grammar.close()

    def _draw(self, logits: NDArray[np.float32]) -> int:
        if not logits.max() > -np.inf:
            raise EngineFailure("no token may come next")
        if self._how.temperature <= 0:
            return int(logits.argmax())
        weights = np.exp((logits - logits.max()) / np.float32(self._how.temperature))
        return place_in(weights, self._random.random())

    def _find_stop(self) -> int | None:
        places = [place for text in self._stops if (place := self._bytes.find(text)) >= 0]
        return min(places, default=None)
