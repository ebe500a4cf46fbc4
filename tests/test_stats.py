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
    balanced_accuracy,
    better_than,
    delong,
    difference_from_null,
    difference_test,
    gain_table,
    mean_difference,
    mean_interval,
    q_values,
    relative,
    relative_controls,
    standard_error,
    student,
    wilson,
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


def test_a_wider_critical_value_makes_a_wider_interval_of_an_area():
    assert auroc_interval(0.8, 20, 20, Z) == auroc_interval(0.8, 20, 20)
    # m = n = 1 at area 1: 1 − θ = z² θ, with any z.
    assert auroc_interval(1.0, 1, 1, 2.5).low == pytest.approx(1 / (1 + 2.5**2))


def test_a_gain_is_the_own_win_less_the_mean_win_of_the_controls():
    active = np.array([True, False, True, False])
    own = np.array([3.0, 1.0, 1.0, 2.0])
    controls = np.array([[0.0, 1.0, 1.0, 1.0], [5.0, 4.0, 3.0, 4.0]])
    # Own: 3 beats 1 and 2; 1 ties 1 and loses to 2. First control: 0 loses twice, 1 ties twice.
    # Second: 5 beats both, 3 loses twice. Their means: ½ ½, ¼ ¼.
    expected = [[0.5, 0.5], [0.25, -0.25]]
    np.testing.assert_allclose(gain_table(active, own, controls), expected)


def test_the_standard_error_is_that_of_delong_by_hand():
    # Row means 1, ½; column means 1, ½: both variances 1/8, so 1/16 + 1/16, and 1/8²/(2/16²) = 2.
    found = delong(np.array([[1.0, 1.0], [1.0, 0.0]]))
    assert found == pytest.approx((0.75, math.sqrt(1 / 8), 2.0))


def test_the_standard_error_is_that_of_the_area_in_large_samples():
    # Of one AUROC (a control that ties throughout adds nothing), it is near that of Hanley and
    # McNeil: at ½ the variance is (m+n+1) / (12mn).
    random = np.random.default_rng(0)
    active = np.arange(800) < 400
    found = delong(gain_table(active, random.normal(size=800), np.zeros((1, 800))))
    assert found.standard_error == pytest.approx(math.sqrt(801 / (12 * 400**2)), rel=0.02)
    assert found.degrees_of_freedom == pytest.approx(798, rel=0.02)


def test_the_interval_of_delong_is_near_that_of_the_bootstrap():
    random = np.random.default_rng(8)
    active = np.arange(100) < 50
    own, controls = random.normal(size=100) + active, random.normal(size=(3, 100))
    _, slow = difference(own, controls, active)
    fast, p_value = difference_test(gain_table(active, own, controls))
    assert fast.value == pytest.approx(slow.value)
    assert fast[1:] == pytest.approx(slow[1:], abs=0.02)
    assert p_value < 0.001


def test_the_p_value_goes_with_the_interval():
    gain = np.random.default_rng(9).choice([-0.5, 0.0, 0.5, 1.0], (12, 9))
    value, error, freedom = delong(gain)
    estimate, p_value = difference_test(gain)
    assert p_value == pytest.approx(scipy.stats.t.sf(value / error, freedom))
    assert difference_test(-gain)[1] == pytest.approx(1 - p_value)
    assert 0 < p_value < 0.025
    assert estimate.low > 0
    # At the z of a one-sided p the interval ends at 0.
    end, _ = difference_test(gain, scipy.stats.norm.isf(p_value))
    assert end.low == pytest.approx(0, abs=1e-12)


def test_under_no_difference_p_values_are_as_small_as_they_say_they_are():
    random = np.random.default_rng(10)
    active = np.arange(40) < 20
    p_values = np.array(
        [
            difference_test(gain_table(active, values[0], values[1:]))[1]
            for values in random.normal(size=(1000, 3, 40))
        ]
    )
    # Two standard deviations of a share of 1,000: .014 at .05, .019 at .1.
    assert (p_values < 0.05).mean() < 0.05 + 0.014
    assert (p_values < 0.1).mean() == pytest.approx(0.1, abs=0.025)


