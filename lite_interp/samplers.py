"""Windows of one latent to the example set that explainers and scorers see.

    firings ─▶ scored     evenly over the ten rank deciles of activation; silent ones in strata
            ─▶ shown      by a sampler, from the activating windows that are left
            ─▶ held out   from what is left then, activating and silent

All are parts of one partition of the corpus (`windows.Grid`), so they never share a token, and of
windows with the same tokens only the strongest can be drawn, so they never share a text either.
Each draw has random numbers of its own: whatever is shown and held out, by whatever sampler, the
same windows are scored. So two samplers can be compared window by window.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lite_interp import negatives
from lite_interp.errors import UsageError, nearest, one_line
from lite_interp.ids import content_id, generator
from lite_interp.records import ExampleSet, Firings, Placed, Window
from lite_interp.reservoir import Kept, inside
from lite_interp.windows import Active, Grid, active_windows, make_window, window_values

N_DECILES = 10

ReadTexts = Callable[[NDArray[np.int32]], tuple[str, ...]]
"""Texts of single tokens (w,) that join to the text of the window."""
Ranks = NDArray[np.int64]
"""Places in the activating windows of a latent, strongest first."""
Sampler = Callable[[Ranks, Ranks, int, np.random.Generator], Ranks]
"""Ranks that are left, those of them that stand for all windows, how many are wanted, randomness →
the ranks (n,) that are shown. Both are the same where all firings are kept."""


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
    """Silent windows to score that lie near to the activating ones that are scored."""
    embedder_id: str = ""
    """Content id of the embedder that says what is near; empty if no near window is wanted."""
    n_held_out: int = 0
    """Windows held out for explainers that try their explanations, of each kind."""


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
    kept: Callable[[int], Kept] | None = None
    """A latent → what is known of its windows, where a reservoir was kept; None = all are known."""

    def tokens(self, number: int) -> NDArray[np.int32]:
        """(w,) token ids of a window."""
        context, start, length = self.grid.place(number)
        return self.token_ids[context, start : start + length]

    def text_bytes(self, number: int) -> bytes:
        """The same as bytes: equal for windows with the same tokens."""
        return self.tokens(number).tobytes()


def window_texts(source: Source, numbers: Iterable[int]) -> Iterator[str]:
    """The texts of windows, as people, engines and embedders read them."""
    return ("".join(source.texts(source.tokens(number))) for number in numbers)


def example_set_id(cache_id: str, latent: int, settings: DrawSettings, seed: int) -> str:
    """Name of an example set: cache, latent, settings and seed."""
    return content_id(["example_set", cache_id, latent, asdict(settings), seed])


def draw_example_set(
    source: Source, latent: int, firings: Firings, settings: DrawSettings, seed: int
) -> ExampleSet:
    """Draw the windows of one latent. Same arguments, same set.

    A latent with few windows keeps up to half of them for scoring and shows the rest; what is
    there may be less than what was asked for, or nothing.
    """
    _check_sources(source, settings)

    def random(purpose: str) -> np.random.Generator:
        return generator(seed, latent, "example_set", purpose)

    every = active_windows(source.grid, firings)
    active, texts = _distinct(every, source)
    kept = _kept(source, latent, every)
    usual = inside(firings, source.grid, kept.sample) if source.kept else firings
    ranks = np.flatnonzero(np.isin(active.numbers, kept.sample))
    deciles = _deciles(ranks, len(active.numbers))
    scored, shown, held_out = _draw_active(len(active.numbers), ranks, settings, random)
    silent = np.setdiff1d(kept.common, every.numbers)
    cuts = _cuts(source, latent, usual, active.numbers[scored], settings)
    quiet = negatives.draw_silent(
        negatives.part(silent, cuts), _wanted(settings), source.text_bytes, texts, random("silent")
    )
    texts |= {source.text_bytes(each.number) for each in quiet}
    tried = []
    if settings.n_held_out:
        cut = negatives.same_token(source.token_ids, source.grid, usual)
        draw = random("held_out_silent")
        tried = _draw_look_alikes(source, cut, silent, settings.n_held_out, texts, draw)

    def window(number: int) -> Window:
        return numbered_window(source, latent, number, firings)

    def placed(chosen: NDArray[np.int64]) -> list[Placed]:
        weights = _weights(deciles, ranks, chosen, kept.n_windows)
        return [
            Placed(window(int(active.numbers[rank])), f"decile_{deciles[rank]}", float(weight))
            for rank, weight in zip(chosen, weights, strict=True)
        ]

    def silently(drawn: Iterable[negatives.Drawn]) -> list[Placed]:
        # Those of which nothing was kept are stood for by those that are known to be silent.
        times = (source.grid.n_windows - kept.n_windows) / max(1, len(silent))
        return [Placed(window(each.number), each.stratum, each.weight * times) for each in drawn]

    return ExampleSet(
        example_set_id(source.cache_id, latent, settings, seed),
        latent,
        settings.sampler,
        asdict(settings),
        seed,
        tuple(placed(shown)),
        tuple(placed(scored) + silently(quiet)),
        tuple(placed(held_out) + silently(tried)),
    )


def _draw_active(
    n: int, ranks: Ranks, settings: DrawSettings, random: Callable[[str], np.random.Generator]
) -> tuple[Ranks, Ranks, Ranks]:
    """Ranks to score, to show and to hold out, of n of which some stand for all windows."""
    sampler = find_sampler(settings.sampler)
    scored = quantiles(ranks, ranks, min(settings.n_active, len(ranks) // 2), random("scored"))
    left = np.setdiff1d(ranks, scored)
    among = np.setdiff1d(np.arange(n), scored)
    shown = sampler(among, left, min(settings.n_shown, len(left)), random("shown"))
    left = np.setdiff1d(left, shown)
    held_out = quantiles(left, left, min(settings.n_held_out, len(left)), random("held_out"))
    return scored, shown, held_out


def _kept(source: Source, latent: int, every: Active) -> Kept:
    """What is known of a latent's windows: all of them, unless a reservoir was kept."""
    if source.kept:
        return source.kept(latent)
    n_windows = len(every.numbers)
    return Kept(n_windows, np.sort(every.numbers), np.arange(source.grid.n_windows))


