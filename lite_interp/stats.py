"""Areas, intervals and nulls: pure functions of arrays. scipy and scikit-learn do the work.

Imported late by the modules that use it, because scipy and scikit-learn take a second.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

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


def auroc_interval(area: float, n_active: int, n_silent: int, z: float = Z95) -> Estimate:
    """An AUROC with its 95 % interval by Newcombe's fifth method (Stat. Med. 25, 2006, 559).

    The interval holds every θ with |θ − area| ≤ z · SE(θ), where the standard error is that
    of Hanley and McNeil at θ, with both sample sizes replaced by their mean in its two middle
    terms. Unlike a bootstrap it is honest at an area of 0 or 1, where resampling gives a width
    of zero, and it needs no random numbers. z is 1.96, or the greater critical value
    of `sequential` where one looks more than once.
    """
    from scipy.optimize import brentq

    if math.isnan(area) or not n_active or not n_silent:
        return NOTHING
    middle = (n_active + n_silent) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + middle * (1 - theta) / (2 - theta) + middle * theta / (1 + theta)
        variance = theta * (1 - theta) * spread / (n_active * n_silent)
        return (theta - area) ** 2 - z**2 * variance

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
    # The difference is linear in the wins, so one table of them serves all resamples.
    gain = gain_table(active, own, controls)

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


def gain_table(
    active: NDArray[np.bool_], own: NDArray[np.float64], controls: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(a, s) for each activating and silent window: own win less the mean win of the controls.

    A win is 1 where the activating window has the greater value, ½ for a tie. The mean of the
    table is AUROC less null. Arguments as those of `difference_from_null`; at least one control.
    """
    table = np.vstack([own, controls])
    wins = _wins(table[:, active], table[:, ~active])
    return wins[0] - wins[1:].mean(axis=0)


class Spread(NamedTuple):
    """A difference of areas and how sure it is."""

    value: float
    """Score less null, −1 to 1."""
    standard_error: float
    """Its standard error; 0 where all windows gain the same."""
    degrees_of_freedom: float
    """Of Student's t, after Welch and Satterthwaite."""


def delong(gain: NDArray[np.float64]) -> Spread:
    """Mean of a gain table with its standard error, after DeLong (Biometrics 44, 1988, 837).

    variance = var(row means) / a + var(column means) / s, with a rows and s columns: the
    structural components of the own area less those of the controls. NaN with fewer than two
    windows of a kind.
    """
    a, s = gain.shape
    if not a or not s:
        return Spread(math.nan, math.nan, math.nan)
    value = float(gain.mean())
    if a < 2 or s < 2:
        return Spread(value, math.nan, math.nan)
    of_rows = float(gain.mean(axis=1).var(ddof=1)) / a
    of_columns = float(gain.mean(axis=0).var(ddof=1)) / s
    variance = of_rows + of_columns
    if variance < 10.0 ** (-2 * DECIMALS):  # what rounding leaves of nothing
        return Spread(value, 0.0, math.nan)
    freedom = variance**2 / (of_rows**2 / (a - 1) + of_columns**2 / (s - 1))
    return Spread(value, math.sqrt(variance), freedom)


def student(z: float, degrees_of_freedom: float) -> float:
    """Quantile of Student's t with as much beyond it as a normal distribution has beyond z."""
    from scipy.special import ndtr, stdtrit

    return -float(stdtrit(degrees_of_freedom, ndtr(-z)))


def difference_test(gain: NDArray[np.float64], z: float = Z95) -> tuple[Estimate, float]:
    """AUROC less null with its 95 % interval, and the p-value of "it is not above 0", one-sided.

    Args:
        gain: (a, s) as from `gain_table`.
        z: 1.96, or the greater critical value of `sequential` where one looks more than once.

    By `delong` and Student's t. If all windows gain the same, nothing says how sure that is. Then
    the interval is Newcombe's for an AUROC of (1 + difference) / 2, brought back to −1 … 1; and p
    is 1 if the difference is not above 0, else 1 / binom(a+s, a): the least that shuffling the
    kinds of the windows could give.
    """
    from scipy.special import comb, stdtr

    value, error, freedom = delong(gain)
    if math.isnan(error):
        return Estimate(value, math.nan, math.nan), math.nan
    if not error:
        a, s = gain.shape
        _, low, high = auroc_interval(min(max((1 + value) / 2, 0.0), 1.0), a, s, z)
        p_value = 1 / float(comb(a + s, a)) if value > 10.0**-DECIMALS else 1.0
        return Estimate(value, 2 * low - 1, 2 * high - 1), p_value
    half = student(z, freedom) * error
    estimate = Estimate(value, max(value - half, -1.0), min(value + half, 1.0))
    return estimate, float(stdtr(freedom, -value / error))


