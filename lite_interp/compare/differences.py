"""Two explanations on the same items, and two ways to explain over latents: pure, from arrays.

    items ─▶ A − B of each latent, interval, p        windows are what was drawn
    latents ─▶ mean A − B, interval, p, visible       latents are what was drawn

All is symmetric: with A and B swapped every difference has the other sign, and every p is the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp import stats
from lite_interp.correlations import pooled_pearson_difference
from lite_interp.records import Estimate
from lite_interp.stats import DECIMALS, NOTHING

NAN = math.nan
POWER = 0.8
"""Share of runs in which a difference that counts as visible would have been found."""


class Two(NamedTuple):
    """Two numbers from the same items."""

    first: float
    """That of A."""
    second: float
    """That of B."""
    difference: Estimate
    """A − B with its 95 % interval over items."""
    p_value: float
    """Of "they are the same", two-sided; NaN where there is no test."""


class Means(NamedTuple):
    """Two means over latents."""

    n_first: int
    """Latents in the mean of A."""
    n_second: int
    """Latents in the mean of B; the same ones, if they are paired."""
    first: Estimate
    """Mean of A with its 95 % interval by Student's t."""
    second: Estimate
    """Mean of B."""
    difference: Estimate
    """A − B; no interval if all latents differ alike."""
    p_value: float
    """Of "the true means are the same", two-sided."""
    visible: float
    """The smallest difference this run could have seen: see `visible`. NaN if all latents differ
    alike."""
    n_up: int
    """Latents for which A is greater; 0 if they are not paired."""
    n_down: int
    """Latents for which B is greater; 0 if they are not paired."""


NO_MEANS = Means(0, 0, NOTHING, NOTHING, NOTHING, NAN, NAN, 0, 0)


def areas(
    wins: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Two:
    """Two areas from the same items, by DeLong and Student's t.

    Args:
        wins: for each an (a, s) table as from `win_table`.

    B stands in the place of the control of `stats.difference_test`.
    """
    first, second = wins
    gain = first - second
    estimate, up = stats.difference_test(gain)
    _, down = stats.difference_test(-gain)
    return Two(float(first.mean()), float(second.mean()), estimate, two_sided(up, down))


def win_table(active: NDArray[np.bool_], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(a, s): 1 where the activating item has the greater of (n,) values, ½ for a tie, else 0."""
    # A control that says the same of every item wins half of each pair.
    return stats.gain_table(active, values, np.zeros((1, len(values)))) + 0.5


def correlations(
    truth: Sequence[NDArray[np.float64]],
    first: Sequence[NDArray[np.float64]],
    second: Sequence[NDArray[np.float64]],
    seed: int,
) -> Two:
    """Two correlations over the tokens of the same windows, by bootstrap over windows.

    Arguments as those of `pooled_pearson_difference`; both ways round the same windows are drawn.
    """
    up = pooled_pearson_difference(truth, first, [second], np.random.default_rng(seed))
    down = pooled_pearson_difference(truth, second, [first], np.random.default_rng(seed))
    p_value = two_sided(up.p_value, down.p_value)
    return Two(up.correlation.value, down.correlation.value, up.difference, p_value)


def gains(first: NDArray[np.float64], second: NDArray[np.float64]) -> Two:
    """Two means of (n,) numbers of the same prompts, by Student's t."""
    found = paired(first, second)
    return Two(found.first.value, found.second.value, found.difference, found.p_value)


def apart(first: Estimate, second: Estimate) -> Two:
    """The difference of two numbers from other items, with an interval by square-and-add.

    Each side is the root of the summed squares of the distances from the numbers to the ends of
    their own intervals (Newcombe, Statistics in Medicine 17, 1998, 873; method 10). No test.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Two(first.value, second.value, Estimate(value, value - below, value + above), NAN)


def paired(first: NDArray[np.float64], second: NDArray[np.float64]) -> Means:
    """Means of (n,) numbers of the same latents, by Student's t on the differences.

    If all differ alike, nothing says how sure the difference is: p is 2 · 2⁻ⁿ, all signs alike.
    """
    from scipy.stats import ttest_1samp

    each = np.round(first - second, DECIMALS)
    n, n_up, n_down = len(each), int((each > 0).sum()), int((each < 0).sum())
    difference, p_value, least = stats.mean_interval(each), NAN, NAN
    if n > 1 and np.ptp(each):
        p_value = float(np.asarray(ttest_1samp(each, 0))[1])
        least = visible(stats.standard_error(each), n - 1)
    elif n:
        difference = Estimate(float(each[0]), NAN, NAN)
        p_value = NAN if n < 2 else 2 * 0.5**n if each[0] else 1.0
    sides = stats.mean_interval(first), stats.mean_interval(second)
    return Means(n, n, *sides, difference, p_value, least, n_up, n_down)


def unpaired(first: NDArray[np.float64], second: NDArray[np.float64]) -> Means:
    """Means of (n,) and (m,) numbers of latents that are not the same, after Welch.

    Nothing is said of how sure it is if one side has fewer than two latents or all are alike.
    """
    from scipy.stats import t

    of_first, of_second = stats.mean_interval(first), stats.mean_interval(second)
    value = of_first.value - of_second.value
    plain = len(first), len(second), of_first, of_second
    if min(len(first), len(second)) < 2 or max(np.ptp(first), np.ptp(second)) < 10.0**-DECIMALS:
        return Means(*plain, Estimate(value, NAN, NAN), NAN, NAN, 0, 0)
    errors = [stats.standard_error(each) for each in (first, second)]
    error = math.hypot(*errors)
    freedom = error**4 / sum(
        part**4 / (len(each) - 1) for part, each in zip(errors, (first, second), strict=True)
    )
    half = float(t.ppf(0.975, freedom)) * error
    estimate = Estimate(value, value - half, value + half)
    p_value = 2 * float(t.sf(abs(value) / error, freedom))
    return Means(*plain, estimate, p_value, visible(error, freedom), 0, 0)


def visible(standard_error: float, degrees_of_freedom: float) -> float:
    """The smallest true difference that a run like this one would have seen.

    That is the difference at which a two-sided t-test at .05, with this standard error, finds the
    right side in 80 % of runs: the noncentrality of Student's t with P(t > t_.975) = .8, times the
    standard error. A difference that was not found may well be there if it is smaller. NaN
    without a spread. Why it is told: arXiv 2605.18229, which found benchmarks of sparse
    autoencoders quoted at differences far below what their noise allows.
    """
    from scipy.special import nctdtrinc, stdtrit

    if not standard_error > 0:
        return NAN
    threshold = stdtrit(degrees_of_freedom, 0.975)
    return standard_error * float(nctdtrinc(degrees_of_freedom, 1 - POWER, threshold))


def two_sided(up: float, down: float) -> float:
    """Two-sided p from those of the two sides."""
    return min(1.0, 2 * min(up, down)) if not math.isnan(up + down) else NAN
