"""Verdicts on one latent to its scores: one function for each statistic, no database."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp import calibration, correlations, rates, sequential, stats
from lite_interp.calibration import Calibration
from lite_interp.ids import generator
from lite_interp.records import Estimate, Score, Usage

NAN = math.nan


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """The verdicts that one score is made from, aligned item by item."""

    example_set_id: str
    """The windows."""
    explanation_id: str | None
    """The explanation; None if the latent was judged without one."""
    scorer: str
    """Name of the scorer."""
    settings: Mapping[str, Any]
    """Its settings, and when it stopped."""
    active: NDArray[np.bool_]
    """(n,) the right answers."""
    strata: NDArray[np.str_]
    """(n,) stratum of each item's window."""
    weights: NDArray[np.float64]
    """(n,) windows in the cache that each stands for."""
    values: NDArray[np.float64]
    """(1 + c, n) values of the own trial, then of each control; NaN where a verdict failed."""
    details: tuple[tuple[Mapping[str, Any], ...], ...]
    """(1 + c) × (n) what else the scorer said."""
    activations: tuple[NDArray[np.float32], ...]
    """(n) × (w,) the truth for each token of each item's window."""
    are_windows: bool
    """Whether every item is a window as it stands in the corpus: then base rates mean something."""
    n_items: int
    """Items there were to judge; more than n if judging stopped because it was sure."""
    usage: Usage
    """What all of it cost."""
    facts: Mapping[str, Any]
    """What else belongs to the score, e.g. how strongly the subject was steered."""

    def usable(self) -> Sheet:
        """Only the items with a value from all; a control that failed everywhere is left out."""
        kept_rows = [0, *(1 + np.flatnonzero(~np.isnan(self.values[1:]).all(axis=1)))]
        values = self.values[kept_rows]
        kept = np.flatnonzero(~np.isnan(values).any(axis=0))
        details = [self.details[row] for row in kept_rows]
        return replace(
            self,
            active=self.active[kept],
            strata=self.strata[kept],
            weights=self.weights[kept],
            values=values[:, kept],
            details=tuple(tuple(row[place] for place in kept) for row in details),
            activations=tuple(self.activations[place] for place in kept),
        )


class Reading(NamedTuple):
    """One way to read a sheet: what is compared with what."""

    variant: str
    """`raw`, `relative`, `per_token`."""
    own: NDArray[np.float64]
    """(n,) values under the explanation."""
    controls: NDArray[np.float64]
    """(c, n) the same under the controls."""


Calibrate = Callable[[str], Calibration | None]
"""Variant → a calibration from windows of other latents; None if there is none."""


def score_sheet(sheet: Sheet, statistic: str, calibrate: Calibrate) -> Iterator[Score]:
    """The scores of one explanation, or of one latent: `raw` first, then other variants."""
    return STATISTICS[statistic](sheet, calibrate)


def readings(sheet: Sheet) -> list[Reading]:
    """Values as they are; less the controls' mean, of two or more; for each token, if said."""
    own, controls = sheet.values[0], sheet.values[1:]
    found = [Reading("raw", own, controls)]
    if len(controls) >= 2:
        relative = stats.relative(own, controls)
        found.append(Reading("relative", relative, stats.relative_controls(controls)))
    if own.size and "per_token" in sheet.details[0][0]:
        table = np.array([[detail["per_token"] for detail in row] for row in sheet.details])
        found.append(Reading("per_token", table[0], table[1:]))
    return found


def areas(sheet: Sheet, calibrate: Calibrate) -> Iterator[Score]:
    """AUROC over items, with rates at a threshold that other latents' windows give."""
    used = sheet.usable()
    for reading in readings(used):
        random = generator(0, sheet.explanation_id or "", sheet.scorer, reading.variant)
        reason = _reason(sheet, used.active, used.values[0])
        numbers = _area(used, reading, random) if reason is None else NO_NUMBERS
        metrics = {
            **_by_stratum(used, reading),
            **_at_threshold(used, reading, calibrate(reading.variant)),
            **_saved(sheet),
        }
        yield _score(sheet, used, (reading.variant, "auroc"), numbers, metrics, reason)


