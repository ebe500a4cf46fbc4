"""Differences over items and over latents: known cases, scipy's own answers, simulations."""

import math

import numpy as np
import pytest
from scipy.stats import nct, t, ttest_1samp, ttest_ind

from lite_interp.compare.differences import (
    apart,
    areas,
    correlations,
    gains,
    paired,
    two_sided,
    unpaired,
    visible,
    win_table,
)
from lite_interp.correlations import pearson
from lite_interp.records import Estimate
from lite_interp.stats import auroc, wilson

TRUTH = np.array([True, True, False, False])


def both(first, second, truth=TRUTH):
    return areas(tuple(win_table(truth, np.array(each)) for each in (first, second)))


def test_wins_are_counted():
    # 2 > 1, 2 > −1; 1 = 1, 1 > −1.
    table = win_table(TRUTH, np.array([2.0, 1.0, 1.0, -1.0]))
    assert table.tolist() == [[1, 1], [0.5, 1]]


def test_a_difference_of_areas_is_counted():
    # A: 1 1 / 1 1, area 1. B: 1 1 / 0 1, area .75. Gain 0 0 / 1 0: rows 0, ½ and columns ½, 0.
    # DeLong: var(0, ½)/2 + var(½, 0)/2 = .125/2 + .125/2 = .125; df .125² / (2 · .0625² / 1) = 2.
    found = both([2.0, 1.5, 1.0, -1.0], [2.0, 0.5, 1.0, -1.0])
    assert (found.first, found.second) == (1.0, 0.75)
    assert found.difference.value == 0.25
    half = t.ppf(0.975, 2) * math.sqrt(0.125)
    assert found.difference.low == pytest.approx(max(-1, 0.25 - half))
    assert found.p_value == pytest.approx(2 * t.sf(0.25 / math.sqrt(0.125), 2))


def test_areas_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    truth = random.random(40) < 0.4
    first, second = random.normal(size=(2, 40)).round(1)
    found = both(first, second, truth)
    assert found.first == pytest.approx(auroc(truth, first))
    assert found.difference.value == pytest.approx(auroc(truth, first) - auroc(truth, second))


def test_the_same_values_differ_by_nothing():
    values = [2.0, 0.5, 1.0, -1.0]
    found = both(values, values)
    assert (found.difference.value, found.p_value) == (0.0, 1.0)
    assert found.difference.low < 0 < found.difference.high


def test_items_that_all_gain_alike_have_an_interval():
    found = both([2.0, 1.5, 1.0, -1.0], [-1.0, -2.0, 2.0, 3.0])
    assert found.difference.value == 1.0
    assert found.difference.low < 1.0
    assert found.p_value == pytest.approx(2 / 6)  # 4 over 2


def test_swapped_sides_have_the_other_sign():
    random = np.random.default_rng(1)
    truth = np.arange(30) < 14
    first, second = random.normal(size=(2, 30))
    windows = [random.random(5) for _ in range(12)]
    told = [[random.random(5) for _ in windows] for _ in "AB"]
    pairs = [
        (both(first, second, truth), both(second, first, truth)),
        (correlations(windows, *told, 3), correlations(windows, *told[::-1], 3)),
        (gains(first, second), gains(second, first)),
        (paired(first, second), paired(second, first)),
        (unpaired(first, second[:20]), unpaired(second[:20], first)),
    ]
    for one, other in pairs:
        assert one.p_value == pytest.approx(other.p_value, abs=1e-12)
        value, low, high = one.difference
        assert other.difference == pytest.approx((-value, -high, -low), abs=1e-12)
        assert (one.first, one.second) == (other.second, other.first)


def test_correlations_are_over_all_tokens():
    random = np.random.default_rng(2)
    truth = [random.random(6) for _ in range(20)]
    good = [each + random.normal(0, 0.1, 6) for each in truth]
    bad = [random.random(6) for _ in truth]
    found = correlations(truth, good, bad, 0)
    assert found.first == pytest.approx(pearson(np.concatenate(truth), np.concatenate(good)))
    assert found.difference.value == pytest.approx(found.first - found.second)
    assert found.difference.low > 0
    assert found.p_value == pytest.approx(2 / 1001)
    assert correlations(truth, good, good, 0).p_value == 1.0


def test_numbers_of_other_items_are_squared_and_added():
    # Newcombe 1998, table II, (a): 56/70 − 48/80 = .2, method 10: .0524 to .3339.
    found = apart(wilson(56, 70), wilson(48, 80))
    assert found.difference == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert math.isnan(found.p_value)


def test_paired_means_are_students():
    random = np.random.default_rng(3)
    first, second = random.normal(0.8, 0.1, (2, 12))
    found, scipys = paired(first, second), ttest_1samp(first - second, 0)
    assert found.p_value == pytest.approx(scipys.pvalue)
    interval = scipys.confidence_interval()
    assert found.difference == pytest.approx(
        ((first - second).mean(), interval.low, interval.high), abs=1e-8
    )
    assert found.n_up + found.n_down == found.n_first == found.n_second == 12
    assert found.n_up == (first > second).sum()


