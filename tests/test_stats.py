import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lite_interp import stats
from lite_interp.stats import (
    auroc,
    auroc_interval,
    difference_from_null,
    mean_interval,
    relative,
    relative_controls,
)

Z = scipy.stats.norm.ppf(0.975)


def by_counting(active, values):
    """The slow twin: every pair of an activating and a silent window, one at a time."""
    wins = [
        1.0 if yes > no else 0.5 if yes == no else 0.0
        for yes in values[active]
        for no in values[~active]
    ]
    return sum(wins) / len(wins)


@st.composite
def judged(draw):
    """Windows of both kinds with values that often tie."""
    n = draw(st.integers(2, 25))
    active = draw(hnp.arrays(bool, n))
    active[0], active[1] = True, False
    values = draw(hnp.arrays(np.float64, n, elements=st.integers(-3, 3) | st.floats(-1e6, 1e6)))
    return active, values


@given(judged())
def test_the_area_equals_counting_all_pairs(sample):
    active, values = sample
    assert auroc(active, values) == pytest.approx(by_counting(active, values), abs=1e-12)


@given(judged())
def test_the_areas_of_resamples_equal_counting_all_pairs(sample):
    active, values = sample
    table = np.stack([values, -values])
    expected = [by_counting(active, values), 1 - by_counting(active, values)]
    np.testing.assert_allclose(stats._areas(table[:, active], table[:, ~active]), expected)


@pytest.mark.parametrize("active", [[], [True, True], [False]])
def test_without_both_kinds_of_windows_there_is_no_area(active):
    assert math.isnan(auroc(np.array(active, bool), np.zeros(len(active))))


def newcombe(area, n_active, n_silent):
    """Newcombe's fifth method once more, as the roots of a polynomial.

    (θ − area)² = z² θ(1−θ)/(mn) · [1 + M(1−θ)/(2−θ) + Mθ/(1+θ)] with M = (m+n)/2 − 1, times
    mn(2−θ)(1+θ):
    mn(θ − area)²(2−θ)(1+θ) − z² θ(1−θ)[(2−θ)(1+θ) + M(1−θ)(1+θ) + Mθ(2−θ)] = 0.
    """
    polynomial = np.polynomial.Polynomial
    theta, rest, two, one = (polynomial(c) for c in ([0, 1], [1, -1], [2, -1], [1, 1]))
    middle = (n_active + n_silent) / 2 - 1
    left = n_active * n_silent * (theta - area) ** 2 * two * one
    right = Z**2 * theta * rest * (two * one + middle * rest * one + middle * theta * two)
    roots = (left - right).roots()
    real = roots[np.abs(roots.imag) < 1e-9].real
    inside = np.sort(real[(real > -1e-9) & (real < 1 + 1e-9)])
    return inside[0], inside[-1]


@pytest.mark.parametrize(
    ("area", "n_active", "n_silent"),
    [(0.5, 50, 50), (0.75, 50, 50), (0.9, 12, 36), (0.97, 36, 12), (0.3, 5, 500), (0.62, 3, 2)],
)
def test_the_interval_is_that_of_newcombe(area, n_active, n_silent):
    estimate = auroc_interval(area, n_active, n_silent)
    assert estimate.value == area
    assert estimate[1:] == pytest.approx(newcombe(area, n_active, n_silent), abs=1e-9)


def test_with_one_pair_the_interval_is_wilsons_for_one_trial():
    # m = n = 1: M = 0, so (θ − area)² = z² θ(1−θ). At area 1: 1 − θ = z² θ, θ = 1/(1 + z²).
    assert auroc_interval(1.0, 1, 1) == pytest.approx((1.0, 1 / (1 + Z**2), 1.0))
    # At a tie, area ½, with d = θ − ½: d² = z²(¼ − d²), d = ½ z / sqrt(1 + z²).
    half = Z / math.sqrt(1 + Z**2) / 2
    assert auroc_interval(0.5, 1, 1) == pytest.approx((0.5, 0.5 - half, 0.5 + half))


def test_a_perfect_area_has_an_honest_interval():
    # At area 1 a factor (1−θ) divides out: mn(1−θ) = z² θ [1 + M(1−θ)/(2−θ) + Mθ/(1+θ)], and
    # near θ = 1 with M = 49: 2500(1−θ) ≈ 3.84 · 25.5 = 98, θ ≈ .961.
    estimate = auroc_interval(1.0, 50, 50)
    assert estimate.high == 1.0
    assert estimate.low == pytest.approx(newcombe(1.0, 50, 50)[0], abs=1e-9)
    assert estimate.low == pytest.approx(0.961, abs=0.002)


def test_an_area_of_zero_mirrors_that_of_one():
    best, worst = auroc_interval(1.0, 50, 20), auroc_interval(0.0, 50, 20)
    assert worst == pytest.approx((0.0, 0.0, 1 - best.low))


