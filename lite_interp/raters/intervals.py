"""Intervals where answers come in bunches, and how many more would make them narrower.

Answers about one latent are not independent: they share its windows. So what is drawn again, or
what a variance is taken over, are latents with all their answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lite_interp.correlations import ALIKE, N_PAIRS_MIN, N_RESAMPLES
from lite_interp.records import Estimate
from lite_interp.stats import NOTHING, Z95

Array = NDArray[np.float64]


def share(latents: NDArray[np.int64], won: Array, asked: Array, n: int) -> Estimate:
    """A share, or the mean of several, with a 95 % interval that allows for bunches.

    Args:
        latents: (r,) whose latent each row is about.
        won: (p, r) what was won in each row, a row for each of p shares.
        asked: (p, r) of how much.
        n: answers in all; the share is never held for surer than these would make it.

    value = mean over the p shares of Σ won / Σ asked. Its variance, linearised, over l latents:

        e_l = mean over shares of (won_l − share · asked_l) / Σ asked
        variance = l / (l − 1) · Σ e_l²

    The interval is Wilson's with n* = value (1 − value) / variance answers, at most n, and with
    Student's t of l − 1 degrees of freedom in the place of 1.96 (after Franco, Little, Louis and
    Slud, Journal of Survey Statistics and Methodology 7, 2019, 334). If all is won, or nothing,
    n* = l, as if each latent had been asked about once. One latent has no interval.
    """
    from scipy.stats import t

    value, residuals = _linearised(latents, won, asked)
    n_latents = len(residuals)
    if math.isnan(value) or n_latents < 2:
        return Estimate(value, math.nan, math.nan)
    variance = n_latents / (n_latents - 1) * float((residuals**2).sum())
    spread = value * (1 - value)
    if spread <= ALIKE:
        n_worth = float(n_latents)
    else:
        n_worth = min(max(spread / variance, 1.0), float(n)) if variance else float(n)
    z = float(t.ppf(0.975, n_latents - 1))
    middle = (value + z**2 / (2 * n_worth)) / (1 + z**2 / n_worth)
    half = z * math.sqrt(max(spread, 0) / n_worth + z**2 / (4 * n_worth**2)) / (1 + z**2 / n_worth)
    return Estimate(value, min(max(middle - half, 0.0), value), max(min(middle + half, 1.0), value))


def difference(latents: NDArray[np.int64], first: Array, second: Array) -> Estimate:
    """Mean of the second less mean of the first, paired by row, with a 95 % interval.

    Args:
        latents: (r,) whose latent each row is about.
        first: (r,) a number of each row, 0 to 1.
        second: (r,) the other.

    By Student's t with the variance of `share`; none if all latents differ alike.
    """
    from scipy.stats import t

    value, residuals = _linearised(latents, (second - first)[None], np.ones((1, len(first))))
    n_latents = len(residuals)
    if n_latents < 2 or float(np.abs(residuals).max()) <= ALIKE:
        return Estimate(value, math.nan, math.nan)
    error = math.sqrt(n_latents / (n_latents - 1) * float((residuals**2).sum()))
    half = float(t.ppf(0.975, n_latents - 1)) * error
    return Estimate(value, max(value - half, -1.0), min(value + half, 1.0))


def _linearised(latents: NDArray[np.int64], won: Array, asked: Array) -> tuple[float, Array]:
    """Mean of the shares, and each latent's part in its variance; NaN if nothing was asked."""
    total = asked.sum(axis=1)
    if not len(latents) or not total.all():
        return math.nan, np.zeros(0)
    _, place = np.unique(latents, return_inverse=True)
    values = won.sum(axis=1) / total
    each = ((won - values[:, None] * asked) / total[:, None]).mean(axis=0)
    return float(values.mean()), np.bincount(place, weights=each).astype(np.float64)


