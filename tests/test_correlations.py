import math

import numpy as np
import pytest
import scipy.stats

from lite_interp import correlations
from lite_interp.correlations import _pearson, correlation, pearson, pooled_pearson_difference


def generator(seed=0):
    return np.random.default_rng(seed)


def test_pearson_is_that_of_scipy():
    x, y = generator().normal(size=(2, 30)) * 5 + 1000
    assert pearson(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic)
    assert pearson(x, 3 - 2 * x) == pytest.approx(-1)
    holed = np.append(x, [math.nan, 1.0]), np.append(y, [1.0, math.inf])
    assert pearson(*holed) == pytest.approx(pearson(x, y))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([], []),
        ([1.0], [2.0]),
        ([0.1] * 3, [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [0.1] * 3),
        ([math.nan] * 3, [1.0, 2.0, 3.0]),
        # Constant but for rounding.
        ([1e6 / 3, 1e6 / 3 + 1e-10, 1e6 / 3], [1.0, 2.0, 3.0]),
    ],
)
def test_without_variation_there_is_no_correlation(x, y):
    assert math.isnan(pearson(np.array(x), np.array(y)))


@pytest.mark.parametrize("kind", ["spearman", "pearson"])
def test_a_correlation_is_that_of_scipy_and_its_interval_that_of_resamples(kind):
    x, y = generator(1).normal(size=(2, 20))
    x = np.round(x + y, 1)  # with ties
    found = correlation(x, y, kind, generator(2))
    slow = {"spearman": scipy.stats.spearmanr, "pearson": scipy.stats.pearsonr}[kind]
    assert found.value == pytest.approx(slow(x, y).statistic)
    drawn = generator(2).integers(20, size=(1000, 20))
    each = [slow(x[rows], y[rows]).statistic for rows in drawn]
    assert found[1:] == pytest.approx(np.percentile(each, [2.5, 97.5]))
    assert correlation(x, y, kind, generator(3)) != found


def test_resamples_without_variation_are_left_out():
    # Of four latents one differs: a resample without it is constant, one in three.
    found = correlation(np.array([1.0, 1, 1, 2]), np.array([1.0, 2, 3, 4]), "pearson", generator())
    assert found.low < found.value < found.high <= 1


@pytest.mark.parametrize("kind", ["spearman", "pearson"])
def test_a_correlation_needs_four_latents_that_vary(kind):
    three = np.array([1.0, 2.0, 3.0, math.nan])
    for x in (np.array([]), three, np.full(5, 0.1)):
        found = correlation(x, np.arange(len(x)) * 1.0, kind, generator())
        assert all(math.isnan(number) for number in found)


def test_a_monotone_relation_has_a_spearman_of_one():
    x = np.arange(9.0)
    assert correlation(x, np.exp(x), "spearman", generator()) == pytest.approx((1, 1, 1))


def windows(seed=0, n=12):
    """Activations of windows of unlike length, a good prediction and two that know nothing."""
    random = generator(seed)
    truth = [random.exponential(size=random.integers(3, 9)) for _ in range(n)]
    own = [window + random.normal(size=len(window)) for window in truth]
    controls = [[random.normal(size=len(window)) + 100 for window in truth] for _ in range(2)]
    return truth, own, controls


def test_a_pooled_correlation_is_that_of_all_tokens():
    truth, own, controls = windows()
    found = pooled_pearson_difference(truth, own, controls, generator())
    actual = np.concatenate(truth)
    nulls = [pearson(actual, np.concatenate(control)) for control in controls]
    assert found.correlation.value == pytest.approx(pearson(actual, np.concatenate(own)))
    assert found.null == pytest.approx(np.mean(nulls))
    assert found.difference.value == pytest.approx(found.correlation.value - found.null)