def _area(sheet: Sheet, reading: Reading, random: np.random.Generator) -> Numbers:
    active, own, controls = sheet.active, reading.own, reading.controls
    n_looks = int(sheet.settings.get("n_looks", 0))
    if n_looks:
        estimate = sequential.area_interval(active, own, n_looks)
    else:
        n_active = int(active.sum())
        area = stats.auroc(active, own)
        estimate = stats.auroc_interval(area, n_active, len(active) - n_active)
    null, difference = stats.difference_from_null(active, own, controls, random)
    if math.isnan(null):
        return Numbers(estimate, null, difference, NAN)
    _, p_value = stats.difference_test(stats.gain_table(active, own, controls))
    if n_looks:
        difference = sequential.difference_interval(active, own, controls, n_looks)
        p_value = sequential.difference_p_value(active, own, controls, n_looks)
    return Numbers(estimate, null, difference, p_value)


def _by_stratum(sheet: Sheet, reading: Reading) -> dict[str, Any]:
    """AUROC of each activating stratum against all silent items, and the other way round."""
    found = {}
    for stratum in sorted(set(sheet.strata.tolist())):
        inside = sheet.strata == stratum
        for side in (True, False):
            some = inside & (sheet.active == side)
            if some.any():
                area = stats.auroc(
                    sheet.active[some | (sheet.active != side)],
                    reading.own[some | (sheet.active != side)],
                )
                name = stratum if side == stratum.startswith("decile") else f"{stratum}_wrong"
                found[name] = {"n": int(some.sum()), "auroc": area}
    return {"strata": found}


def _at_threshold(sheet: Sheet, reading: Reading, found: Calibration | None) -> dict[str, Any]:
    """What follows from a threshold: rates, and how well probabilities are calibrated."""
    if found is None or sheet.active.all() or not sheet.active.any():
        return {}
    said_yes = reading.own > found.threshold
    brier, ece = calibration.reliability(
        sheet.active, calibration.probabilities(found, reading.own)
    )
    metrics: dict[str, Any] = {
        "threshold": found.threshold,
        "n_calibration": found.n,
        "balanced_accuracy": stats.balanced_accuracy(sheet.active, said_yes),
        "brier": brier,
        "ece": ece,
    }
    if sheet.are_windows:
        metrics |= rates.rates(sheet.active, reading.own, sheet.weights, found.threshold)._asdict()
    return metrics


def _saved(sheet: Sheet) -> dict[str, Any]:
    if "until_sure" not in sheet.settings or not sheet.n_items:
        return {}
    return {"n_items": sheet.n_items, "share_saved": 1 - len(sheet.active) / sheet.n_items}


def over_tokens(sheet: Sheet, calibrate: Calibrate) -> Iterator[Score]:
    """Pearson's r between simulated and true activations over the tokens of all windows."""
    used = sheet.usable()
    predicted = [
        [np.asarray(detail["expected"], np.float64) for detail in row] for row in used.details
    ]
    truth = [np.asarray(values, np.float64) for values in used.activations]
    random = generator(0, sheet.explanation_id or "", sheet.scorer)
    found = correlations.pooled_pearson_difference(truth, predicted[0], predicted[1:], random)
    strata = sorted(set(used.strata.tolist()))
    some = {
        stratum: correlations.pearson(*_pooled(truth, predicted[0], used.strata == stratum))
        for stratum in strata
    }
    top_and_random = np.isin(used.strata, ["decile_0", "random"])
    metrics = {
        "strata": {
            stratum: {"n": int((used.strata == stratum).sum()), "pearson": r}
            for stratum, r in some.items()
        },
        "top_and_random": correlations.pearson(*_pooled(truth, predicted[0], top_and_random)),
        "window_auroc": stats.auroc(used.active, used.values[0]),
        "mass": float(np.mean([detail["mass"] for detail in used.details[0]]))
        if len(used.active)
        else NAN,
    }
    reason = _reason(sheet, used.active, np.concatenate([np.zeros(0), *predicted[0]]))
    numbers = Numbers(*found) if reason is None else NO_NUMBERS
    yield _score(sheet, used, ("raw", "pearson"), numbers, metrics, reason)


