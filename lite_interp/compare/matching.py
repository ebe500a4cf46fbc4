"""One latent in two arms: the items that both judged, and A − B in each reading of the verdicts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp import measures, stats
from lite_interp.analysis import aligned
from lite_interp.compare import differences
from lite_interp.compare.differences import Two
from lite_interp.compare.judged import Judged, Side
from lite_interp.db.trials import Group, TrialRow
from lite_interp.ids import generator
from lite_interp.records import Score
from lite_interp.score import SCORERS
from lite_interp.sheets import Sheet
from lite_interp.stats import NOTHING

NAN = math.nan
NO_COMMON = "no item that both judged"
NO_CONTROLS = "fewer than two controls on the same items"
NO_VARIANT = "not said in this way"
"""Why there is no number."""

NOBODY = TrialRow("", None, False, ())
"""A trial in which nothing was asked."""


class Stratum(NamedTuple):
    """Two areas of the items of one stratum against all items of the other side."""

    n_items: int
    """Items of the stratum."""
    first: float
    """That of A."""
    second: float
    """That of B."""


@dataclass(frozen=True, slots=True)
class LatentDifference:
    """One latent in both arms; NaN where there is no number."""

    latent: int
    """The latent."""
    numbers: Two
    """A, B and A − B with its interval over items."""
    n_items: int
    """Items that count, on both sides; where they are not the same, those of A and B together."""
    n_left_out: int
    """Items that only one side has a verdict on, or that failed on a side."""
    texts: tuple[str | None, str | None]
    """The explanations."""
    strata: Mapping[str, Stratum]
    """Stratum → areas; empty for what is no area."""
    reason: str | None
    """Why there is no number."""


class Match(NamedTuple):
    """The items of one latent that count on both sides."""

    active: NDArray[np.bool_]
    """(n,) the right answers."""
    strata: NDArray[np.str_]
    """(n,) strata of their windows."""
    values: NDArray[np.float64]
    """(2, n) what was said of A and of B."""
    controls: tuple[NDArray[np.float64], NDArray[np.float64]]
    """(c, n) and (d, n) what each side's judge said under the same controls, of all n."""
    details: tuple[tuple[Mapping[str, Any], ...], ...]
    """2 × (n) what else was said of A and of B."""
    activations: tuple[NDArray[np.float64], ...]
    """(n) × (w,) the truth for each token."""
    n_shared: int
    """Items that both were asked about."""
    n_least: int
    """Items of the side that was asked about fewer."""
    n_left_out: int
    """Items that only one side has a verdict on, or that failed on a side."""


def match(judged: Judged, first: Side, second: Side) -> Match | None:
    """The items that both have a value on; None if a side has no verdicts.

    Controls are the same on both sides, those that have a value on all these items: whichever arm
    they were judged for. Of two judges each has its own.
    """
    if not (first.group and second.group) or first.reason() or second.reason():
        return None
    group = first.group
    alike = judged.items_alike(group, second.group)
    trials = judged.own(group), judged.own(second.group)
    # Else items of one name are different questions.
    own = [trials[0], trials[1] if alike else NOBODY]
    of_first = judged.controls(first.cache_id, first.way, group)
    of_second = (
        of_first if first.way == second.way else judged.controls(first.cache_id, second.way, group)
    )
    sheet = _sheet(judged, group, [*own, *of_first, *of_second])
    there = ~np.isnan(sheet.values)
    common = np.flatnonzero(there[:2].all(axis=0))
    values, whole = sheet.values[:, common], np.all(there[:, common], axis=1)
    asked = [{(each.window_id, each.item) for each in row.verdicts} for row in own]
    middle = 2 + len(of_first)
    return Match(
        sheet.active[common],
        sheet.strata[common],
        values[:2],
        (values[2:middle][whole[2:middle]], values[middle:][whole[middle:]]),
        tuple(tuple(sheet.details[side][place] for place in common) for side in (0, 1)),
        tuple(sheet.activations[place].astype(np.float64) for place in common),
        len(asked[0] & asked[1]),
        min(len(row.verdicts) for row in trials),
        len(asked[0] | asked[1]) - len(common),
    )


def _sheet(judged: Judged, group: Group, rows: Sequence[TrialRow]) -> Sheet:
    return aligned(group, json.loads(group.settings), judged.examples(group), rows)


def why_not(sides: tuple[Side, Side]) -> str | None:
    """Why a latent has nothing to compare: that an explanation is missing comes first."""
    missing = [side.reason() for side in sides if not (side.explanation and side.explanation.text)]
    return next(
        (reason for reason in (*missing, *(side.reason() for side in sides)) if reason), None
    )


def on_items(found: Match | None, sides: tuple[Side, Side], variant: str) -> LatentDifference:
    """A − B on the items that both judged, in one reading of the verdicts."""
    reason = why_not(sides)
    if reason or found is None:
        return nothing(sides, reason or NO_COMMON)
    statistic = SCORERS[sides[0].way.scorer].statistic
    read = _read(found, statistic, variant)
    if isinstance(read, str):
        return nothing(sides, read)
    strata: dict[str, Stratum] = {}
    if statistic == "auroc":
        wins = tuple(differences.win_table(found.active, values) for values in read)
        numbers = differences.areas((wins[0], wins[1]))
        strata = dict(_strata(found, wins[0], wins[1]))
    elif statistic == "pearson":
        told = _expected(found, 0), _expected(found, 1)
        numbers = differences.correlations(found.activations, *told, _seed(sides[0]))
    else:
        numbers = differences.gains(*read)
    n = len(found.active)
    return LatentDifference(
        sides[0].latent, numbers, n, found.n_left_out, _texts(sides), strata, None
    )


