"""One answer while it is being written: draw a token, know when to stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lite_interp.ids import generator
from lite_interp.records import Generation, Sampling


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


class Writer:
    """Writes one answer, a token at a time."""

    def __init__(
        self,
        how: Sampling,
        index: int,
        is_end: Callable[[int], bool],
        piece: Callable[[int], bytes],
    ) -> None:
        """Begin an answer.

        Args:
            how: longest answer, temperature, seed, stop texts.
            index: number of the prompt; with the seed it names the stream of random numbers.
            is_end: whether a token ends an answer.
            piece: the bytes that a token stands for.
        """
        self._how = how
        self._random = generator(how.seed, "generate", index)
        self._is_end = is_end
        self._piece = piece
        self._stops = [text.encode() for text in how.stop if text]
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._ends: list[int] = []
        self._bytes = b""
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
        token = self._draw(logits)
        if self._is_end(token):
            self._reason = "end"
            return token
        self._logprobs.append(float(picked(logits[None], np.array([token]))[0]))
        self._tokens.append(token)
        self._bytes += self._piece(token)
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
        )

    def _draw(self, logits: NDArray[np.float32]) -> int:
        if self._how.temperature <= 0:
            return int(logits.argmax())
        scaled = logits.astype(np.float64) / self._how.temperature
        weights = np.exp(scaled - scaled.max()).cumsum()
        return int(np.searchsorted(weights, self._random.random() * weights[-1], side="right"))

    def _find_stop(self) -> int | None:
        places = [place for text in self._stops if (place := self._bytes.find(text)) >= 0]
        return min(places, default=None)
