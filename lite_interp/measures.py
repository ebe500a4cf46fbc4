"""Verdicts on one latent to its scores: one function for each statistic, no database."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp import calibration, correlations, rates, sequential, stats
from lite_interp.calibration import Calibration
from lite_interp.ids import generator
from lite_interp.records import Estimate, Score
from lite_interp.sheets import Reading, Sheet, population_weights, readings

NAN = math.nan
EQUAL = "all values are equal"
"""Why there is no number if a judge said the same of everything."""


Calibrate = Callable[[str], Calibration | None]
"""Variant → a calibration from windows of other latents; None if there is none."""


def score_sheet(sheet: Sheet, statistic: str, calibrate: Calibrate) -> Iterator[Score]:
    """The scores of one explanation, or of one latent: `raw` first, then other variants."""
    return STATISTICS[statistic](sheet, calibrate)


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
    gain = stats.gain_table(active, own, controls)
    tested, p_value = stats.difference_test(gain)
    if not stats.delong(gain).standard_error:
        difference = tested  # resampling windows that all gain alike gives no width
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
    weights = population_weights(sheet)
    if sheet.are_windows and weights is not None:
        metrics |= rates.rates(sheet.active, reading.own, weights, found.threshold)._asdict()
    if int(sheet.settings.get("n_looks", 1)) > 1:
        # These intervals do not hold where it was looked several times.
        for name, value in metrics.items():
            if isinstance(value, Estimate):
                metrics[name] = Estimate(value.value, NAN, NAN)
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
    return EQUAL if np.ptp(own) == 0 else None


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
