import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from lite_interp.rates import rates
from lite_interp.stats import wilson


def sample(seed=0, n=40, n_active=15, ties=True):
    random = np.random.default_rng(seed)
    active = random.permutation(n) < n_active
    values = random.normal(size=n) + 1.5 * active
    weights = np.where(active, 2.0, random.choice([3.0, 70.0], n))
    return active, np.round(values, 1) if ties else values, weights


@pytest.mark.parametrize("seed", range(5))
def test_the_rates_are_those_of_scikit_learn(seed):
    active, values, weights = sample(seed)
    found, yes = rates(active, values, weights, 0.8), values > 0.8
    expected = {
        "recall": recall_score(active, yes, sample_weight=weights),
        "false_positive_rate": recall_score(~active, yes, sample_weight=weights),
        "precision": precision_score(active, yes, sample_weight=weights),
        "f1": f1_score(active, yes, sample_weight=weights),
        "average_precision": average_precision_score(active, values, sample_weight=weights),
    }
    for name, value in expected.items():
        assert getattr(found, name).value == pytest.approx(value), name
    assert found.base_rate == pytest.approx(weights[active].sum() / weights.sum())


def test_the_rates_by_hand():
    # Two of three activating windows, each for 1; of four silent windows one of weight 2 and one
    # of weight 7 get a yes, others weigh 1 and 10. R = 2/3, F = 9/20, precision 2/11, F1 4/14.
    active = np.array([1, 1, 1, 0, 0, 0, 0], bool)
    values = np.array([5.0, 4, 0, 3, 2, -1, -2])
    weights = np.array([1.0, 1, 1, 2, 7, 1, 10])
    found = rates(active, values, weights, 1.0)
    assert found.recall.value == pytest.approx(2 / 3)
    assert found.false_positive_rate.value == pytest.approx(9 / 20)
    assert found.precision.value == pytest.approx(2 / 11)
    assert found.f1.value == pytest.approx(4 / 14)
    # Precision at the three activating windows: 1, 1, 3/12.
    assert found.average_precision.value == pytest.approx((1 + 1 + 3 / 12) / 3)
    assert found.base_rate == pytest.approx(3 / 23)


def test_windows_of_equal_weight_have_wilsons_interval():
    active, values, _ = sample()
    found = rates(active, values, np.where(active, 3.0, 200.0), 0.8)
    n_right, n_false = int((values[active] > 0.8).sum()), int((values[~active] > 0.8).sum())
    assert found.recall == pytest.approx(wilson(n_right, 15))
    assert found.false_positive_rate == pytest.approx(wilson(n_false, 25))


def test_uneven_weights_are_worth_fewer_windows():
    # Weights 1 and 9, ten of each: (100)² / (10 + 810) = 12.2 windows.
    active = np.arange(21) < 1
    values = np.arange(21) % 2.0
    weights = np.array([1.0] + [1.0] * 10 + [9.0] * 10)
    found = rates(active, values, weights, 0.5).false_positive_rate
    assert wilson(6, 12).low - 0.01 < found.low < found.value == 0.5 < found.high
    assert found.high - found.low == pytest.approx(wilson(6, 12).high - wilson(6, 12).low, abs=0.01)


def test_without_a_false_positive_precision_is_not_sure():
    active = np.arange(100) < 50
    values = active * 2.0 - 1 + np.arange(100) / 1000
    found = rates(active, values, np.where(active, 1.0, 99.0), 0.0)
    # Wilson for 0 of 50 ends at z²/(50 + z²) = .0713; .01 / (.01 + .0713 · .99) = .124, and the
    # mean over recalls R of .01 R / (.01 R + .0713 · .99) is .066.
    assert found.precision == pytest.approx((1, 0.124, 1), abs=0.001)
    assert found.average_precision == pytest.approx((1, 0.066, 1), abs=0.001)


def drawn(random, n, distance, threshold=1.5):
    active = np.arange(2 * n) < n
    values = random.normal(size=2 * n) + distance * active
    return rates(active, values, np.where(active, 0.01, 0.99), threshold)