def _read(found: Match, statistic: str, variant: str) -> tuple[NDArray, NDArray] | str:
    """(n,) values of A and of B as they are read, or why there is nothing to read."""
    first, second = found.values
    if not len(found.active):
        return NO_COMMON
    if statistic != "nats" and (found.active.all() or not found.active.any()):
        return f"no {'silent' if found.active.all() else 'activating'} item that both judged"
    for side, letter in enumerate("AB"):
        told = _expected(found, side) if statistic == "pearson" else [found.values[side]]
        # A judge that says the same of everything has not judged.
        if statistic != "nats" and np.ptp(np.concatenate(told)) == 0:
            return f"{measures.EQUAL} in {letter}"
    if variant == "raw":
        return first, second
    if variant == "relative":
        if min(map(len, found.controls)) < 2:
            return NO_CONTROLS
        return stats.relative(first, found.controls[0]), stats.relative(second, found.controls[1])
    if statistic == "nats":
        lengths = [[detail["n_tokens"] for detail in row] for row in found.details]
        return first / np.array(lengths[0]), second / np.array(lengths[1])
    if not all("per_token" in detail for row in found.details for detail in row):
        return NO_VARIANT
    each = [[detail["per_token"] for detail in row] for row in found.details]
    return np.array(each[0]), np.array(each[1])


def _expected(found: Match, side: int) -> list[NDArray[np.float64]]:
    return [np.asarray(detail["expected"], np.float64) for detail in found.details[side]]


def _seed(side: Side) -> int:
    # Neither the arm nor its place may be in it: then A and B can be swapped.
    return int(generator(0, side.latent, side.way.scorer, "compare").integers(2**32))


def _strata(
    found: Match, first: NDArray[np.float64], second: NDArray[np.float64]
) -> Iterator[tuple[str, Stratum]]:
    """Areas of each stratum's items against all of the other side, from tables of wins."""
    for axis, side in ((0, found.active), (1, ~found.active)):
        strata = found.strata[side]
        for name in sorted(set(strata.tolist())):
            places = np.flatnonzero(strata == name)
            told = name if name.startswith("decile") == (axis == 0) else f"{name}_wrong"
            here, there = (float(table.take(places, axis).mean()) for table in (first, second))
            yield told, Stratum(len(places), here, there)


def scores(judged: Judged, side: Side) -> dict[str, Score]:
    """Variant → the score of one side on its own items; empty if there is none."""
    if not side.group or side.reason():
        return {}
    controls = judged.controls(side.cache_id, side.way, side.group)
    sheet = _sheet(judged, side.group, [judged.own(side.group), *controls])
    statistic = SCORERS[side.way.scorer].statistic
    found = measures.score_sheet(sheet, statistic, lambda variant: None)
    return {score.variant: score for score in found}


def on_others(
    both: tuple[Mapping[str, Score], Mapping[str, Score]], sides: tuple[Side, Side], variant: str
) -> LatentDifference:
    """A − B of a latent whose scores are from different items."""
    flaws = [_flaw(*each, variant) for each in zip(both, sides, strict=True)]
    reason = why_not(sides) or flaws[0] or flaws[1]
    if reason:
        return nothing(sides, reason)
    first, second = (each[variant] for each in both)
    strata = {
        name: Stratum(n + there[name].n_items, value, there[name].second)
        for there in [dict(_told_strata(second))]
        for name, (n, value, _) in _told_strata(first)
        if name in there
    }
    numbers = differences.apart(first.estimate, second.estimate)
    n, n_failed = (_n(first) + _n(second), first.n_failed + second.n_failed)
    return LatentDifference(sides[0].latent, numbers, n, n_failed, _texts(sides), strata, None)


def on_one(found: Mapping[str, Score], side: Side, variant: str) -> LatentDifference:
    """The number of one side alone, of a latent that the other does not have."""
    sides = (side, side._replace(explanation=None))[:: 1 if side.letter == "A" else -1]
    reason = _flaw(found, side, variant)
    if reason:
        return nothing((sides[0], sides[1]), reason)
    score = found[variant]
    value = score.estimate.value
    strata = {name: Stratum(n, *_alone(side, area)) for name, (n, area, _) in _told_strata(score)}
    return LatentDifference(
        side.latent,
        Two(*_alone(side, value), NOTHING, NAN),
        _n(score),
        score.n_failed,
        _texts((sides[0], sides[1])),
        strata,
        None,
    )


def _alone(side: Side, value: float) -> tuple[float, float]:
    return (value, NAN) if side.letter == "A" else (NAN, value)


def _flaw(found: Mapping[str, Score], side: Side, variant: str) -> str | None:
    """Why one side has no number."""
    if side.reason():
        return side.reason()
    if variant not in found:
        return NO_CONTROLS if variant == "relative" else NO_VARIANT
    score = found[variant]
    if score.reason:
        return f"{score.reason} in {side.letter}"
    return f"no number in {side.letter}" if math.isnan(score.estimate.value) else None


def _told_strata(score: Score) -> Iterator[tuple[str, Stratum]]:
    for name, told in score.metrics.get("strata", {}).items():
        if score.statistic == "auroc":
            yield name, Stratum(told["n"], told["auroc"], told["auroc"])


def _n(score: Score) -> int:
    return score.n_active + score.n_silent


def nothing(sides: tuple[Side, Side], reason: str) -> LatentDifference:
    """No number, and why."""
    numbers = Two(NAN, NAN, NOTHING, NAN)
    return LatentDifference(sides[0].latent, numbers, 0, 0, _texts(sides), {}, reason)


def _texts(sides: tuple[Side, Side]) -> tuple[str | None, str | None]:
    first, second = (side.explanation.text if side.explanation else None for side in sides)
    return first, second