@pytest.mark.parametrize(("gain", "p_value"), [(0.5, 1 / 252), (0.0, 1.0), (-0.5, 1.0)])
def test_where_all_windows_gain_the_same_shuffling_bounds_the_p_value(gain, p_value):
    # binom(10, 5) = 252 ways to choose which five windows activate.
    estimate, found = difference_test(np.full((5, 5), gain))
    assert found == pytest.approx(p_value)
    assert estimate.value == gain
    expected = newcombe((1 + gain) / 2, 5, 5)
    assert estimate[1:] == pytest.approx([2 * end - 1 for end in expected])


def test_rounding_is_no_spread():
    thirds = np.full((4, 6), 1 - 1 / 3)
    thirds[0] = 2 / 3
    assert delong(thirds).standard_error == 0


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 3), (3, 1)])
def test_with_too_few_windows_nothing_is_sure(shape):
    estimate, p_value = difference_test(np.full(shape, 0.5))
    assert math.isnan(p_value)
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.value) == (0 in shape)


def test_students_quantile_has_the_tail_of_the_normal_one():
    # Tables: t(4) at 97.5 % is 2.776, t(10) 2.228.
    assert student(Z, 4) == pytest.approx(2.776, abs=5e-4)
    assert student(Z, 10) == pytest.approx(2.228, abs=5e-4)


def test_q_values_by_hand():
    # Sorted .01 .02 .03 .5, times 4 / rank: .04 .04 .04 .5.
    found = q_values(np.array([0.03, math.nan, 0.01, 0.5, 0.02]))
    np.testing.assert_allclose(found, [0.04, math.nan, 0.04, 0.5, 0.04])


@pytest.mark.parametrize("none", [[], [math.nan], [math.nan, math.nan]])
def test_without_p_values_there_are_no_q_values(none):
    np.testing.assert_array_equal(q_values(np.array(none)), none)


def test_a_mean_is_compared_with_other_explanations_prompt_by_prompt():
    own = np.array([2.0, 3.0, 7.0, 1.0])
    controls = np.array([[1.0, 1.0, 2.0, 1.0], [3.0, 1.0, 4.0, 3.0]])
    mean, null, found, p_value = mean_difference(own, controls)
    # Means of the controls 2 1 3 2; differences 0 2 4 −1.
    expected = scipy.stats.ttest_1samp([0.0, 2, 4, -1], 0, alternative="greater")
    assert mean == mean_interval(own)
    assert null == pytest.approx(2)
    assert found == mean_interval(np.array([0.0, 2, 4, -1]))
    assert p_value == pytest.approx(expected.pvalue)


def test_a_prompt_without_all_numbers_is_left_out_of_a_mean_difference():
    own, controls = np.array([2.0, 3, 7, 1, 5]), np.arange(10.0).reshape(2, 5)
    holed = own.copy()
    holed[1], controls[1, 3] = math.nan, math.nan
    kept = [0, 2, 4]
    expected = mean_difference(own[kept], controls[:, kept])
    assert mean_difference(holed, controls) == expected


def test_prompts_that_all_differ_alike_have_the_p_value_of_the_signs():
    own = np.arange(4.0) / 3
    assert mean_difference(own, own[None] - 0.1)[3] == 1 / 16
    # The mean of six times .1 is not .1, so their standard deviation is not 0.
    assert np.full(6, 0.1).std(ddof=1) > 0
    assert mean_difference(np.full(6, 0.3), np.full((1, 6), 0.2))[3] == 1 / 64
    assert mean_difference(own, own[None])[3] == 1
    assert mean_difference(own, own[None] + 0.1)[3] == 1


