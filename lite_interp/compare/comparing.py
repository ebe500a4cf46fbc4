"""Two arms: is one way to explain better, or one judge kinder, and for which latents?

    arm A, arm B ─same latent, same items─▶ A − B of each latent ─▶ mean over latents

For each way to score that both arms have, the verdicts of one latent are aligned item by item, and
only items that both have a value on count. So what an item is like falls out of the difference,
and of how uncertain it is. `relative` takes from both sides the mean of the *same* controls, other
latents' explanations on the same item: what a judge says of a window whatever the explanation is
then the same number on both sides, and an arm needs no controls of its own.

Pairing: `items` is meant above. `latents`: the same latent on other windows, drawn anew or of
another cache, is the difference of two scores. `none`: latents of different sparse coders are
not the same things, and only means are compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from lite_interp.compare import differences
from lite_interp.compare.arms import Arm
from lite_interp.compare.differences import NO_MEANS, Means
from lite_interp.compare.judged import Judged
from lite_interp.compare.matching import (
    NO_VARIANT,
    LatentDifference,
    Match,
    match,
    on_items,
    on_one,
    on_others,
    scores,
)
from lite_interp.errors import UsageError, nearest, one_line
from lite_interp.records import Score
from lite_interp.score import SCORERS
from lite_interp.stats import DECIMALS
from lite_interp.ways import Way, base, in_order, plainest, way_names

Pairing = Literal["items", "latents", "none"]

VARIANTS: dict[str, tuple[str, ...]] = {
    "auroc": ("raw", "relative", "per_token"),
    "pearson": ("raw",),
    "nats": ("raw", "per_token"),
}
"""Statistic → readings of its verdicts."""

LEAST_SHARED = 0.5
"""Share of the items, of the side that has fewer, that both must have been asked about. Where
draws overlap by accident, the few windows they share say less than all windows of each."""

FEW_LATENTS = "fewer than two latents with a number"
"""Why there is no mean to speak of."""


class StratumDifference(NamedTuple):
    """One stratum over latents."""

    name: str
    """`decile_0` … or the kind of a silent window; `decile_0_wrong` are wrong marks."""
    n_items: int
    """Items over all latents."""
    means: Means
    """Over the latents that have the stratum."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One way to score, in both arms, over latents."""

    scorer: str
    """Name of the way to score."""
    variant: str
    """`raw`, `relative`, `per_token`."""
    statistic: str
    """What the numbers are: `auroc`, `pearson`, `nats`."""
    ways: tuple[Way, Way]
    """The ways in which A and B were judged."""
    models: tuple[str, str]
    """Names of the engines or embedders that judged A and B."""
    pairing: Pairing
    """What is paired."""
    means: Means
    """A, B and A − B over latents, with p and the smallest difference that would have been seen."""
    n_items: int
    """Items that count, over these latents."""
    n_left_out: int
    """Items that do not, over these latents."""
    strata: tuple[StratumDifference, ...]
    """Each stratum against all items of the other side; empty for what is no area."""
    latents: tuple[LatentDifference, ...]
    """Every latent of an arm, those without a number too."""
    left_out: Mapping[str, int]
    """Reason → latents without a number."""
    reason: str | None
    """Why there is no comparison; None if there is one."""

    @property
    def found(self) -> bool:
        """Whether A and B are told apart, two-sided at .05."""
        return self.means.p_value < 0.05


def compare(
    judged: Judged, first: Arm, second: Arm, scorer: str = "", variant: str = ""
) -> list[Comparison]:
    """Compare two arms in every way to score that both have.

    Args:
        judged: the verdicts of the file; one for many comparisons reads everything once.
        first: A.
        second: B.
        scorer: only this scorer, or this way to score; empty = all.
        variant: only this reading of the verdicts; empty = all.

    If an arm names a judge, only verdicts of that engine or embedder count on its side; if both
    do, the two may differ, and scorer and settings are the same.

    Raises:
        UsageError: both were judged, but by no such scorer.
    """
    ways = _shared_ways(judged, first, second)
    names = _names_of(judged, first, second, ways)
    chosen = [name for name in in_order(names) if scorer in ("", name, base(name))]
    if scorer and names and not chosen:
        known = {*names, *map(base, names)}
        raise UsageError(f"no such scorer judged both: {one_line(scorer)}", nearest(scorer, known))
    found = []
    for name in chosen:
        both = _Both(judged, first, second, names[name])
        for reading in VARIANTS[both.statistic]:
            if variant in ("", reading):
                found.append(both.comparison(name, reading))
    return [each for each in found if each.means.n_first or NO_VARIANT not in each.left_out]


def most_changed(
    found: Comparison, n: int
) -> tuple[list[LatentDifference], list[LatentDifference]]:
    """Up to n latents for which A is greater, and up to n for which B is, the most first."""
    known = [
        (round(each.numbers.difference.value, DECIMALS), each)
        for each in found.latents
        if not math.isnan(each.numbers.difference.value)
    ]
    known.sort(key=lambda pair: (-abs(pair[0]), pair[1].latent))
    up = [each for value, each in known if value > 0]
    down = [each for value, each in known if value < 0]
    return up[:n], down[:n]


