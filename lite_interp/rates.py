"""How often a judge is right, on the windows judged and at the base rate of the corpus.

Which numbers notice a wrong explanation, after arXiv 2506.05774 (half of the true labels missing;
as many false labels as there are true ones): where the latent is rare, AUROC and balanced
accuracy hardly move for false labels, recall not at all, and precision not for missing ones.
F1 and average precision at the base rate move for both, if false positives are among the windows
judged. A few random silent windows seldom hold one, and then no number can notice; strata of
silent windows that look alike are what shows them. F1 and average precision belong beside any
headline.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.records import Estimate
from lite_interp.stats import NOTHING, Z95


class Rates(NamedTuple):
    """What a yes of the judge is worth in the corpus. NaN where nothing tells it."""

    recall: Estimate
    """Share of the activating windows of the corpus that would get a yes, 0 to 1."""
    false_positive_rate: Estimate
    """Share of its silent windows that would get a yes, 0 to 1."""
    precision: Estimate
    """Share of the yeses that are activating windows, 0 to 1."""
    f1: Estimate
    """Harmonic mean of precision and recall, 0 to 1."""
    average_precision: Estimate
    """Precision averaged over recall as the threshold falls, 0 to 1; needs no threshold."""
    base_rate: float
    """Share of activating windows in the corpus, 0 to 1; all else equal, precision of chance."""


def rates(
    active: NDArray[np.bool_],
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    threshold: float,
) -> Rates:
    """Recall, false-positive rate, precision, F1 and average precision at the corpus's base rate.

    Args:
        active: (n,) truth of each window.
        values: (n,) what the judge gave it.
        weights: (n,) how many windows of the corpus each stands for, above 0.
        threshold: a value above it is a yes.

    Horvitz–Thompson: a count in the corpus is the sum of the weights. With recall R, false-positive
    rate F and base rate b, precision is Rb / (Rb + F(1−b)), F1 is 2Rb / (Rb + F(1−b) + b), and
    average precision is Σ ΔR · precision over all thresholds, as in scikit-learn.

    Intervals, 95 %: of R and F Wilson's, with the effective number of windows of Kish,
    (Σw)² / Σw². Of precision and F1 square-and-add: R alone and F alone are moved to the ends of
    their intervals. Of average precision F is moved to the ends of its interval at every
    threshold. A bootstrap is not used: with few false positives, which is to say for good
    explanations, it covers the truth far less often than it says, and without any it has no width.
    From few silent windows the average precision itself lies high, because their rare great
    values are not among them; the interval is wide enough for that.

    Windows with a value or weight that is NaN, or without weight, are left out.
    """
    known = np.isfinite(values) & np.isfinite(weights) & (weights > 0)
    active, values, weights = active[known], values[known], weights[known]
    said_yes = values > threshold
    recall = _weighted(said_yes[active], weights[active])
    false_positive_rate = _weighted(said_yes[~active], weights[~active])
    total = float(weights.sum())
    base_rate = float(weights[active].sum()) / total if total else math.nan
    if active.all() or not active.any():
        return Rates(recall, false_positive_rate, NOTHING, NOTHING, NOTHING, base_rate)

    pair = recall, false_positive_rate
    precision = _square_and_add(*pair, lambda r, f: _precision(r, f, base_rate))
    f1 = _square_and_add(*pair, lambda r, f: _f1(r, f, base_rate))
    average = _average_precision(active, values, weights, base_rate)
    return Rates(recall, false_positive_rate, precision, f1, average, base_rate)


def _weighted(said_yes: NDArray[np.bool_], weights: NDArray[np.float64]) -> Estimate:
    """Share of the weight that got a yes, with Wilson's interval for the windows it is worth."""
    if not len(weights):
        return NOTHING
    share = float(weights[said_yes].sum() / weights.sum())
    low, high = _wilson(np.array(share), _effective(weights))
    return Estimate(share, float(low), float(high))


def _effective(weights: NDArray[np.float64]) -> float:
    return float(weights.sum() ** 2 / (weights**2).sum())


def _wilson(
    share: NDArray[np.float64], n: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of Wilson's intervals. SciPy's takes whole numbers of windows only."""
    middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    spread = np.sqrt(np.maximum(share * (1 - share), 0) / n + Z95**2 / (4 * n**2))
    half = Z95 * spread / (1 + Z95**2 / n)
    return np.clip(middle - half, 0, share), np.clip(middle + half, share, 1)


def _precision(recall: Any, false_positive_rate: Any, base_rate: float) -> Any:
    """Precision from the two rates; NaN where nothing gets a yes."""
    right, wrong = recall * base_rate, false_positive_rate * (1 - base_rate)
    said_yes = np.where(right + wrong > 0, right + wrong, math.nan)
    return right / said_yes


def _f1(recall: float, false_positive_rate: float, base_rate: float) -> float:
    wrong = false_positive_rate * (1 - base_rate)
    return 2 * recall * base_rate / (recall * base_rate + wrong + base_rate)


def _square_and_add(
    recall: Estimate, false_positive_rate: Estimate, formula: Callable[[float, float], float]
) -> Estimate:
    """A number that grows with recall and falls with the false-positive rate, and its interval."""
    value = float(formula(recall.value, false_positive_rate.value))
    if math.isnan(value):
        return NOTHING
    below = math.hypot(
        value - formula(recall.low, false_positive_rate.value),
        value - formula(recall.value, false_positive_rate.high),
    )
    above = math.hypot(
        formula(recall.high, false_positive_rate.value) - value,
        formula(recall.value, false_positive_rate.low) - value,
    )
    return Estimate(value, max(value - below, 0.0), min(value + above, 1.0))


def _average_precision(
    active: NDArray[np.bool_],
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    base_rate: float,
) -> Estimate:
    from sklearn.metrics import roc_curve

    false, right, _ = roc_curve(active, values, sample_weight=weights, drop_intermediate=False)
    low, high = _wilson(false, _effective(weights[~active]))
    steps, right = np.diff(right), right[1:]
    value, least, most = (
        # A threshold at which recall doesn't grow adds nothing, also where nothing gets a yes.
        float(steps[steps > 0] @ _precision(right, wrong[1:], base_rate)[steps > 0])
        for wrong in (false, high, low)
    )
    return Estimate(value, least, most)
