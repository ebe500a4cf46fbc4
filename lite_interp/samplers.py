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

import numpy as np
from numpy.typing import NDArray

from lite_interp import negatives
from lite_interp.errors import UsageError, nearest, one_line
from lite_interp.ids import content_id, generator
from lite_interp.records import ExampleSet, Firings, Placed, Window
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
    sampler = find_sampler(settings.sampler)
    _check_sources(source, settings)

    def random(purpose: str) -> np.random.Generator:
        return generator(seed, latent, "example_set", purpose)

    every = active_windows(source.grid, firings)
    active, texts = _distinct(every, source)
    ranks, deciles = np.arange(len(active.numbers)), _deciles(len(active.numbers))
    scored = quantiles(ranks, min(settings.n_active, len(ranks) // 2), random("scored"))
    left = np.setdiff1d(ranks, scored)
    shown = sampler(left, min(settings.n_shown, len(left)), random("shown"))
    left = np.setdiff1d(left, shown)
    held_out = quantiles(left, min(settings.n_held_out, len(left)), random("held_out"))
    silent = np.setdiff1d(np.arange(source.grid.n_windows), every.numbers)
    cuts = _cuts(source, latent, firings, active.numbers[scored], settings)
    quiet = negatives.draw_silent(
        negatives.part(silent, cuts), _wanted(settings), source.text_bytes, texts, random("silent")
    )
    texts |= {source.text_bytes(each.number) for each in quiet}
    tried = []
    if settings.n_held_out:
        cut = negatives.same_token(source.token_ids, source.grid, firings)
        draw = random("held_out_silent")
        tried = _draw_look_alikes(source, cut, silent, settings.n_held_out, texts, draw)

    def window(number: int) -> Window:
        return _window(source, latent, number, firings)

    def placed(chosen: NDArray[np.int64]) -> list[Placed]:
        weights = _weights(deciles, chosen, len(every.numbers))
        return [
            Placed(window(int(active.numbers[rank])), f"decile_{deciles[rank]}", float(weight))
            for rank, weight in zip(chosen, weights, strict=True)
        ]

    def silently(drawn: Iterable[negatives.Drawn]) -> list[Placed]:
        return [Placed(window(each.number), each.stratum, each.weight) for each in drawn]

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


def _weights(
    deciles: NDArray[np.int64], chosen: NDArray[np.int64], n_windows: int
) -> NDArray[np.float64]:
    """(n,) activating windows that each chosen one of (m,) ranks stands for.

    Windows with equal tokens count, as they do among silent ones.
    """
    drawn = np.bincount(deciles[chosen], minlength=N_DECILES)
    there = np.bincount(deciles, minlength=N_DECILES) * (n_windows / max(1, len(deciles)))
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


def mix(ranks: NDArray[np.int64], n: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Half the strongest, the rest spread over what is left: what it means at most, and else."""
    strongest = top(ranks, (n + 1) // 2, random)
    spread = quantiles(np.setdiff1d(ranks, strongest), n - len(strongest), random)
    return np.sort(np.concatenate([strongest, spread]))


SAMPLERS = {"quantiles": quantiles, "top": top, "random": at_random, "mix": mix}


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


def _window(source: Source, latent: int, number: int, firings: Firings):
    place = source.grid.place(number)
    texts = source.texts(source.tokens(number))
    return make_window(source.cache_id, latent, place, texts, window_values(place, firings))