@pytest.mark.parametrize(("n", "c"), [(0, 2), (3, 0), (0, 0)])
def test_without_prompts_or_controls_there_is_no_mean_difference(n, c):
    mean, null, found, p_value = mean_difference(np.arange(n * 1.0), np.zeros((c, n)))
    assert math.isnan(mean.value) == (n == 0)
    assert all(math.isnan(number) for number in (null, *found, p_value))


def test_one_prompt_has_a_difference_but_no_p_value():
    _, null, found, p_value = mean_difference(np.array([3.0]), np.array([[1.0]]))
    assert (null, found.value) == (1, 2)
    assert math.isnan(found.low)
    assert math.isnan(p_value)


def test_the_standard_error_of_a_mean():
    # 1 … 5: variance 2.5.
    assert standard_error(np.array([1.0, 2, 3, math.nan, 4, 5])) == pytest.approx(math.sqrt(0.5))
    assert math.isnan(standard_error(np.array([1.0, math.nan])))
    assert math.isnan(standard_error(np.array([])))


def test_wilsons_interval_has_known_ends():
    # Newcombe (1998), table I: 81 of 263 is .2553 … .3662, 15 of 148 .0624 … .1605, 0 of 20
    # 0 … .1611, 1 of 29 .0061 … .1718.
    for n_right, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(n_right, n) == pytest.approx((n_right / n, low, high), abs=6e-5)
    assert all(math.isnan(number) for number in wilson(0, 0))


def said(n_true, n_active, n_false, n_silent):
    """Truth and yeses with so many of each."""
    active = np.arange(n_active + n_silent) < n_active
    place = np.arange(n_active + n_silent)
    return active, (place < n_true) | ((place >= n_active) & (place < n_active + n_false))


def test_balanced_accuracy_is_the_mean_of_both_shares():
    active, yes = said(56, 70, 32, 80)
    # Newcombe (1998), table II (a): 56/70 less 48/80 is .2, .0524 … .3339 by method 10. Specificity
    # 48/80 is 1 − 32/80, and a sum moves as a difference from the mirror image: (.8 + .6) / 2.
    estimate = balanced_accuracy(active, yes)
    assert estimate.value == pytest.approx(0.7)
    mirrored = balanced_accuracy(*said(56, 70, 48, 80))
    # .8 and .4: their mean is ½ + (.8 − .6) / 2.
    assert mirrored == pytest.approx((0.6, 0.5 + 0.0524 / 2, 0.5 + 0.3339 / 2), abs=6e-5)


def test_a_perfect_judge_has_an_honest_balanced_accuracy():
    value, low, high = balanced_accuracy(*said(10, 10, 0, 10))
    # Wilson for 10 of 10 ends at 1 / (1 + z²/10) = .7225; sqrt 2 · .2775 / 2.
    assert (value, high) == (1, 1)
    assert low == pytest.approx(1 - 0.2775 / math.sqrt(2), abs=1e-4)


def test_balanced_accuracy_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    counts = zip(random.binomial(50, 0.8, 1000), random.binomial(50, 0.05, 1000), strict=True)
    found = [balanced_accuracy(*said(right, 50, false, 50)) for right, false in counts]
    assert np.mean([each.low <= 0.875 <= each.high for each in found]) > 0.95 - 0.014


@pytest.mark.parametrize("active", [[], [True, True], [False]])
def test_without_both_kinds_of_windows_there_is_no_balanced_accuracy(active):
    found = balanced_accuracy(np.array(active, bool), np.zeros(len(active), bool))
    assert all(math.isnan(number) for number in found)


def test_better_than_chance_is_an_exact_tail():
    # 4 and 5 of 5 at one in five: 5 · .2⁴ · .8 + .2⁵.
    assert better_than(4, 5, 0.2) == pytest.approx(5 * 0.2**4 * 0.8 + 0.2**5)
    assert better_than(0, 5, 0.2) == 1
    assert math.isnan(better_than(0, 0, 0.2))
