import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.metrics import balanced_accuracy_score

from lite_interp.calibration import Calibration, calibrate, probabilities, reliability


def judged(seed=0, n=200, slope=1.0, shift=0.0):
    """Windows whose true log-odds are (value − shift) · slope."""
    random = np.random.default_rng(seed)
    values = random.normal(size=n) * 2 + shift
    return random.random(n) < expit(slope * (values - shift)), values


def test_the_threshold_is_the_midpoint_that_parts_best():
    active = np.array([False, False, True, True])
    assert calibrate(active, np.array([1.0, 2.0, 5.0, 9.0])).threshold == 3.5
    assert calibrate(active, np.array([-9.0, -5.0, -3.0, 0.0])).threshold == -4


@pytest.mark.parametrize("seed", range(8))
def test_no_threshold_parts_better(seed):
    active, values = judged(seed, 40)
    values = np.round(values)  # with ties
    found = calibrate(active, values)
    cuts = np.unique(values)
    accuracies = [
        balanced_accuracy_score(active, values > cut) for cut in (cuts[1:] + cuts[:-1]) / 2
    ]
    mine = balanced_accuracy_score(active, values > found.threshold)
    assert mine == pytest.approx(max(accuracies))
    best = (cuts[1:] + cuts[:-1])[np.isclose(accuracies, max(accuracies))] / 2
    median = np.median(values)
    assert abs(found.threshold - median) == pytest.approx(np.abs(best - median).min())


def test_of_equal_thresholds_the_one_nearest_the_median_is_taken():
    # Above 1, 3 or 5 the balanced accuracy is ¾, and above 2 and 4 ⅝. The median is 5.
    active = np.array([False, False, True, False, True, False, True, True])
    values = np.array([-9.0, -8.0, 1.0, 2.0, 8.0, 9.0, 10.0, 11.0])
    # Cuts −3.5: 1 + ½; 5: ¾ + ¾; 9.5: ½ + 1. All have 1.5 / 2.
    assert np.median(values) == 5
    assert calibrate(active, values).threshold == 5


def test_the_threshold_weighs_windows():
    # Above 1.5 one of two silent windows is wrong, above 2.5 one of two activating ones.
    active = np.array([False, True, False, True])
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert calibrate(active, values, np.array([1.0, 1.0, 9.0, 1.0])).threshold == 3.5
    assert calibrate(active, values, np.array([9.0, 1.0, 1.0, 1.0])).threshold == 1.5


def test_neighbouring_floats_are_parted():
    # The first float above 1: halfway to the second is rounded to the second.
    low = np.nextafter(1.0, 2)
    high = np.nextafter(low, 2)
    assert low + (high - low) / 2 == high
    values = np.array([low, high, 3.0, -3.0])
    found = calibrate(np.array([False, True, True, False]), values)
    assert low <= found.threshold < high


def test_the_curve_is_the_one_that_made_the_labels():
    active, values = judged(n=5000, slope=0.7, shift=3.0)
    found = calibrate(active, values)
    assert found.slope == pytest.approx(0.7, rel=0.05)
    assert found.intercept == pytest.approx(-2.1, rel=0.05)
    assert found.n == 5000


def test_the_curve_doesnt_depend_on_the_unit():
    active, values = judged()
    one, other = calibrate(active, values), calibrate(active, 1000 * values + 7)
    np.testing.assert_allclose(
        probabilities(one, values), probabilities(other, 1000 * values + 7), atol=1e-6
    )
    assert other.threshold == pytest.approx(1000 * one.threshold + 7)


def test_the_curve_stays_finite_where_values_part_the_windows():
    active = np.arange(20) < 10
    found = calibrate(active, active * 2.0)
    assert 0 < found.slope < 10
    assert found.threshold == 1


def test_weights_bring_the_base_rate():
    active, values = judged(n=5000)
    found = calibrate(active, values, np.where(active, 1.0, 50.0))
    # Log-odds fall by log 50 throughout.
    assert found.intercept == pytest.approx(-math.log(50), abs=0.3)
    same = calibrate(active, values, np.full(5000, 50.0))
    assert same == pytest.approx(calibrate(active, values))


def test_a_judge_that_is_more_wrong_than_right_has_a_negative_slope():
    active, values = judged()
    assert calibrate(~active, values).slope < 0


def test_windows_without_a_value_or_weight_are_left_out():
    active, values = judged(n=30)
    more, wider = np.append(values, [math.nan, 5.0]), np.append(active, [True, False])
    assert calibrate(wider, more, np.append(np.ones(30), [1, 0])) == calibrate(active, values)


@pytest.mark.parametrize(
    ("active", "values"),
    [
        ([], []),
        ([True, True], [1.0, 2.0]),
        ([False, False], [1.0, 2.0]),
        ([True, False], [3.0, 3.0]),
        ([True, False], [3.0, math.nan]),
        ([True, False], [math.nan, math.nan]),
    ],
)
def test_there_is_no_calibration_from_nothing(active, values):
    assert calibrate(np.array(active, bool), np.array(values)) is None


def test_probabilities_by_hand():
    found = probabilities(Calibration(0.0, 2.0, -1.0, 9), np.array([0.5, 1.0, math.nan, -1e9]))
    np.testing.assert_allclose(found, [0.5, 1 / (1 + math.exp(-1)), math.nan, 0])
    assert not len(probabilities(Calibration(0.0, 2.0, -1.0, 9), np.array([])))


def test_reliability_by_hand():
    active = np.array([False, True, True, True])
    probability = np.array([0.2, 0.4, 0.6, 0.9])
    # (.04 + .36 + .16 + .01) / 4; bins of two: ½ · |.5 − .3| + ½ · |1 − .75|.
    assert reliability(active, probability, 2) == pytest.approx((0.1425, 0.225))


@pytest.mark.parametrize("n_bins", [2, 5, 10])
def test_the_error_is_that_of_scikit_learns_bins(n_bins):
    random = np.random.default_rng(0)
    probability = random.random(200)
    active = random.random(200) < probability**2
    share, mean = calibration_curve(active, probability, n_bins=n_bins, strategy="quantile")
    _, found = reliability(active, probability, n_bins)
    assert found == pytest.approx(np.abs(share - mean).mean())  # its bins hold equally many


def test_the_order_of_equal_probabilities_doesnt_matter():
    active = np.arange(40) % 4 == 0
    assert reliability(active, np.full(40, 0.25))[1] == pytest.approx(0)
    assert reliability(np.sort(active), np.full(40, 0.25))[1] == pytest.approx(0)


@pytest.mark.parametrize("kind", [True, False])
def test_windows_of_one_kind_have_a_reliability(kind):
    found = reliability(np.array([kind, kind]), np.array([0.5, 0.5]))
    assert found == pytest.approx((0.25, 0.5))


@pytest.mark.parametrize("none", [[], [math.nan]])
def test_without_probabilities_there_is_no_reliability(none):
    found = reliability(np.ones(len(none), bool), np.array(none))
    assert all(math.isnan(number) for number in found)
