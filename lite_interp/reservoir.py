"""What is left of a latent's firings where all of them would be too many.

    top      the windows in which it fires most
    sample   windows drawn from all in which it fires, each as likely
    common   windows drawn from the whole corpus, the same for every latent, in which each of its
             firings is kept: so a silent window is known to be silent

Everything that counts firings is computed before the rest is dropped, so statistics are those of
all firings. Windows are drawn by a hash of their number: those with the least are the sample. So
it does not depend on the order in which shards were read, and it can be found again among what
was kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.records import Firings
from lite_interp.windows import Grid, active_windows

WIDTH = 32
"""Tokens in a window that is kept."""
N_TOP = 64
"""Windows in which a latent fires most."""
N_SAMPLE = 256
"""Windows of the sample: to show, to score and to hold out, of all strengths."""
N_COMMON = 1 << 14
"""Windows that are common to all latents: half a million tokens."""


class Kept(NamedTuple):
    """What a draw must know beside the firings that were kept."""

    n_windows: int
    """Windows in which the latent fires, kept or not."""
    sample: NDArray[np.int64]
    """(m,) numbers of the windows drawn from them, rising."""
    common: NDArray[np.int64]
    """(c,) numbers of the windows in which all its firings are known, rising."""


def thin(
    firings: Firings, grid: Grid, latent: int, common: NDArray[np.int64]
) -> tuple[Firings, int]:
    """The firings that are kept, and in how many windows the latent fires.

    Args:
        firings: all firings of the latent.
        grid: windows of `WIDTH` tokens.
        latent: index of the latent.
        common: what `common_windows` gives.
    """
    active = active_windows(grid, firings)
    drawn = sample(active.numbers, latent)
    wanted = np.concatenate([active.numbers[:N_TOP], drawn, common])
    return inside(firings, grid, wanted), len(active.numbers)


def inside(firings: Firings, grid: Grid, numbers: NDArray[np.int64]) -> Firings:
    """The firings that stand in some windows."""
    kept = np.isin(grid.numbers(firings.contexts, firings.positions), numbers)
    return Firings(firings.contexts[kept], firings.positions[kept], firings.values[kept])


def sample(numbers: NDArray[np.int64], latent: int, n: int = N_SAMPLE) -> NDArray[np.int64]:
    """Of the windows in which a latent fires the n with the least hash, rising.

    The same for all of them as for any part of them that holds those n.
    """
    return np.sort(_least(numbers, latent + 1, n))


def common_windows(n_windows: int, n: int = N_COMMON) -> NDArray[np.int64]:
    """Numbers of the windows that are common to all latents, rising."""
    return np.sort(_least(np.arange(n_windows), 0, n))


def _least(numbers: NDArray[np.int64], stream: int, n: int) -> NDArray[np.int64]:
    if len(numbers) <= n:
        return numbers
    hashes = _hashes(numbers, stream)
    # Equal hashes are as good as impossible; the number decides then.
    return numbers[np.lexsort((numbers, hashes))[:n]]


def _hashes(numbers: NDArray[np.int64], stream: int) -> NDArray[np.uint64]:
    """(n,) pseudo-random numbers, one for each number and stream.

    The finisher of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), once over the stream and once
    over the number: numpy draws sequences only, and this must be the same for any part of them.
    """
    mixed = _mix(np.array([stream], np.uint64))
    return _mix(numbers.astype(np.uint64) + mixed)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