def _weights(deciles: NDArray[np.int64], ranks: Ranks, chosen: Ranks, n_windows: int) -> Any:
    """(n,) activating windows that each chosen one of the ranks stands for.

    Windows with equal tokens count, as they do among silent ones.
    """
    drawn = np.bincount(deciles[chosen], minlength=N_DECILES)
    there = np.bincount(deciles[ranks], minlength=N_DECILES) * (n_windows / max(1, len(ranks)))
    # Deciles of which none was drawn are stood for by the others.
    there *= there.sum() / max(1.0, there[drawn > 0].sum())
    return there[deciles[chosen]] / drawn[deciles[chosen]]


def _draw_look_alikes(
    source: Source,
    cut: negatives.Cut,
    silent: NDArray[np.int64],
    n: int,
    taken: Iterable[bytes],
    random: np.random.Generator,
) -> list[negatives.Drawn]:
    """Draw n silent windows to hold out: up to half hold a main token, as the cut says."""
    strata = negatives.part(silent, {"same_token": cut})
    wanted = {"same_token": n // 2, "random": n}
    drawn = negatives.draw_silent(strata, wanted, source.text_bytes, taken, random)[:n]
    # Those that were drawn too many leave more for the others to stand for.
    kept = Counter(each.stratum for each in drawn)
    return [each._replace(weight=len(strata[each.stratum]) / kept[each.stratum]) for each in drawn]


def top(ranks: Ranks, sample: Ranks, n: int, random: np.random.Generator) -> Ranks:
    """The n strongest. What most tools show; it hides what weaker activations mean."""
    return ranks[:n]


def at_random(ranks: Ranks, sample: Ranks, n: int, random: np.random.Generator) -> Ranks:
    """Any n, each as likely as the others."""
    return np.sort(random.choice(sample, n, replace=False)) if n else sample[:0]


def quantiles(ranks: Ranks, sample: Ranks, n: int, random: np.random.Generator) -> Ranks:
    """N windows spread over ten equal parts of the ranks, at random within a part.

    Parts differ by at most one window; which parts get one more is drawn too.
    """
    parts = np.array_split(sample, N_DECILES)
    sizes = np.array([len(part) for part in parts])
    quotas = np.minimum(sizes, n // N_DECILES)
    while quotas.sum() < n:
        open_parts = np.flatnonzero(quotas < sizes)
        extra = random.permutation(open_parts)[: n - quotas.sum()]
        quotas[extra] += 1
    chosen = [random.choice(part, k, replace=False) for part, k in zip(parts, quotas, strict=True)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def mix(ranks: Ranks, sample: Ranks, n: int, random: np.random.Generator) -> Ranks:
    """Half the strongest, the rest spread over what is left: what it means at most, and else."""
    strongest = top(ranks, sample, (n + 1) // 2, random)
    left = np.setdiff1d(sample, strongest)
    spread = quantiles(left, left, min(len(left), n - len(strongest)), random)
    return np.sort(np.concatenate([strongest, spread]))


SAMPLERS = {"quantiles": quantiles, "top": top, "random": at_random, "mix": mix}


def find_sampler(name: str) -> Sampler:
    """A sampler by name, or a one-line error with what was perhaps meant."""
    if name not in SAMPLERS:
        raise UsageError(f"no sampler is named: {one_line(name)}", nearest(name, SAMPLERS))
    return SAMPLERS[name]


def _deciles(ranks: Ranks, n: int) -> NDArray[np.int64]:
    """(n,) decile of each window by rank: 0 the strongest tenth, 9 the weakest.

    Where ranks (m,) are a sample of all, the deciles are the sample's; a window between two of it
    has that of the weaker.
    """
    sizes = [len(part) for part in np.array_split(ranks, N_DECILES)]
    of_sample = np.repeat(np.arange(N_DECILES), sizes)
    places = np.searchsorted(ranks, np.arange(n))
    return of_sample[np.minimum(places, len(ranks) - 1)] if len(ranks) else np.zeros(n, np.int64)


def _distinct(active: Active, source: Source) -> tuple[Active, set[bytes]]:
    """Of windows with the same tokens only the strongest; and the tokens of all that are left."""
    seen: set[bytes] = set()
    keep = []
    for rank, number in enumerate(active.numbers):
        tokens = source.text_bytes(int(number))
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
    scored: NDArray[np.int64],
    settings: DrawSettings,
) -> dict[str, negatives.Cut]:
    """The strata that are cut out of the silent windows before `random`, in order."""
    cuts: dict[str, negatives.Cut] = {}
    if settings.n_same_token:
        cuts["same_token"] = negatives.same_token(source.token_ids, source.grid, firings)
    if settings.n_sibling and source.siblings:
        cuts["sibling"] = negatives.sibling(source.grid, source.siblings(latent))
    if settings.n_near and source.near:
        cuts["near"] = negatives.near(source.near, scored)
    return cuts


def numbered_window(source: Source, latent: int, number: int, firings: Firings) -> Window:
    """A window of a latent by its number in the grid."""
    place = source.grid.place(number)
    texts = source.texts(source.tokens(number))
    return make_window(source.cache_id, latent, place, texts, window_values(place, firings))
