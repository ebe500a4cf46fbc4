"""Contexts cut into windows, and firings into the windows they activate.

The windows of a corpus are a partition: every context is cut into runs of `width` tokens from
its start, whatever the latent. So a latent's peak may stand anywhere in a window, two windows
never share a token, and the share of windows that a sample stands for is known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.ids import content_id
from lite_interp.records import Firings, Place, Window


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """All windows of a corpus, numbered from 0 in the order of contexts and positions."""

    width: int
    """Tokens in a window; the last one of a context may be as short as half of it."""
    lengths: NDArray[np.int32]
    """(n_contexts,) tokens in each context."""
    firsts: NDArray[np.int64]
    """(n_contexts + 1,) number of the first window of each context; last: all windows."""

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return int(self.firsts[-1])

    def place(self, number: int) -> Place:
        """Where a window stands."""
        context = int(np.searchsorted(self.firsts, number, side="right")) - 1
        start = (number - int(self.firsts[context])) * self.width
        return Place(context, start, min(self.width, int(self.lengths[context]) - start))

    def numbers(
        self, contexts: NDArray[np.int32], positions: NDArray[np.int32]
    ) -> NDArray[np.int64]:
        """(n,) number of the window that holds each position; -1 in a tail that has none."""
        numbers = self.firsts[contexts] + positions // self.width
        return np.where(numbers < self.firsts[contexts + 1], numbers, -1)


def make_grid(lengths: NDArray[np.int32], width: int) -> Grid:
    """The windows of a corpus. A tail shorter than half a window belongs to none."""
    full, tail = np.divmod(lengths.astype(np.int64), width)
    counts = full + (tail >= max(1, width // 2))
    return Grid(width, lengths, np.concatenate([[0], np.cumsum(counts)]))


class Active(NamedTuple):
    """The windows in which a latent fires, strongest first; equal peaks in order of number."""

    numbers: NDArray[np.int64]
    """(m,) numbers of windows."""
    peaks: NDArray[np.float32]
    """(m,) greatest activation in each."""


def active_windows(grid: Grid, firings: Firings) -> Active:
    """The windows in which a latent fires at least once."""
    numbers = grid.numbers(firings.contexts, firings.positions)
    inside = numbers >= 0
    distinct, inverse = np.unique(numbers[inside], return_inverse=True)
    peaks = np.zeros(len(distinct), np.float32)
    np.maximum.at(peaks, inverse, firings.values[inside])
    order = np.lexsort((distinct, -peaks))
    return Active(distinct[order], peaks[order])


def window_values(place: Place, firings: Firings) -> NDArray[np.float32]:
    """(w,) activations of a latent in a window, 0 where it is silent."""
    low = np.searchsorted(firings.contexts, place.context, side="left")
    high = np.searchsorted(firings.contexts, place.context, side="right")
    offsets = firings.positions[low:high] - place.start
    inside = (offsets >= 0) & (offsets < place.length)
    values = np.zeros(place.length, np.float32)
    values[offsets[inside]] = firings.values[low:high][inside]
    return values


def make_window(
    cache_id: str, latent: int, place: Place, tokens: tuple[str, ...], values: NDArray[np.float32]
) -> Window:
    """A window with its text and its name."""
    name = content_id([cache_id, latent, *place])
    return Window(name, latent, place.context, place.start, tokens, values)
