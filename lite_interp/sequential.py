"""Stop judging a latent as soon as the answer is sure, with intervals that hold at every look.

A fixed-n interval looked at again and again leaves out the truth at some look far more often than
once in twenty. Repeated confidence intervals (Jennison and Turnbull, Controlled Clinical Trials 5,
1984, 33; "Group Sequential Methods", 1999, chapter 9) are so wide that the intervals of all looks
together hold it in 95 of 100 latents, whenever and for whatever reason one stops. How many looks
there are is planned, and the critical value is Pocock's, the same at each look.

Two intervals of a latent are watched, that of its score and that of its score less null. Each holds
at 95 % on its own, not both together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp import stats
from lite_interp.records import Estimate

N_NODES = 200
"""Points of the quadrature. With 100 the boundaries of 2 to 20 looks are the same to 1e-8."""

MIN_WINDOWS = 4
"""Fewest windows of each kind at the first look: fewer give no standard error to speak of."""


class Look(NamedTuple):
    """How much has been judged when one looks."""

    n_active: int
    """Activating windows judged so far."""
    n_silent: int
    """Silent windows judged so far."""


def looks(n_active: int, n_silent: int, n_looks: int) -> list[Look]:
    """When to look: after equal shares of the windows of each kind, the last time after all.

    Never more often than leaves four windows of each kind to every look; at least once, unless
    there are no windows at all.
    """
    if not n_active and not n_silent:
        return []
    n_looks = max(1, min(n_looks, n_active // MIN_WINDOWS, n_silent // MIN_WINDOWS))
    return [
        Look(round(n_active * look / n_looks), round(n_silent * look / n_looks))
        for look in range(1, n_looks + 1)
    ]


@lru_cache(maxsize=256)
def critical_value(n_looks: int, shares: tuple[float, ...] = ()) -> float:
    """The c for which P(max |Z_k| > c) = 0.05 over all looks, where the difference is 0.

    Args:
        n_looks: looks planned.
        shares: information at each look, increasing, in any unit; equal steps when empty.

    Z_k is a Brownian motion at time t_k over sqrt(t_k): corr(Z_i, Z_j) = sqrt(t_i / t_j). For equal
    shares this is Pocock's constant (Biometrika 64, 1977, 191): 1.960, 2.178, 2.289, 2.361, 2.413.
    """
    from scipy.optimize import brentq

    times = _times(n_looks, shares)

    def excess(bound: float) -> float:
        return _crossing(times, -bound, bound) - 0.05

    # One look alone needs 1.96; Bonferroni, 0.05 / n_looks, is enough for any correlation.
    return float(brentq(excess, 1.9, 5 + math.log(n_looks)))  # type: ignore[arg-type]


def _times(n_looks: int, shares: tuple[float, ...]) -> tuple[float, ...]:
    return shares or tuple(float(look) for look in range(1, n_looks + 1))


def _crossing(times: Sequence[float], low: float, high: float) -> float:
    """P(some Z_k outside low … high) of a Brownian motion seen at `times`.

    By recursion (Armitage, McPherson and Rowe, JRSS A 132, 1969, 235): the density of the motion
    that has stayed inside is carried from look to look, by Gauss–Legendre quadrature.
    """
    points, weights = np.polynomial.legendre.leggauss(N_NODES)
    density: NDArray[np.float64] = np.ones(1)
    places, before = np.zeros(1), 0.0
    for time in times:
        root = math.sqrt(time)
        middle, half = root * (low + high) / 2, root * (high - low) / 2
        next_places = middle + half * points
        step = math.sqrt(time - before)
        away = (next_places[:, None] - places) / step
        kernel = np.exp(-(away**2) / 2) / (step * math.sqrt(2 * math.pi))
        # The weights are folded in: `density` is the chance that belongs to each point.
        density = half * weights * (kernel @ density)
        places, before = next_places, time
    return float(1 - density.sum())


def repeated_interval(
    estimate: float, standard_error: float, degrees_of_freedom: float, n_looks: int
) -> Estimate:
    """A 95 % interval that holds at all of `n_looks` equally spaced looks at once.

    estimate ± q · standard_error, where q is the quantile of Student's t with the tail that
    Pocock's constant has in the normal distribution: few windows widen it, as they do in a
    fixed-n interval. No ends where there is no standard error, or it is 0: nothing is sure then.
    """
    if not standard_error > 0 or not degrees_of_freedom > 0:
        return Estimate(estimate, math.nan, math.nan)
    half = standard_error * stats.student(critical_value(n_looks), degrees_of_freedom)
    return Estimate(estimate, estimate - half, estimate + half)


def area_interval(active: NDArray[np.bool_], own: NDArray[np.float64], n_looks: int) -> Estimate:
    """AUROC of the windows judged so far, with an interval that holds at all looks at once.

    Newcombe's, as `stats.auroc_interval`, at Pocock's constant in the place of 1.96.
    """
    n_active = int(active.sum())
    area = stats.auroc(active, own)
    return stats.auroc_interval(area, n_active, len(active) - n_active, critical_value(n_looks))


def difference_interval(
    active: NDArray[np.bool_],
    own: NDArray[np.float64],
    controls: NDArray[np.float64],
    n_looks: int,
) -> Estimate:
    """AUROC less null so far, with an interval that holds at all looks at once.

    `repeated_interval` of `stats.delong`; where all windows gain the same, as
    `stats.difference_test`. Arguments as those of `stats.difference_from_null`.
    """
    return _difference(active, own, controls, critical_value(n_looks))[0]


def difference_p_value(
    active: NDArray[np.bool_],
    own: NDArray[np.float64],
    controls: NDArray[np.float64],
    n_looks: int,
) -> float:
    """`sequential_p_value` of AUROC less null at the look at which one stopped."""
    from scipy.special import ndtri

    _, p_value = _difference(active, own, controls, stats.Z95)
    return sequential_p_value([-float(ndtri(p_value))], n_looks)


def _difference(
    active: NDArray[np.bool_],
    own: NDArray[np.float64],
    controls: NDArray[np.float64],
    z: float,
) -> tuple[Estimate, float]:
    if not len(controls) or active.all() or not active.any():
        return stats.NOTHING, math.nan
    return stats.difference_test(stats.gain_table(active, own, controls), z)


def decide(
    own_interval: Estimate, difference_interval: Estimate, width: float
) -> Literal["above", "below", "narrow", ""]:
    """Whether to stop, and why; "" to go on.

    `above` and `below` when the interval of score less null leaves out 0; else `narrow` when that
    of the score is narrower than `width` from end to end. Missing ends decide nothing.
    """
    if difference_interval.low > 0:
        return "above"
    if difference_interval.high < 0:
        return "below"
    if own_interval.high - own_interval.low < width:
        return "narrow"
    return ""


def sequential_p_value(z_scores: Sequence[float], n_looks: int) -> float:
    """One-sided p-value of "the difference is not above 0" after one or more of `n_looks` looks.

    P(max Z_k ≥ the greatest z seen) over all planned looks, so it holds whenever one stops. A z of
    a look is norm.isf of its fixed-n p-value: Student's t is turned to the normal there. NaN
    without a z; a NaN z is a look at which nothing could be said.
    """
    from scipy.special import ndtr

    seen = [float(z) for z in z_scores if not math.isnan(z)]
    if not seen:
        return math.nan
    greatest = max(seen)
    if greatest > 6:  # 1 − P(inside) is rounding there, and crossings at two looks don't overlap
        return min(n_looks * float(ndtr(-greatest)), 1.0)
    if greatest < -5:
        return 1.0
    return _crossing(_times(n_looks, ()), -8.0, greatest)