@pytest.mark.parametrize("n", [2, 5, 12])
def test_latents_that_all_differ_alike_say_nothing_of_how_sure_it_is(n):
    values = np.linspace(0.5, 0.9, n)
    same, more = paired(values, values), paired(values, values - 0.1)
    assert (same.difference.value, same.p_value, same.n_up, same.n_down) == (0, 1, 0, 0)
    assert more.difference.value == pytest.approx(0.1)
    assert more.p_value == 2 * 0.5**n
    for found in (same, more):
        assert math.isnan(found.difference.low) and math.isnan(found.visible)


def test_one_latent_has_no_test():
    found = paired(np.array([0.8]), np.array([0.7]))
    assert found.n_first == 1
    assert math.isnan(found.p_value) and math.isnan(found.visible)
    assert math.isnan(paired(np.zeros(0), np.zeros(0)).difference.value)


def test_unpaired_means_are_welchs():
    random = np.random.default_rng(4)
    first, second = random.normal(0.8, 0.1, 12), random.normal(0.7, 0.3, 7)
    found, scipys = unpaired(first, second), ttest_ind(first, second, equal_var=False)
    interval = scipys.confidence_interval()
    assert (found.n_first, found.n_second) == (12, 7)
    assert found.p_value == pytest.approx(scipys.pvalue)
    assert found.difference == pytest.approx(
        (first.mean() - second.mean(), interval.low, interval.high)
    )


@pytest.mark.parametrize("sizes", [(0, 0), (0, 5), (1, 5), (4, 4)])
def test_unpaired_means_without_a_spread_have_no_interval(sizes):
    found = unpaired(*(np.full(n, 0.7) for n in sizes))
    assert math.isnan(found.difference.low) and math.isnan(found.p_value)


def test_one_side_may_be_constant():
    first, second = np.full(6, 0.1 + 0.2), np.linspace(0.5, 0.9, 5)
    found = unpaired(first, second)
    error = second.std(ddof=1) / math.sqrt(5)
    assert found.p_value == pytest.approx(2 * t.sf(abs(0.3 - 0.7) / error, 4))


@pytest.mark.parametrize("freedom", [1, 2, 4, 9, 29, 500])
def test_what_is_visible_is_found_in_four_of_five_runs(freedom):
    noncentrality = visible(1.0, freedom)
    assert nct.sf(t.ppf(0.975, freedom), freedom, noncentrality) == pytest.approx(0.8, abs=1e-5)
    assert visible(0.03, freedom) == pytest.approx(0.03 * noncentrality)
    assert math.isnan(visible(0.0, freedom)) and math.isnan(visible(math.nan, freedom))


@pytest.mark.parametrize("n", [4, 16])
def test_simulated_intervals_hold_the_truth_and_power_is_as_said(n):
    """4,000 runs: standard errors .0034 for 95 %, .0063 for 80 %."""
    random, spread = np.random.default_rng(5), 0.1
    effect = visible(spread / math.sqrt(n), n - 1)
    base = random.uniform(0.5, 0.9, (4000, n))
    differences = random.normal(effect, spread, (4000, n))
    found = [paired(a + d, a) for a, d in zip(base, differences, strict=True)]
    held = np.mean([each.difference.low <= effect <= each.difference.high for each in found])
    assert held == pytest.approx(0.95, abs=0.011)
    seen = np.mean([each.p_value < 0.05 and each.difference.value > 0 for each in found])
    assert seen == pytest.approx(0.8, abs=0.02)


def test_simulated_windows_of_one_latent_are_covered():
    """What an item is like weighs on both sides alike, and falls out of the interval."""
    random = np.random.default_rng(6)
    truth = np.arange(60) < 30

    def draw(n):
        active = np.arange(n) < n // 2
        item = random.normal(0, 2, n)
        return active, item + active + random.normal(size=n), item + random.normal(size=n)

    active, first, second = draw(40_000)
    true = auroc(active, first) - auroc(active, second)
    held, widths = [], []
    for _ in range(600):
        found = both(*draw(60)[1:], truth)
        held.append(found.difference.low <= true <= found.difference.high)
        widths.append(found.difference.high - found.difference.low)
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)
    assert np.mean(widths) < 0.3  # 1.96 · 2 · .054 · √2 if they were not paired


def test_two_sided_p():
    assert two_sided(0.01, 0.99) == 0.02
    assert two_sided(1.0, 1.0) == 1.0
    assert math.isnan(two_sided(math.nan, math.nan))
    assert math.isnan(apart(Estimate(0.5, 0.4, 0.6), Estimate(0.5, 0.4, 0.6)).p_value)