def truths(distance, threshold=1.5, base_rate=0.01):
    """Precision, F1 and average precision of two normal distributions `distance` apart."""
    from scipy.stats import norm

    cuts = np.linspace(12, -8, 20001)
    right, false = norm.sf(cuts - distance), norm.sf(cuts)
    precision = right * base_rate / (right * base_rate + false * (1 - base_rate))
    at = np.searchsorted(-cuts, -threshold)
    f1 = 2 / (1 / precision[at] + 1 / right[at])
    return precision[at], f1, float(np.sum(np.diff(right) * precision[1:]))


@pytest.mark.parametrize("distance", [1, 3])
def test_the_intervals_cover_the_truth_as_often_as_they_say(distance):
    # Fifty of each, of which a percentile bootstrap covers average precision four times in ten.
    random = np.random.default_rng(0)
    found = [drawn(random, 50, distance) for _ in range(400)]
    for name, truth in zip(("precision", "f1", "average_precision"), truths(distance), strict=True):
        ends = [getattr(each, name) for each in found]
        covered = np.mean([each.low <= truth <= each.high for each in ends])
        assert covered > 0.95 - 0.022, name  # two standard deviations of a share of 400


def test_the_intervals_cover_the_truth_with_strata_of_uneven_weight():
    # Of the silent windows 2 % are alike and get a yes half of the time, the others 5 times in 100.
    random = np.random.default_rng(1)
    active, near = np.arange(100) < 50, np.arange(100) >= 75
    weights = np.where(active, 0.01 / 50, np.where(near, 0.02 / 25, 0.97 / 25))
    false = (0.02 * 0.5 + 0.97 * 0.05) / 0.99
    precision = 0.008 / (0.008 + 0.99 * false)
    covered = []
    for _ in range(400):
        yes = random.random(100) < np.where(active, 0.8, np.where(near, 0.5, 0.05))
        found = rates(active, yes * 1.0, weights, 0.5)
        covered.append(
            [
                found.false_positive_rate.low <= false <= found.false_positive_rate.high,
                found.precision.low <= precision <= found.precision.high,
            ]
        )
    assert (np.mean(covered, axis=0) > 0.95 - 0.022).all()


def test_more_windows_make_a_narrower_interval():
    few, many = (drawn(np.random.default_rng(2), n, 2).average_precision for n in (50, 1000))
    assert many.high - many.low < (few.high - few.low) / 1.5


def test_without_yeses_there_is_no_precision():
    active, values, weights = sample()
    found = rates(active, values, weights, 99.0)
    assert found.recall.value == found.false_positive_rate.value == found.f1.value == 0
    assert all(math.isnan(number) for number in found.precision)
    assert found.average_precision.value > 0


def test_constant_values_have_the_average_precision_of_chance():
    active, values, weights = sample()
    found = rates(active, np.zeros_like(values), weights, 0.0)
    assert found.average_precision.value == pytest.approx(found.base_rate)
    assert found.average_precision.low <= found.base_rate <= found.average_precision.high


@pytest.mark.parametrize("active", [[], [True, True], [False]])
def test_without_both_kinds_of_windows_there_is_no_precision(active):
    active = np.array(active, bool)
    found = rates(active, np.zeros(len(active)), np.ones(len(active)), 0.5)
    for estimate in (found.precision, found.f1, found.average_precision):
        assert all(math.isnan(number) for number in estimate)
    assert math.isnan(found.recall.value) == (not active.any())
    assert math.isnan(found.false_positive_rate.value) == active.all()
    assert math.isnan(found.base_rate) == (not len(active))


def test_windows_without_a_value_or_weight_are_left_out():
    active, values, weights = sample()
    more = np.append(values, [math.nan, 9.0, 9.0, math.inf])
    heavier = np.append(weights, [50.0, math.nan, 0.0, 1.0])
    wider = np.append(active, [True, False, False, True])
    assert rates(wider, more, heavier, 0.8) == rates(active, values, weights, 0.8)
