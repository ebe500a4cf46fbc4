"""Areas, intervals and nulls: pure functions of arrays. scipy and scikit-learn do the work.

Imported late by the modules that use it, because scipy and scikit-learn take a second.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lite_interp.records import Estimate

Z95 = 1.959963984540054
"""97.5 % point of the normal distribution."""

DECIMALS = 9
"""Of a relative value. What is left of two equal margins after a mean is 1e-16, and would rank."""

NOTHING = Estimate(math.nan, math.nan, math.nan)


def auroc(active: NDArray[np.bool_], values: NDArray[np.float64]) -> float:
    """Chance that an activating window gets a greater value than a silent one; a tie counts ½.

    NaN when one of the two kinds is missing.
    """
    from sklearn.metrics import roc_auc_score

    if active.all() or not active.any():
        return math.nan
    return float(roc_auc_score(active, values))


def auroc_interval(area: float, n_active: int, n_silent: int) -> Estimate:
    """An AUROC with its 95 % interval by Newcombe's fifth method (Stat. Med. 25, 2006, 559).

    The interval holds every θ with |θ − area| ≤ 1.96 · SE(θ), where the standard error is that
    of Hanley and McNeil at θ, with both sample sizes replaced by their mean in its two middle
    terms. Unlike a bootstrap it is honest at an area of 0 or 1, where resampling gives a width
    of zero, and it needs no random numbers.
    """
    from scipy.optimize import brentq

    if math.isnan(area) or not n_active or not n_silent:
        return NOTHING
    middle = (n_active + n_silent) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + middle * (1 - theta) / (2 - theta) + middle * theta / (1 + theta)
        variance = theta * (1 - theta) * spread / (n_active * n_silent)
        return (theta - area) ** 2 - Z95**2 * variance

    def root(low: float, high: float) -> float:
        return float(brentq(excess, low, high, full_output=False))  # type: ignore[arg-type]

    # At an area of 0 or 1 the equation holds there too; the other root is the one wanted.
    low = 0.0 if area <= 0 else root(0.0, min(area, 1 - 1e-12))
    high = 1.0 if area >= 1 else root(max(area, 1e-12), 1.0)
    return Estimate(area, low, high)


def relative(own: NDArray[np.float64], controls: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) values less the mean of the (c, n) control values on the same window.

    What a judge says of a window whatever the explanation falls out. Differences that are only
    rounding are ties.
    """
    return np.round(own - controls.mean(axis=0), DECIMALS)


def relative_controls(controls: NDArray[np.float64]) -> NDArray[np.float64]:
    """(c, n) each control less the mean of the other controls: the null of `relative`."""
    n = len(controls)
    return np.round(controls - (controls.sum(axis=0) - controls) / (n - 1), DECIMALS)


def difference_from_null(
    active: NDArray[np.bool_],
    own: NDArray[np.float64],
    controls: NDArray[np.float64],
    random: np.random.Generator,
) -> tuple[float, Estimate]:
    """Null AUROC, and AUROC less null with a 95 % interval, paired by window.

    Args:
        active: (n,) truth of each window.
        own: (n,) values under the explanation itself.
        controls: (c, n) values under other latents' explanations, same windows.
        random: source of the resamples.

    The null is the mean AUROC over the controls. The interval is a percentile bootstrap over
    windows, activating and silent ones drawn apart, 1,000 resamples. It says nothing about
    which controls were drawn.
    """
    from scipy.stats import bootstrap

    if not len(controls) or active.all() or not active.any():
        return math.nan, NOTHING
    null = float(_areas(controls[:, active], controls[:, ~active]).mean())
    table = np.vstack([own, controls])
    wins = _wins(table[:, active], table[:, ~active])
    # The difference is linear in the wins, so one table of them serves all resamples.
    gain = wins[0] - wins[1:].mean(axis=0)

    def difference(yes: NDArray[np.int64], no: NDArray[np.int64], axis: int = -1) -> Any:
        rows, columns = _shares(yes, len(gain)), _shares(no, gain.shape[1])
        return np.einsum("...a,as,...s->...", rows, gain, columns, optimize=True)

    yes, no = (np.arange(n) for n in gain.shape)
    value = float(gain.mean())
    if len(yes) < 2 or len(no) < 2:
        return null, Estimate(value, math.nan, math.nan)
    result = bootstrap(
        (yes, no), difference, n_resamples=1000, vectorized=True, method="percentile", rng=random
    )
    interval = result.confidence_interval
    return null, Estimate(value, float(interval.low), float(interval.high))


def _areas(yes: NDArray[np.float64], no: NDArray[np.float64]) -> NDArray[np.float64]:
    """(r,) AUROC of each row by counting all pairs: (r, a) against (r, s) values."""
    return _wins(yes, no).mean(axis=(1, 2))


def _wins(yes: NDArray[np.float64], no: NDArray[np.float64]) -> NDArray[np.float64]:
    """(r, a, s) for each row and pair: 1 if the activating window is greater, ½ for a tie."""
    pairs = yes[:, :, None] - no[:, None, :]
    return (pairs > 0) + 0.5 * (pairs == 0)


def _shares(drawn: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """(…, n) how often each of n windows was drawn, as a share, from (…, k) numbers of windows."""
    flat = drawn.reshape(-1, drawn.shape[-1])
    places = flat + n * np.arange(len(flat))[:, None]
    counts = np.bincount(places.ravel(), minlength=n * len(flat))
    return counts.reshape(*drawn.shape[:-1], n) / drawn.shape[-1]


def mean_interval(values: NDArray[np.float64]) -> Estimate:
    """Mean with its 95 % interval by Student's t; NaN values are left out."""
    from scipy.stats import t

    values = values[~np.isnan(values)]
    if not len(values):
        return NOTHING
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, math.nan, math.nan)
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)