def test_the_pooled_interval_is_that_of_resampled_windows():
    truth, own, controls = windows(1)
    found = pooled_pearson_difference(truth, own, controls, generator(4))
    slow = []
    for times in generator(4).multinomial(12, np.full(12, 1 / 12), size=1000):
        rows = np.repeat(np.arange(12), times)
        actual = np.concatenate([truth[row] for row in rows])
        r, *null = [
            pearson(actual, np.concatenate([each[row] for row in rows]))
            for each in (own, *controls)
        ]
        slow.append((r, r - np.mean(null)))
    ends = np.percentile(slow, [2.5, 97.5], axis=0).T
    assert found.correlation[1:] == pytest.approx(ends[0])
    assert found.difference[1:] == pytest.approx(ends[1])
    n_not_above = (np.array(slow)[:, 1] <= 0).sum()
    assert found.p_value == pytest.approx((1 + n_not_above) / 1001)


def test_a_window_counts_as_one_draw_however_many_tokens_it_has():
    # Tokens of a window that are all alike make the interval no narrower.
    random = generator(5)
    levels = random.normal(size=20)
    wrong = levels + random.normal(size=20)
    short, long = (
        pooled_pearson_difference(
            [np.full(n, level) for level in levels],
            [np.full(n, each) for each in wrong],
            [],
            generator(),
        )
        for n in (1, 50)
    )
    assert long.correlation == pytest.approx(short.correlation)


def test_a_token_that_one_lacks_is_left_out_of_all():
    truth, own, controls = windows(2)
    whole = pooled_pearson_difference(
        [window[1:] for window in truth],
        [window[1:] for window in own],
        [[window[1:] for window in control] for control in controls],
        generator(),
    )
    for index, window in enumerate(controls[0]):
        (window, own[index], truth[index])[index % 3][0] = math.nan
    holed = pooled_pearson_difference(truth, own, controls, generator())
    for one, other in zip(holed[:1] + holed[2:3], whole[:1] + whole[2:3], strict=True):
        assert one == pytest.approx(other)


def test_a_constant_control_is_left_out_of_the_null():
    truth, own, controls = windows(3)
    flat = [np.full(len(window), 0.1) for window in truth]
    found = pooled_pearson_difference(truth, own, [*controls, flat], generator())
    assert found == pooled_pearson_difference(truth, own, controls, generator())
    alone = pooled_pearson_difference(truth, own, [flat], generator())
    assert math.isnan(alone.null)
    assert all(math.isnan(number) for number in (*alone.difference, alone.p_value))
    constant = pooled_pearson_difference(truth, flat, controls, generator())
    assert all(math.isnan(number) for number in (*constant.correlation, constant.p_value))
    assert not math.isnan(constant.null)


@pytest.mark.parametrize("tokens", [None, [], [math.nan]])
def test_without_tokens_there_is_no_pooled_correlation(tokens):
    some = [] if tokens is None else [np.array(tokens)]
    found = pooled_pearson_difference(some, some, [some], generator())
    numbers = (*found.correlation, found.null, *found.difference, found.p_value)
    assert all(math.isnan(number) for number in numbers)


def test_one_window_has_a_correlation_without_an_interval():
    truth, own = windows()[0][:1], windows()[1][:1]
    found = pooled_pearson_difference(truth, own, [], generator())
    assert found.correlation.value == pytest.approx(pearson(truth[0], own[0]))
    assert math.isnan(found.correlation.low)


def test_rows_are_correlated_one_by_one():
    x, y = generator().normal(size=(2, 5, 9))
    expected = [scipy.stats.pearsonr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(_pearson(x, y), expected)


@pytest.mark.parametrize("kind", ["spearman", "pearson"])
def test_the_interval_of_many_pairs_is_that_of_some_narrowed(kind, monkeypatch):
    x = generator(4).normal(size=3000)
    y = 0.4 * x + generator(5).normal(size=3000) ** 3
    whole = correlation(x, y, kind, generator(6))
    monkeypatch.setattr(correlations, "N_PAIRS_RESAMPLED", 1500)
    some = correlation(x, y, kind, generator(6))
    assert some.value == pytest.approx(whole.value), "of all pairs, not of some"
    assert some.low < some.value < some.high
    assert (some.high - some.low) / (whole.high - whole.low) == pytest.approx(1, abs=0.15)
    assert abs(some.low - whole.low) < 0.15 * (whole.high - whole.low)