def over_latents(
    latents: NDArray[np.int64],
    statistic: Callable[[NDArray[np.int64]], float],
    random: np.random.Generator,
) -> Estimate:
    """A number of rows with its 95 % interval: a percentile bootstrap over latents.

    Args:
        latents: (r,) whose latent each row is about.
        statistic: row numbers, as often as they were drawn, to the number; NaN if undefined.
        random: source of the 1,000 resamples.

    Resamples in which the number is undefined are left out. There is no interval from one latent,
    where fewer than half of the resamples are defined, or where all give the same number: then
    nothing was seen that could vary.
    """
    names, place = np.unique(latents, return_inverse=True)
    value = statistic(np.arange(len(latents)))
    nothing = Estimate(value, math.nan, math.nan)
    if len(names) < 2 or math.isnan(value):
        return nothing
    rows = [np.flatnonzero(place == each) for each in range(len(names))]
    found = np.array(
        [
            statistic(np.concatenate([rows[each] for each in drawn]))
            for drawn in random.integers(len(names), size=(N_RESAMPLES, len(names)))
        ]
    )
    found = found[~np.isnan(found)]
    if len(found) < N_RESAMPLES / 2 or np.ptp(found) <= ALIKE:
        return nothing
    low, high = np.percentile(found, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def correlation(
    latents: NDArray[np.int64],
    x: Array,
    y: Array,
    kind: Literal["spearman", "pearson"],
    random: np.random.Generator,
) -> Estimate:
    """As `correlations.correlation`, but several rows of one latent are drawn together.

    With one row a latent both are the same. Nothing with fewer than four latents.

    A row that is drawn w times has weight w, so a resample is a row of weights, and the mean rank
    of row i is ½ + Σ_j w_j ([x_j < x_i] + ½ [x_j = x_i]).
    """
    names, place = np.unique(latents, return_inverse=True)
    if len(names) < N_PAIRS_MIN:
        return NOTHING
    drawn = random.integers(len(names), size=(N_RESAMPLES, len(names)))
    flat = drawn + len(names) * np.arange(N_RESAMPLES)[:, None]
    times = np.bincount(flat.ravel(), minlength=len(names) * N_RESAMPLES).reshape(drawn.shape)
    # The first row is the sample itself.
    weights = np.vstack([np.ones(len(names)), times.astype(np.float64)])[:, place]
    found = _weighted_pearson(_values(x, weights, kind), _values(y, weights, kind), weights)
    resampled = found[1:][~np.isnan(found[1:])]
    if math.isnan(found[0]) or not len(resampled):
        return Estimate(float(found[0]), math.nan, math.nan)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(found[0]), float(low), float(high))


def _values(x: Array, weights: Array, kind: str) -> Array:
    """(b, r) the numbers themselves, or their ranks in each resample."""
    if kind == "pearson":
        return np.broadcast_to(x, weights.shape)
    below = (x[:, None] < x) + 0.5 * (x[:, None] == x)
    return weights @ below + 0.5


def _weighted_pearson(x: Array, y: Array, weights: Array) -> Array:
    """(b,) correlation in each resample; NaN where one number is constant."""
    total = weights.sum(axis=1)
    sizes = np.abs(x).max(axis=1), np.abs(y).max(axis=1)
    x, y = (each - ((weights * each).sum(axis=1) / total)[:, None] for each in (x, y))
    across, of_x, of_y = ((weights * a * b).sum(axis=1) for a, b in ((x, y), (x, x), (y, y)))
    varies = np.ones(len(total), bool)
    for square, size in zip((of_x, of_y), sizes, strict=True):
        varies &= square > ALIKE**2 * total * size**2
    of_x, of_y = np.where(varies, of_x, math.nan), np.where(varies, of_y, math.nan)
    return np.clip(across / np.sqrt(of_x) / np.sqrt(of_y), -1, 1)


def spearman_interval(r: float, n: int) -> tuple[float, float]:
    """95 % interval of Spearman's r over n > 3 pairs, by Fisher's z with Bonett's standard error.

    tanh(artanh r ± 1.96 √((1 + r²/2) / (n − 3))): Bonett and Wright, Psychometrika 65, 2000, 23.
    """
    half = Z95 * math.sqrt((1 + r**2 / 2) / (n - 3))
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def more_for_spearman(estimate: Estimate, n: int, width: float) -> int | None:
    """Pairs to be added to n until the 95 % interval is expected to be narrower than `width`.

    The least N for which `spearman_interval(r, N)` is, less n; 0 if n is enough. Where the interval
    itself is wider than the formula has it at n, because several pairs are about one latent, the
    pairs are worth less, and N − 3 is as many times greater as the square of that ratio. None if
    there is no r, or it is 1 or −1, where the formula gives no width at all.
    """
    r = estimate.value
    if math.isnan(r) or abs(r) > 1 - ALIKE:
        return None

    def wide(n_pairs: int) -> float:
        low, high = spearman_interval(r, n_pairs)
        return high - low

    present = estimate.high - estimate.low
    wider = 1.0 if math.isnan(present) else max(present / wide(n), 1.0)
    high = N_PAIRS_MIN
    while wide(high) >= width:
        high *= 2
    low = high // 2 if high > N_PAIRS_MIN else N_PAIRS_MIN - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if wide(middle) < width else (middle, high)
    return max(math.ceil((high - 3) * wider**2 - 1e-9) + 3 - n, 0)


def more_by_root(estimate: Estimate, n: int, width: float) -> int | None:
    """Answers to be added to n until the interval is narrower than `width`: it goes as 1/√n.

    None without an interval, 0 if it is narrow enough.
    """
    present = estimate.high - estimate.low
    if math.isnan(present):
        return None
    # 100.0 may be 99.999…, which would be one too few.
    return 0 if present < width else math.floor(n * (present / width) ** 2 + 1e-9) + 1 - n
