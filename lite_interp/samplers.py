"""Windows of one latent to the example set that explainers and scorers see.

The windows to score are drawn first, evenly over the ten rank deciles of activation; the
windows to show are drawn by a sampler from those that are left. Both are parts of one
partition of the corpus (`windows.Grid`), so they never share a token, and of windows with the
same tokens only the strongest can be drawn, so they never share a text either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from lite_interp.errors import UsageError, nearest, one_line
from lite_interp.ids import content_id, generator
from lite_interp.records import ExampleSet, Firings, Place, Placed
from lite_interp.windows import Active, Grid, active_windows, make_window, window_values

N_DECILES = 10

ReadTokens = Callable[[Place], NDArray[np.int32]]
"""Token ids (w,) of a window."""
ReadTexts = Callable[[NDArray[np.int32]], tuple[str, ...]]
"""Texts of single tokens (w,) that join to the text of the window."""
Sampler = Callable[[NDArray[np.int64], int, np.random.Generator], NDArray[np.int64]]
"""Ranks that are left, how many are wanted, randomness → the ranks (n,) that are shown."""


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """How an example set is drawn."""

    width: int = 32
    """Tokens in a window."""
    sampler: str = "quantiles"
    """How the shown windows are chosen: a name in SAMPLERS."""
    n_shown: int = 20
    """Windows for the explainer."""
    n_active: int = 50
    """Activating windows to score, evenly over the deciles."""
    n_silent: int = 50
    """Random silent windows to score."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What a draw reads from."""

    cache_id: str
    """The cache."""
    grid: Grid
    """The windows of its corpus."""
    tokens: ReadTokens
    """Token ids of a window."""
    texts: ReadTexts
    """Texts of its tokens."""


def example_set_id(cache_id: str, latent: int, settings: DrawSettings, seed: int) -> str:
    """Name of an example set: cache, latent, settings and seed."""
    return content_id(["example_set", cache_id, latent, asdict(settings), seed])


def draw_example_set(
    source: Source, latent: int, firings: Firings, settings: DrawSettings, seed: int
) -> ExampleSet:
    """Draw the shown and scored windows of one latent. Same arguments, same set.

    A latent with few windows keeps up to half of them for scoring and shows the rest; what is
    there may be less than what was asked for, or nothing.
    """
    sampler = find_sampler(settings.sampler)
    random = generator(seed, latent, "example_set")
    every = active_windows(source.grid, firings)
    active, texts = _distinct(every, source)
    deciles = _deciles(len(active.numbers))
    scored = quantiles(np.arange(len(deciles)), min(settings.n_active, len(deciles) // 2), random)
    left = np.setdiff1d(np.arange(len(deciles)), scored)
    shown = sampler(left, min(settings.n_shown, len(left)), random)
    silent, n_silent = _silent(source, every, texts, settings.n_silent, random)

    def placed(ranks: NDArray[np.int64]) -> list[Placed]:
        drawn = np.bincount(deciles[ranks], minlength=N_DECILES)
        # Windows with equal tokens count, as they do among silent ones.
        alike = len(every.numbers) / max(1, len(active.numbers))
        there = np.bincount(deciles, minlength=N_DECILES) * alike
        return [
            Placed(
                _window(source, latent, int(active.numbers[rank]), firings),
                f"decile_{deciles[rank]}",
                float(there[deciles[rank]] / drawn[deciles[rank]]),
            )
            for rank in ranks
        ]

    negatives = [
        Placed(_window(source, latent, number, firings), "random", n_silent / len(silent))
        for number in silent
    ]
    return ExampleSet(
        example_set_id(source.cache_id, latent, settings, seed),
        latent,
        settings.sampler,
        asdict(settings),
        seed,
        tuple(placed(shown)),
        tuple(placed(scored) + negatives),
    )


def top(ranks: NDArray[np.int64], n: int, random: np.random.Generator) -> NDArray[np.int64]:
    """The n strongest. What most tools show; it hides what weaker activations mean."""
    return ranks[:n]


def at_random(ranks: NDArray[np.int64], n: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Any n, each as likely as the others."""
    return np.sort(random.choice(ranks, n, replace=False)) if n else ranks[:0]


def quantiles(ranks: NDArray[np.int64], n: int, random: np.random.Generator) -> NDArray[np.int64]:
    """N windows spread over ten equal parts of the ranks, at random within a part.

    Parts differ by at most one window; which parts get one more is drawn too.
    """
    parts = np.array_split(ranks, N_DECILES)
    sizes = np.array([len(part) for part in parts])
    quotas = np.minimum(sizes, n // N_DECILES)
    while quotas.sum() < n:
        open_parts = np.flatnonzero(quotas < sizes)
        extra = random.permutation(open_parts)[: n - quotas.sum()]
        quotas[extra] += 1
    chosen = [random.choice(part, k, replace=False) for part, k in zip(parts, quotas, strict=True)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


SAMPLERS = {"quantiles": quantiles, "top": top, "random": at_random}


def find_sampler(name: str) -> Sampler:
    """A sampler by name, or a one-line error with what was perhaps meant."""
    if name not in SAMPLERS:
        raise UsageError(f"no sampler is named: {one_line(name)}", nearest(name, SAMPLERS))
    return SAMPLERS[name]


def _deciles(n: int) -> NDArray[np.int64]:
    """(n,) decile of each rank: 0 the strongest tenth, 9 the weakest."""
    sizes = [len(part) for part in np.array_split(np.arange(n), N_DECILES)]
    return np.repeat(np.arange(N_DECILES), sizes)


def _distinct(active: Active, source: Source) -> tuple[Active, set[bytes]]:
    """Of windows with the same tokens only the strongest; and the tokens of all that are left."""
    seen: set[bytes] = set()
    keep = []
    for rank, number in enumerate(active.numbers):
        tokens = source.tokens(source.grid.place(int(number))).tobytes()
        if tokens not in seen:
            seen.add(tokens)
            keep.append(rank)
    return Active(active.numbers[keep], active.peaks[keep]), seen


def _silent(
    source: Source, active: Active, texts: set[bytes], n: int, random: np.random.Generator
) -> tuple[list[int], int]:
    """Numbers of up to n silent windows with texts of their own, and how many are silent."""
    pool = np.setdiff1d(np.arange(source.grid.n_windows), active.numbers)
    seen, chosen = set(texts), []
    for number in random.permutation(pool):
        if len(chosen) == n:
            break
        tokens = source.tokens(source.grid.place(int(number))).tobytes()
        if tokens not in seen:
            seen.add(tokens)
            chosen.append(int(number))
    return chosen, len(pool)


def _window(source: Source, latent: int, number: int, firings: Firings):
    place = source.grid.place(number)
    texts = source.texts(source.tokens(place))
    return make_window(source.cache_id, latent, place, texts, window_values(place, firings))
