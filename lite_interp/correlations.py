"""Correlations with intervals: over latents, and over tokens with resampled windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.records import Estimate
from lite_interp.stats import NOTHING

N_RESAMPLES = 1000
"""Of each bootstrap."""

N_PAIRS_RESAMPLED = 4096
"""Of more pairs than these, so many are resampled."""

N_PAIRS_MIN = 4
"""With fewer pairs a correlation is an accident."""

ALIKE = 1e-12
"""Spread, next to the size of the values, below which they count as constant."""


def pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Pearson's correlation of (n,) and (n,); NaN if one is constant or fewer than two are there.

    Pairs in which one is NaN or infinite are left out.
    """
    known = np.isfinite(x) & np.isfinite(y)
    return float(_pearson(x[None, known], y[None, known])[0])


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """(r,) correlation of each row of (r, n) and (r, n), without a warning for a constant row."""
    if x.shape[1] < 2:
        return np.full(len(x), math.nan)
    n, size = x.shape[1], (np.abs(x).max(axis=1), np.abs(y).max(axis=1))
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    across = np.einsum("rn,rn->r", x, y)
    return _ratio(across, (x**2).sum(axis=1), (y**2).sum(axis=1), [n * each**2 for each in size])


def _ratio(
    across: NDArray[np.float64],
    of_x: NDArray[np.float64],
    of_y: NDArray[np.float64],
    sizes: Sequence[NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Σxy / sqrt(Σxx Σyy) of centred sums; NaN where a sum is only rounding next to its size."""
    varies = (of_x > ALIKE**2 * sizes[0]) & (of_y > ALIKE**2 * sizes[1])
    of_x, of_y = np.where(varies, of_x, math.nan), np.where(varies, of_y, math.nan)
    return np.clip(across / np.sqrt(of_x) / np.sqrt(of_y), -1, 1)


def correlation(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    kind: Literal["spearman", "pearson"],
    random: np.random.Generator,
) -> Estimate:
    """Correlation of two numbers over latents, with a 95 % interval.

    Args:
        x: (n,) one number of each latent.
        y: (n,) the other.
        kind: `spearman`, of ranks, where equal values share their mean rank; or `pearson`.
        random: source of the resamples.

    The interval is a percentile bootstrap over latents, 1,000 resamples; those in which one number
    is constant are left out. Latents without both numbers are left out; nothing with fewer than 4.
    Of n > 4,096 pairs m = 4,096 drawn ones are resampled, and the interval, which is that much
    wider, is narrowed by √(m / n) around the correlation of all.
    """
    from scipy.stats import rankdata

    known = np.isfinite(x) & np.isfinite(y)
    pairs = np.stack([x[known], y[known]])
    n = pairs.shape[1]
    if n < N_PAIRS_MIN:
        return NOTHING

    def found(taken: NDArray[np.float64]) -> NDArray[np.float64]:
        return _pearson(*(rankdata(taken, axis=-1) if kind == "spearman" else taken))

    m = min(n, N_PAIRS_RESAMPLED)
    some = pairs if m == n else pairs[:, random.choice(n, m, replace=False)]
    # The first row is the sample itself.
    drawn = np.vstack([np.arange(m), random.integers(m, size=(N_RESAMPLES, m))])
    resampled = found(some[:, drawn])
    own, low, high = _percentiles(float(resampled[0]), resampled[1:])
    if m == n:
        return Estimate(own, low, high)
    value, narrower = float(found(pairs[:, None])[0]), math.sqrt(m / n)
    return Estimate(value, value + narrower * (low - own), value + narrower * (high - own))


def _percentiles(value: float, resampled: NDArray[np.float64]) -> Estimate:
    resampled = resampled[~np.isnan(resampled)]
    if math.isnan(value) or not len(resampled):
        return Estimate(value, math.nan, math.nan)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


class Pooled(NamedTuple):
    """A correlation over tokens, and the same for other latents' explanations."""

    correlation: Estimate
    """Pearson's r, −1 to 1."""
    null: float
    """Mean r of the controls; NaN without any."""
    difference: Estimate
    """r less null."""
    p_value: float
    """Of "it is not above 0", one-sided: (1 + resamples not above 0) / (1 + resamples)."""


def pooled_pearson_difference(
    truth: Sequence[NDArray[np.float64]],
    own: Sequence[NDArray[np.float64]],
    controls: Sequence[Sequence[NDArray[np.float64]]],
    random: np.random.Generator,
) -> Pooled:
    """Pearson's correlation over the tokens of all windows, its null, and the difference.

    Args:
        truth: for each window the (n_tokens,) activations.
        own: the same shape, predicted from the explanation itself.
        controls: for each control, the same shape, predicted from another latent's explanation.
        random: source of the resamples.

    The null is the mean over the controls; a control that predicts a constant has no correlation
    and is left out. The 95 % intervals are percentile bootstraps over windows, 1,000 resamples,
    the same windows for own and controls: tokens of one window are not independent. They are made
    from the six sums of each window (n, Σx, Σy, Σxx, Σyy, Σxy), so a resample costs no pass over
    the tokens. A token that one of them has no finite number for is left out.
    """
    nothing = Pooled(NOTHING, math.nan, NOTHING, math.nan)
    if not len(truth):
        return nothing
    actual = np.concatenate(truth)
    predicted = np.stack([np.concatenate(each) for each in (own, *controls)])
    known = np.isfinite(actual) & np.isfinite(predicted).all(axis=0)
    lengths = [len(window) for window in truth]
    names, window = np.unique(np.repeat(np.arange(len(truth)), lengths)[known], return_inverse=True)
    if not len(names):
        return nothing
    n = len(names)
    drawn = random.multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES if n > 1 else 0)
    # The first row is the sample itself.
    times = np.vstack([np.ones(n), drawn.astype(np.float64)])
    found = np.stack([_pooled(actual[known], each[known], window, times) for each in predicted])
    there = ~np.isnan(found[1:])
    n_there = np.where(there.any(axis=0), there.sum(axis=0), math.nan)
    null = np.where(there, found[1:], 0).sum(axis=0) / n_there
    gain = found[0] - null
    difference = _percentiles(float(gain[0]), gain[1:])
    resampled = gain[1:][~np.isnan(gain[1:])]
    p_value = (1 + int((resampled <= 0).sum())) / (1 + len(resampled))
    return Pooled(
        _percentiles(float(found[0, 0]), found[0, 1:]),
        float(null[0]),
        difference,
        math.nan if math.isnan(difference.low) else p_value,
    )


def _pooled(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    window: NDArray[np.int64],
    times: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(r,) correlation over tokens where window w is taken times[r, w] times."""
    size_x, size_y = np.abs(x).max(), np.abs(y).max()
    # Far from 0 the sums of squares would lose their digits.
    x, y = x - x.mean(), y - y.mean()
    columns = (np.ones(len(x)), x, y, x * x, y * y, x * y)
    sums = np.stack([np.bincount(window, weights=column) for column in columns])
    n, sum_x, sum_y, sum_xx, sum_yy, sum_xy = sums @ times.T
    return _ratio(
        sum_xy - sum_x * sum_y / n,
        sum_xx - sum_x**2 / n,
        sum_yy - sum_y**2 / n,
        [n * size_x**2, n * size_y**2],
    )