def _pooled(
    truth: Sequence[NDArray], predicted: Sequence[NDArray], kept: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    none = [np.zeros(0)]
    places = np.flatnonzero(kept).tolist()
    return (
        np.concatenate(none + [truth[place] for place in places]),
        np.concatenate(none + [predicted[place] for place in places]),
    )


def gains(sheet: Sheet, calibrate: Calibrate) -> Iterator[Score]:
    """Mean over prompts of a gain in nats: of all tokens of the explanation, and of one."""
    used = sheet.usable()
    lengths = np.array([[detail["n_tokens"] for detail in row] for row in used.details])
    each = used.values / lengths if used.values.size else used.values
    for variant, table in (("raw", used.values), ("per_token", each)):
        numbers = Numbers(*stats.mean_difference(table[0], table[1:]))
        metrics = {**sheet.facts, "sem": stats.standard_error(table[0])}
        reason = None if len(used.active) else sheet.facts.get("failure") or _empty(sheet)
        yield _score(sheet, used, (variant, "nats"), numbers, metrics, reason)


def shares(sheet: Sheet, calibrate: Calibrate) -> Iterator[Score]:
    """Share of questions that were answered right, against the share that guessing has."""
    used = sheet.usable()
    right = used.values[0] > 0.5
    n, n_right = len(right), int(right.sum())
    estimate = stats.wilson(n_right, n)
    chance = 1 / int(sheet.settings.get("n_choices", 2))
    difference = Estimate(*(value - chance for value in estimate))
    strata = {
        stratum: {
            "n": int((used.strata == stratum).sum()),
            "share": float(right[used.strata == stratum].mean()),
        }
        for stratum in sorted(set(used.strata.tolist()))
    }
    numbers = Numbers(estimate, chance, difference, stats.better_than(n_right, n, chance))
    reason = None if n else _empty(sheet)
    yield _score(sheet, used, ("raw", "accuracy"), numbers, {"strata": strata}, reason)


STATISTICS: dict[str, Callable[[Sheet, Calibrate], Iterator[Score]]] = {
    "auroc": areas,
    "pearson": over_tokens,
    "nats": gains,
    "accuracy": shares,
}
"""How a sheet becomes scores, by the scorer's statistic."""


def _reason(sheet: Sheet, active: NDArray[np.bool_], own: NDArray[np.float64]) -> str | None:
    """Why there is no number; None if there is one."""
    if not len(active):
        return _empty(sheet)
    if active.all():
        return "no silent window with a verdict"
    if not active.any():
        return "no activating window with a verdict"
    # A judge that says the same of everything has not judged.
    return "all values are equal" if np.ptp(own) == 0 else None


def _empty(sheet: Sheet) -> str:
    if not len(sheet.active):
        return "too few windows"
    return f"all {len(sheet.active)} verdicts failed"


class Numbers(NamedTuple):
    """What a score is about: a number with its null."""

    estimate: Estimate
    null: float
    difference: Estimate
    p_value: float


NO_NUMBERS = Numbers(stats.NOTHING, NAN, stats.NOTHING, NAN)


def _score(
    sheet: Sheet,
    used: Sheet,
    kind: tuple[str, str],
    numbers: Numbers,
    metrics: Mapping[str, Any],
    reason: str | None,
) -> Score:
    """A score; `kind` is its variant and statistic, `used` the part of the sheet it is from."""
    n_active = int(used.active.sum())
    return Score(
        sheet.example_set_id,
        sheet.explanation_id,
        sheet.scorer,
        *kind,
        *numbers,
        n_active,
        len(used.active) - n_active,
        len(sheet.active) - len(used.active),
        len(used.values) - 1,
        metrics,
        reason,
        sheet.usage,
    )