def q_values(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) Benjamini–Hochberg: the false-discovery rate at which each would be found.

    NaN values are left out of the count and stay NaN.
    """
    from scipy.stats import false_discovery_control

    found = np.full(len(p_values), math.nan)
    known = ~np.isnan(p_values)
    if known.any():
        found[known] = false_discovery_control(p_values[known], method="bh")
    return found


def mean_difference(
    own: NDArray[np.float64], controls: NDArray[np.float64]
) -> tuple[Estimate, float, Estimate, float]:
    """Mean, null, mean less null and its one-sided p-value, paired by prompt, by Student's t.

    Args:
        own: (n,) a number for each prompt.
        controls: (c, n) the same for other explanations on the same prompts.

    The null is the mean over controls and prompts. Prompts on which a number is NaN are left out.
    If all prompts differ alike, p is 1 if the difference is not above 0, else 2⁻ⁿ: all signs up.
    """
    from scipy.stats import t

    known = ~(np.isnan(own) | np.isnan(controls).any(axis=0))
    own, controls = own[known], controls[:, known]
    if not len(own) or not len(controls):
        return mean_interval(own), math.nan, NOTHING, math.nan
    difference = np.round(own - controls.mean(axis=0), DECIMALS)
    estimate, n = mean_interval(difference), len(own)
    if n < 2:
        p_value = math.nan
    elif np.ptp(difference):  # the mean of equal numbers is rounded, and leaves a standard error
        p_value = float(t.sf(estimate.value / standard_error(difference), n - 1))
    else:
        p_value = 0.5**n if difference[0] > 0 else 1.0
    return mean_interval(own), float(controls.mean()), estimate, p_value


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


def standard_error(values: NDArray[np.float64]) -> float:
    """Standard error of the mean, NaN values left out; NaN for fewer than two."""
    values = values[~np.isnan(values)]
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def wilson(n_right: int, n: int) -> Estimate:
    """Share of right answers with Wilson's 95 % interval; nothing without answers."""
    from scipy.stats import binomtest

    if not n:
        return NOTHING
    interval = binomtest(n_right, n).proportion_ci(0.95, method="wilson")
    return Estimate(n_right / n, float(interval.low), float(interval.high))


def balanced_accuracy(active: NDArray[np.bool_], said_yes: NDArray[np.bool_]) -> Estimate:
    """Mean of recall and specificity with a 95 % interval; NaN when a kind of window is missing.

    The interval is made of the two Wilson intervals by square-and-add (Newcombe, Statistics in
    Medicine 17, 1998, 873; method 10): each side is half the root of the summed squares of the
    two distances from the share to its end.
    """
    n_active, n_silent = int(active.sum()), int((~active).sum())
    if not n_active or not n_silent:
        return NOTHING
    recall = wilson(int((said_yes & active).sum()), n_active)
    specificity = wilson(int((~said_yes & ~active).sum()), n_silent)
    value = (recall.value + specificity.value) / 2
    below = math.hypot(recall.value - recall.low, specificity.value - specificity.low) / 2
    above = math.hypot(recall.high - recall.value, specificity.high - specificity.value) / 2
    return Estimate(value, value - below, value + above)


def better_than(n_right: int, n: int, chance: float) -> float:
    """P-value of "no more are right than by guessing", one-sided and exact; NaN without answers."""
    from scipy.stats import binomtest

    return float(binomtest(n_right, n, chance, "greater").pvalue) if n else math.nan