@given(
    area=st.floats(0, 1, allow_subnormal=False),
    n_active=st.integers(1, 2000),
    n_silent=st.integers(1, 2000),
)
def test_an_interval_holds_its_area_and_mirrors_with_it(area, n_active, n_silent):
    value, low, high = auroc_interval(area, n_active, n_silent)
    assert 0 <= low <= value <= high <= 1
    assert high > low
    # 1 − area is rounded where area is tiny, and the edge of an interval moves as its root.
    mirrored = auroc_interval(1 - area, n_silent, n_active)
    assert mirrored == pytest.approx((1 - value, 1 - high, 1 - low), abs=1e-7)


def test_four_times_the_windows_make_half_the_interval():
    small, large = auroc_interval(0.8, 100, 100), auroc_interval(0.8, 400, 400)
    assert (small.high - small.low) / (large.high - large.low) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("case", [(math.nan, 5, 5), (0.5, 0, 5), (0.5, 5, 0)])
def test_there_is_no_interval_around_nothing(case):
    assert all(math.isnan(number) for number in auroc_interval(*case))


@pytest.mark.parametrize(("area", "n"), [(0.7, 25), (0.9, 50), (0.95, 20)])
def test_the_interval_covers_the_true_area_about_as_often_as_it_says(area, n):
    # Two normal distributions, d = sqrt(2) Φ⁻¹(area) apart. 1,000 samples: where the true
    # coverage is 95 %, less than 92.5 % or more than 98 % come out once in 3,900 runs; the seed
    # is fixed.
    random = np.random.default_rng(0)
    apart = math.sqrt(2) * scipy.stats.norm.ppf(area)
    yes, no = random.normal(apart, 1, (1000, n)), random.normal(0, 1, (1000, n))
    areas = (yes[:, :, None] > no[:, None, :]).mean(axis=(1, 2))
    found = [auroc_interval(each, n, n) for each in areas]
    covered = np.mean([each.low <= area <= each.high for each in found])
    assert 0.925 <= covered <= 0.98


active_first = np.arange(40) < 20


@given(st.integers(0, 1 << 32), st.integers(2, 6))
def test_what_a_window_gets_whatever_the_explanation_falls_out_of_the_relative_value(seed, n):
    random = np.random.default_rng(seed)
    window = random.normal(0, 3, 40) + 9 * active_first
    own = window + random.normal()
    controls = window + random.normal(size=(n, 1))
    assert auroc(active_first, own) > 0.75  # the window's own share looks like skill
    # Without it all windows tie, exactly: 0.5 and no rounding that ranks them.
    assert auroc(active_first, relative(own, controls)) == 0.5
    assert [auroc(active_first, each) for each in relative_controls(controls)] == [0.5] * n


def test_what_the_explanation_adds_stays_in_the_relative_value():
    random = np.random.default_rng(0)
    window, skill = random.normal(0, 100, 40), random.normal(0, 1, 40) + active_first
    found = relative(window + skill, np.stack([window, window + 5, window - 9]))
    # The mean of the controls is the window's share − 4/3.
    np.testing.assert_allclose(found, skill + 4 / 3, atol=1e-8)


def test_each_control_is_compared_with_the_others_and_not_with_itself():
    controls = np.array([[1.0, 5.0], [2.0, 7.0], [6.0, 0.0]])
    # By hand: 1 − (2+6)/2, 5 − (7+0)/2; 2 − (1+6)/2, 7 − (5+0)/2; 6 − (1+2)/2, 0 − (5+7)/2.
    expected = [[-3.0, 1.5], [-1.5, 4.5], [4.5, -6.0]]
    np.testing.assert_allclose(relative_controls(controls), expected)


def difference(own, controls, active=active_first, seed=0):
    return difference_from_null(active, own, controls, np.random.default_rng(seed))


def test_an_explanation_that_is_its_own_null_differs_by_nothing():
    values = np.random.default_rng(0).normal(size=40)
    null, found = difference(values, np.stack([values, values]))
    assert null == pytest.approx(by_counting(active_first, values))
    assert found == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_the_difference_is_the_area_less_the_mean_area_of_the_controls():
    random = np.random.default_rng(1)
    own, controls = random.normal(size=40) + active_first, random.normal(size=(3, 40))
    null, found = difference(own, controls)
    areas = [by_counting(active_first, control) for control in controls]
    assert null == pytest.approx(np.mean(areas))
    assert found.value == pytest.approx(by_counting(active_first, own) - np.mean(areas))
    assert found.low < found.value < found.high


