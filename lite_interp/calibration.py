"""From a judge's value to yes or no, and to a probability.

A small engine's margin is not a log-odds: its zero lies anywhere, and it exaggerates. A threshold
and a curve are therefore read from windows whose truth is known. **These are windows of other
latents, never those that are scored**: a threshold fitted to the scored windows gives every
explanation, also one of another latent, more than chance.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Calibration(NamedTuple):
    """How the values of one judge are read."""

    threshold: float
    """A value above it is a yes; in the unit of the values."""
    slope: float
    """Log-odds for each unit of value; negative if the judge is more wrong than right."""
    intercept: float
    """Log-odds at value 0."""
    n: int
    """Windows that it was read from."""


def calibrate(
    active: NDArray[np.bool_],
    values: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
) -> Calibration | None:
    """Threshold and curve from windows of other latents than the one to be scored.

    Args:
        active: (n,) truth of each window.
        values: (n,) what the judge gave it.
        weights: (n,) how many windows of the corpus each stands for; all alike when None. With
            weights the probabilities are those at the corpus's base rate.

    The threshold maximises the balanced accuracy, (recall + specificity) / 2, over the midpoints
    between neighbouring values; of equal ones the midpoint nearest the median is taken, because
    the edge of a gap is the part of it that the next windows move.

    The curve is p = 1 / (1 + exp(−slope · value − intercept)), Platt's, fitted by scikit-learn's
    logistic regression to standardised values with its default penalty C = 1, which holds the
    slope finite where the values part the windows without error.

    None when a kind of window is missing or all values are the same. Windows with a value or
    weight that is NaN, or without weight, are left out.
    """
    from sklearn.linear_model import LogisticRegression

    weights = np.ones(len(values)) if weights is None else weights
    known = np.isfinite(values) & np.isfinite(weights) & (weights > 0)
    active, values, weights = active[known], values[known], weights[known]
    if not active.any() or active.all() or values.min() == values.max():
        return None
    centre, spread = float(values.mean()), float(values.std())
    if not spread > 0:  # values that differ in their last digit only
        return None
    model = LogisticRegression(C=1.0, max_iter=1000)
    standard = (values - centre) / spread
    model.fit(standard[:, None], active, sample_weight=weights / weights.mean())
    slope = float(np.ravel(model.coef_)[0]) / spread
    intercept = float(np.ravel(model.intercept_)[0]) - slope * centre
    return Calibration(_best_threshold(active, values, weights), slope, intercept, len(values))


def _best_threshold(
    active: NDArray[np.bool_], values: NDArray[np.float64], weights: NDArray[np.float64]
) -> float:
    from sklearn.metrics import roc_curve

    false, right, steps = roc_curve(active, values, sample_weight=weights, drop_intermediate=False)
    # The first threshold is infinite and the last says yes to all; the rest stand above a gap.
    gain = (right - false)[1:-1]
    high, low = steps[1:-1], steps[2:]
    middle = low + (high - low) / 2
    # Between two neighbouring floats there is no midpoint; "above the lower one" is the same cut.
    middle = np.where(middle < high, middle, low)
    best = middle[gain >= gain.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - np.median(values)))])


def probabilities(calibration: Calibration, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) chance that each window is an activating one; NaN where the value is."""
    from scipy.special import expit

    return expit(calibration.slope * values + calibration.intercept)


def reliability(
    active: NDArray[np.bool_], probability: NDArray[np.float64], n_bins: int = 10
) -> tuple[float, float]:
    """Brier score and expected calibration error; 0 is best. NaN without windows.

    Brier is the mean of (probability − truth)². The error is Σ n_bin/n · |share of activating
    windows − mean probability| over bins of equally many windows; equal probabilities stay in
    one bin, so the order of the windows doesn't matter. With few windows in a bin it is above 0
    for a perfect judge too. Windows without a probability are left out.
    """
    from sklearn.metrics import brier_score_loss

    known = np.isfinite(probability)
    active, probability = active[known], probability[known]
    if not len(active):
        return math.nan, math.nan
    brier = float(brier_score_loss(active, probability, pos_label=True))
    edges = np.quantile(probability, np.arange(1, n_bins) / n_bins)
    place = np.searchsorted(edges, probability, side="right")
    gaps = np.bincount(place, weights=active - probability, minlength=n_bins)
    return brier, float(np.abs(gaps).sum() / len(active))
