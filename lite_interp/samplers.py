"""Windows of one latent to the example set that explainers and scorers see.

The windows to score are drawn first, evenly over the ten rank deciles of activation; the
windows to show are drawn by a sampler from those that are left. Both are parts of one
partition of the corpus (`windows.Grid`), so they never share a token, and of windows with the
same tokens only the strongest can be drawn, so they never share a text either. Silent windows to
score come last, from strata that `negatives` cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from lite_interp import negatives
from lite_interp.errors import UsageError, nearest, one_line
from lite_interp.ids import content_id, generator
from lite_interp.records import ExampleSet, Firings, Placed
from lite_interp.windows import Active, Grid, active_windows, make_window, window_values

N_DECILES = 10

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
    """Silent windows to score from stratum `random`: from all, where nothing else is wanted."""
    n_same_token: int = 0
    """Silent windows to score that hold a main token of the latent."""
    n_sibling: int = 0
    """Silent windows to score in which a similar latent fires."""
    n_near: int = 0
    """Silent windows to score that lie near to the shown ones."""
    embedder_id: str = ""
    """Content id of the embedder that says what is near; empty if no near window is wanted."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What a draw reads from."""

    cache_id: str
    """The cache."""
    grid: Grid
    """The windows of its corpus."""
    token_ids: NDArray[np.int32]
    """(n_contexts, n_ctx) token ids; what lies behind a context's length does not count."""
    texts: ReadTexts
    """Texts of the tokens of a window."""
    siblings: negatives.Siblings | None = None
    """Firings of the latents that are like one; None = nobody knows which these are."""
    near: negatives.Near | None = None
    """The windows nearest to some; None = there is no index of windows."""

    def tokens(self, number: int) -> NDArray[np.int32]:
        """(w,) token ids of a window."""
        context, start, length = self.grid.place(number)
        return self.token_ids[context, start : start + length]


def window_texts(source: Source, numbers: Iterable[int]) -> Iterator[str]:
    """The texts of windows, as people, engines and embedders read them."""
    return ("".join(source.texts(source.tokens(number))) for number in numbers)


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
    _check_sources(source, settings)
    random = generator(seed, latent, "example_set")
    every = active_windows(source.grid, firings)
    active, texts = _distinct(every, source)
    deciles = _deciles(len(active.numbers))
    scored = quantiles(np.arange(len(deciles)), min(settings.n_active, len(deciles) // 2), random)
    left = np.setdiff1d(np.arange(len(deciles)), scored)
    shown = sampler(left, min(settings.n_shown, len(left)), random)
    cuts = _cuts(source, latent, firings, active.numbers[shown], settings)
    silent = np.setdiff1d(np.arange(source.grid.n_windows), every.numbers)
    drawn_silent = negatives.draw_silent(
        negatives.part(silent, cuts),
        _wanted(settings),
        lambda number: source.tokens(number).tobytes(),
        texts,
        random,
    )

    def placed(ranks: NDArray[np.int64]) -> list[Placed]:
        drawn = np.bincount(deciles[ranks], minlength=N_DECILES)
        # Windows with equal tokens count, as they do among silent ones.
        alike = len(every.numbers) / max(1, len(active.numbers))
        there = np.bincount(deciles, minlength=N_DECILES) * alike
        # Deciles of which none was drawn are stood for by the others.
        there *= there.sum() / max(1.0, there[drawn > 0].sum())
        return [
            Placed(
                _window(source, latent, int(active.numbers[rank]), firings),
                f"decile_{deciles[rank]}",
                float(there[deciles[rank]] / drawn[deciles[rank]]),
            )
            for rank in ranks
        ]

    quiet = [
        Placed(_window(source, latent, number, firings), stratum, weight)
        for number, stratum, weight in drawn_silent
    ]
    return ExampleSet(
        example_set_id(source.cache_id, latent, settings, seed),
        latent,
        settings.sampler,
        asdict(settings),
        seed,
        tuple(placed(shown)),
        tuple(placed(scored) + quiet),
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
        tokens = source.tokens(int(number)).tobytes()
        if tokens not in seen:
            seen.add(tokens)
            keep.append(rank)
    return Active(active.numbers[keep], active.peaks[keep]), seen


def _wanted(settings: DrawSettings) -> dict[str, int]:
    """How many windows of each silent stratum are wanted."""
    return {
        "same_token": settings.n_same_token,
        "sibling": settings.n_sibling,
        "near": settings.n_near,
        "random": settings.n_silent,
    }


def _check_sources(source: Source, settings: DrawSettings) -> None:
    if settings.n_sibling and source.siblings is None:
        raise UsageError(
            "nobody knows which latents are siblings: the cache has no details of its latents",
            "`lite-interp cache` again adds them, or ask for no sibling windows",
        )
    if settings.n_near and (source.near is None or not settings.embedder_id):
        raise UsageError(
            "near windows are wanted, but there is no embedder to say what is near",
            "name one: --embedder",
        )


def _cuts(
    source: Source,
    latent: int,
    firings: Firings,
    shown: NDArray[np.int64],
    settings: DrawSettings,
) -> dict[str, negatives.Cut]:
    """The strata that are cut out of the silent windows before `random`, in order."""
    cuts: dict[str, negatives.Cut] = {}
    if settings.n_same_token:
        cuts["same_token"] = negatives.same_token(source.token_ids, source.grid, firings)
    if settings.n_sibling and source.siblings:
        cuts["sibling"] = negatives.sibling(source.grid, source.siblings(latent))
    if settings.n_near and source.near:
        cuts["near"] = negatives.near(source.near, shown)
    return cuts


def _window(source: Source, latent: int, number: int, firings: Firings):
    place = source.grid.place(number)
    texts = source.texts(source.tokens(number))
    return make_window(source.cache_id, latent, place, texts, window_values(place, firings))