def test_the_interval_of_a_difference_is_that_of_resamples_counted_one_by_one():
    # The slow twin: the same draws of windows, and every pair of every resample counted anew.
    random = np.random.default_rng(7)
    active = np.arange(17) < 6
    own, controls = random.integers(0, 4, 17) + active, random.integers(0, 4, (3, 17)) * 1.0

    def slowly(yes, no):
        drawn = np.concatenate([yes, no])
        truth = np.arange(17) < 6
        null = [by_counting(truth, control[drawn]) for control in controls]
        return by_counting(truth, own[drawn]) - np.mean(null)

    expected = scipy.stats.bootstrap(
        (np.flatnonzero(active), np.flatnonzero(~active)),
        slowly,
        n_resamples=1000,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    _, found = difference(own * 1.0, controls, active)
    assert found[1:] == pytest.approx((expected.low, expected.high))


def test_the_interval_of_a_difference_is_paired_by_window():
    # A large share of each window that own and controls have in common moves both areas alike.
    random = np.random.default_rng(2)
    window = random.normal(0, 3, 40)
    together = random.normal(0, 0.1, (3, 40)) + window
    apart = np.stack([random.permutation(row) for row in together])
    _, paired = difference(together[0] + 0.1 * active_first, together[1:])
    _, unpaired = difference(together[0] + 0.1 * active_first, apart[1:])
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 5


def test_a_clear_difference_excludes_nothing_and_no_difference_includes_it():
    random = np.random.default_rng(3)
    noise = random.normal(size=(5, 40))
    _, clear = difference(noise[0] + 3 * active_first, noise[1:])
    assert 0.2 < clear.low < clear.high <= 1
    _, none = difference(noise[0], noise[1:])
    assert none.low < 0 < none.high


def test_the_interval_of_a_difference_stays_within_what_is_possible():
    # Own separates all windows, so no resample is greater than 1 less the least null.
    random = np.random.default_rng(6)
    own = random.normal(size=40) + 99 * active_first
    null, found = difference(own, random.normal(size=(2, 40)) - 3 * active_first)
    assert 0 < null < 0.1
    assert 0.8 < found.low < found.value < found.high <= 1
    assert found.value == pytest.approx(1 - null)


def test_the_interval_of_a_difference_holds_zero_about_as_often_as_it_says():
    # Own and controls are drawn alike, so the true difference is 0. Of 300 intervals of 95 %
    # fewer than 270 hold it once in 8,000 runs, more than 297 once in 34,000; the seed is fixed.
    random = np.random.default_rng(4)
    active = np.arange(30) < 15
    held = 0
    for seed in range(300):
        values = random.normal(size=(3, 30))
        _, found = difference(values[0], values[1:], active, seed)
        held += found.low <= 0 <= found.high
    assert 270 <= held <= 297


def test_the_same_generator_gives_the_same_interval():
    values = np.random.default_rng(5).normal(size=(3, 40))
    assert difference(values[0], values[1:]) == difference(values[0], values[1:])
    assert difference(values[0], values[1:]) != difference(values[0], values[1:], seed=1)


def test_without_controls_or_without_one_kind_of_windows_there_is_no_difference():
    values = np.arange(4.0)
    for active, controls in (
        (np.array([True, True, False, False]), np.zeros((0, 4))),
        (np.ones(4, bool), np.zeros((2, 4))),
        (np.zeros(4, bool), np.zeros((2, 4))),
    ):
        null, found = difference(values, controls, active)
        assert math.isnan(null)
        assert all(math.isnan(number) for number in found)


def test_one_activating_window_gives_a_difference_without_an_interval():
    active = np.array([True, False, False])
    null, found = difference(np.array([3.0, 1.0, 2.0]), np.array([[1.5, 1.0, 2.0]]), active)
    # Own wins both pairs, the control one of two: 1 − ½.
    assert (null, found.value) == (0.5, 0.5)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_a_mean_has_the_interval_of_student():
    # 1 … 5: mean 3, standard deviation sqrt(2.5), t(4) = 2.7764: 3 ± 2.7764 · sqrt(2.5/5).
    estimate = mean_interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert estimate == pytest.approx((3, 3 - 1.96324, 3 + 1.96324), abs=1e-4)


@given(hnp.arrays(np.float64, st.integers(2, 20), elements=st.floats(-100, 100)))
def test_the_interval_of_a_mean_is_that_of_scipy(values):
    values = np.append(values, np.arange(2.0))  # two that differ, so that scipy has a spread
    found = mean_interval(np.append(values, np.nan))
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(values.mean())
    assert found[1:] == pytest.approx((expected.low, expected.high))


def test_one_value_has_a_mean_but_no_interval_and_none_has_nothing():
    value, low, high = mean_interval(np.array([0.7, math.nan]))
    assert value == 0.7
    assert math.isnan(low)
    assert math.isnan(high)
    assert all(math.isnan(number) for number in mean_interval(np.array([math.nan])))
    assert all(math.isnan(number) for number in mean_interval(np.array([])))