def _shared_ways(judged: Judged, first: Arm, second: Arm) -> list[tuple[Way, Way]]:
    """Ways of A and of B: same scorer, same settings, same model unless each names its judge."""
    both_named = first.judge and second.judge
    return [
        (way, other)
        for way in sorted(judged.ways(first), key=plainest)
        for other in sorted(judged.ways(second), key=plainest)
        if way[:2] == other[:2] and (both_named or way.model_id == other.model_id)
    ]


def _names_of(
    judged: Judged, first: Arm, second: Arm, shared: Sequence[tuple[Way, Way]]
) -> dict[str, tuple[Way, Way]]:
    """Name of a way to score → the way of A and that of B."""
    if any(way.model_id != other.model_id for way, other in shared):
        # Each has one judge, and scorer and settings tell the ways apart.
        plain = [way._replace(model_id="") for way, _ in shared]
        names = way_names(way._asdict() for way in plain)
        return {names[way]: both for way, both in zip(plain, shared, strict=True)}
    every = {way for arm in (first, second) for _, way in judged.groups(arm.cache_id)}
    names = way_names(way._asdict() for way in every)
    return {names[both[0]]: both for both in shared}


class _Both:
    """Two arms in one way to score: aligned once, read in each variant."""

    def __init__(self, judged: Judged, first: Arm, second: Arm, ways: tuple[Way, Way]) -> None:
        """Find the items that both judged, or the scores of each side."""
        self.judged, self.ways = judged, ways
        self.models = (_model(first, ways[0]), _model(second, ways[1]))
        self.statistic = SCORERS[ways[0].scorer].statistic
        self.sides = {
            latent: (
                judged.side("A", first, latent, ways[0]),
                judged.side("B", second, latent, ways[1]),
            )
            for latent in sorted(first.explanations.keys() | second.explanations.keys())
        }
        self._matches: dict[int, Match | None] = {}
        self._scores: dict[int, tuple[dict[str, Score], dict[str, Score]]] = {}
        self.pairing: Pairing = self._pair(first.coder_id == second.coder_id)

    def _pair(self, same_coder: bool) -> Pairing:
        if same_coder:
            matches = {latent: match(self.judged, *sides) for latent, sides in self.sides.items()}
            known = [found for found in matches.values() if found]
            n_shared = sum(found.n_shared for found in known)
            if n_shared and n_shared >= LEAST_SHARED * sum(found.n_least for found in known):
                self._matches = matches
                return "items"
        for latent, (first, second) in self.sides.items():
            self._scores[latent] = scores(self.judged, first), scores(self.judged, second)
        return "latents" if same_coder else "none"

    def comparison(self, name: str, variant: str) -> Comparison:
        """All latents in one variant, and what follows."""
        latents = [each for latent in self.sides for each in self._latent(latent, variant)]
        counted = [each for each in latents if not each.reason]
        means = self._means((each.numbers.first, each.numbers.second) for each in counted)
        reason = None
        if min(means.n_first, means.n_second) < 2:
            means = NO_MEANS._replace(n_first=means.n_first, n_second=means.n_second)
            reason = FEW_LATENTS
        return Comparison(
            name,
            variant,
            self.statistic,
            self.ways,
            self.models,
            self.pairing,
            means,
            sum(each.n_items for each in counted),
            sum(each.n_left_out for each in counted),
            tuple(self._strata(counted)),
            tuple(latents),
            dict(Counter(each.reason for each in latents if each.reason)),
            reason,
        )

    def _latent(self, latent: int, variant: str) -> list[LatentDifference]:
        """A latent in both arms; of different coders each side apart, for these are two latents."""
        sides = self.sides[latent]
        if self.pairing == "items":
            return [on_items(self._matches[latent], sides, variant)]
        both = self._scores[latent]
        if self.pairing == "latents":
            return [on_others(both, sides, variant)]
        return [
            on_one(found, side, variant)
            for found, side in zip(both, sides, strict=True)
            if side.explanation
        ]

    def _means(self, numbers: Iterable[tuple[float, float]]) -> Means:
        table = np.array(list(numbers), np.float64).reshape(-1, 2)
        if self.pairing == "none":
            return differences.unpaired(*(side[~np.isnan(side)] for side in table.T))
        return differences.paired(*table[~np.isnan(table).any(axis=1)].T)

    def _strata(self, latents: Sequence[LatentDifference]) -> Iterator[StratumDifference]:
        for name in sorted({name for each in latents for name in each.strata}):
            inside = [each.strata[name] for each in latents if name in each.strata]
            means = self._means((each.first, each.second) for each in inside)
            yield StratumDifference(name, sum(each.n_items for each in inside), means)


def _model(arm: Arm, way: Way) -> str:
    """What the engine or embedder is called that judged an arm."""
    return next((each.model for each in arm.judges if each.model_id == way.model_id), "")
