import itertools
import math

import numpy as np
import pytest
import scipy.stats
from scipy.special import ndtri

from lite_interp import sequential, stats
from lite_interp.records import Estimate
from lite_interp.sequential import (
    area_interval,
    critical_value,
    decide,
    difference_interval,
    difference_p_value,
    looks,
    repeated_interval,
    sequential_p_value,
)

NAN = math.nan


def test_the_critical_values_are_those_of_pocock():
    # Jennison and Turnbull (1999), table 2.1, α = .05.
    table = {1: 1.960, 2: 2.178, 3: 2.289, 4: 2.361, 5: 2.413, 10: 2.555, 20: 2.672}
    for n_looks, value in table.items():
        assert critical_value(n_looks) == pytest.approx(value, abs=6e-4)


@pytest.mark.parametrize("shares", [(0.5, 1.0), (0.1, 0.5, 1.0), (1.0, 2.0, 2.1), (2.0, 3, 7, 8)])
def test_the_critical_value_is_that_of_the_joint_normal_distribution(shares):
    bound = critical_value(len(shares), shares)
    times = np.array(shares)
    together = np.sqrt(np.minimum.outer(times, times) / np.maximum.outer(times, times))
    normal = scipy.stats.multivariate_normal(cov=together)
    inside = normal.cdf(
        np.full(len(times), bound),
        lower_limit=np.full(len(times), -bound),
        rng=np.random.default_rng(0),
    )
    assert inside == pytest.approx(0.95, abs=2e-4)


def test_more_points_dont_change_a_critical_value(monkeypatch):
    value = critical_value(20)
    monkeypatch.setattr(sequential, "N_NODES", 100)
    assert critical_value.__wrapped__(20) == pytest.approx(value, abs=1e-8)


def test_rounded_windows_hardly_change_the_critical_value():
    for n_active, n_silent, n_looks in ((13, 13, 3), (23, 37, 5), (50, 11, 2)):
        for kind in zip(*looks(n_active, n_silent, n_looks), strict=True):
            shares = tuple(float(n) for n in kind)
            bound = critical_value(n_looks)
            assert critical_value(len(shares), shares) == pytest.approx(bound, abs=0.02)


def test_looks_come_after_equal_shares():
    assert looks(50, 100, 5) == [(10, 20), (20, 40), (30, 60), (40, 80), (50, 100)]
    assert looks(13, 13, 3) == [(4, 4), (9, 9), (13, 13)]
    assert looks(50, 50, 1) == [(50, 50)]


def test_there_are_no_more_looks_than_windows_allow():
    assert looks(10, 50, 5) == [(5, 25), (10, 50)]
    assert looks(7, 50, 5) == [(7, 50)]
    assert looks(0, 50, 5) == [(0, 50)]
    assert looks(0, 0, 5) == []
    for n_active, n_silent, n_looks in itertools.product(range(4, 30), (8, 30), range(1, 9)):
        planned = looks(n_active, n_silent, n_looks)
        assert planned[-1] == (n_active, n_silent)
        assert min(planned[0]) >= 4
        assert len(planned) <= n_looks
        assert all(
            a < b for kind in zip(*planned, strict=True) for a, b in itertools.pairwise(kind)
        )


def test_one_look_has_the_interval_of_student():
    # t(4) at 97.5 % is 2.7764.
    assert repeated_interval(3.0, 2.0, 4, 1) == pytest.approx((3, 3 - 5.5529, 3 + 5.5529), abs=1e-4)


def test_with_many_windows_the_interval_is_pococks():
    half = 0.1 * critical_value(5)
    assert repeated_interval(0.3, 0.1, 1e9, 5) == pytest.approx((0.3, 0.3 - half, 0.3 + half))
    assert repeated_interval(0.3, 0.1, 9, 5).high > 0.3 + half


@pytest.mark.parametrize(("error", "freedom"), [(0.0, 5.0), (0.0, NAN), (NAN, NAN), (0.1, 0.0)])
def test_without_a_standard_error_the_interval_has_no_ends(error, freedom):
    value, low, high = repeated_interval(0.3, error, freedom, 3)
    assert value == 0.3
    assert math.isnan(low)
    assert math.isnan(high)


WIDE, NONE = Estimate(0.5, 0.0, 1.0), Estimate(NAN, NAN, NAN)


@pytest.mark.parametrize(
    ("own", "difference", "decision"),
    [
        (WIDE, Estimate(0.2, 0.1, 0.3), "above"),
        (WIDE, Estimate(-0.2, -0.3, -0.1), "below"),
        (WIDE, Estimate(0.0, -0.1, 0.1), ""),
        (WIDE, Estimate(0.1, 0.0, 0.2), ""),
        (Estimate(0.5, 0.46, 0.54), Estimate(0.0, -0.1, 0.1), "narrow"),
        (Estimate(0.5, 0.46, 0.54), Estimate(0.2, 0.1, 0.3), "above"),
        (Estimate(0.5, 0.46, 0.54), NONE, "narrow"),
        (NONE, NONE, ""),
        (NONE, Estimate(0.2, 0.1, 0.3), "above"),
    ],
)
def test_one_stops_when_the_answer_is_sure(own, difference, decision):
    assert decide(own, difference, 0.1) == decision


def test_a_sequential_p_value_is_the_chance_of_a_greatest_z():
    random = np.random.default_rng(0)
    motion = np.cumsum(random.normal(size=(200_000, 4)), axis=1) / np.sqrt(np.arange(1, 5))
    for z in (-1.0, 0.0, 1.0, 2.0):
        share = (motion.max(axis=1) >= z).mean()
        assert sequential_p_value([z - 0.5, z], 4) == pytest.approx(share, abs=0.004)


def test_the_p_value_of_one_look_is_the_normal_tail():
    for z in (-4.0, 0.0, 1.645, 5.9, 6.1, 20.0):
        assert sequential_p_value([z], 1) == pytest.approx(scipy.stats.norm.sf(z), rel=1e-4)


def test_the_greatest_z_counts_and_more_looks_make_a_greater_p_value():
    assert sequential_p_value([2.0, 1.0, NAN], 3) == sequential_p_value([2.0], 3)
    by_looks = [sequential_p_value([2.0], n) for n in (1, 2, 5, 20)]
    assert by_looks == sorted(set(by_looks))
    # Two sides of Pocock's constant: .05, less that both are crossed.
    assert 2 * sequential_p_value([critical_value(5)], 5) == pytest.approx(0.05, abs=1e-4)


def test_extreme_z_have_a_p_value():
    assert sequential_p_value([-math.inf], 3) == 1
    assert sequential_p_value([math.inf], 3) == 0
    assert 0 < sequential_p_value([30.0], 3) < 1e-100
    # Far out the looks don't overlap, and there are five of them.
    assert sequential_p_value([6.01], 5) == pytest.approx(5 * scipy.stats.norm.sf(6.01))
    assert sequential_p_value([5.99], 5) == pytest.approx(5 * scipy.stats.norm.sf(5.99), rel=0.1)
    assert math.isnan(sequential_p_value([], 3))
    assert math.isnan(sequential_p_value([NAN], 3))


def margins(random, effect, n, n_controls=2, share=0.5):
    """Own and controls share a window effect; own also sees the kind, `effect` of AUROC above ½."""
    apart = math.sqrt(2) * ndtri(0.5 + effect)
    window = random.normal(size=2 * n) * math.sqrt(share)
    values = window + random.normal(size=(1 + n_controls, 2 * n)) * math.sqrt(1 - share)
    active = np.arange(2 * n) < n
    values[0] += apart * active
    return active, values[0], values[1:]


def test_the_intervals_of_a_latent_are_those_of_the_windows_judged():
    active, own, controls = margins(np.random.default_rng(0), 0.2, 20)
    found = difference_interval(active, own, controls, 4)
    expected = repeated_interval(*stats.delong(stats.gain_table(active, own, controls)), 4)
    assert found == pytest.approx(expected)
    area = area_interval(active, own, 4)
    narrow = stats.auroc_interval(stats.auroc(active, own), 20, 20)
    assert area.low < narrow.low < area.value == narrow.value < narrow.high < area.high
    assert area_interval(active, own, 1) == pytest.approx(narrow)
    _, fixed = stats.difference_test(stats.gain_table(active, own, controls))
    assert difference_p_value(active, own, controls, 1) == pytest.approx(fixed, rel=1e-6)
    assert difference_p_value(active, own, controls, 4) > fixed


def test_windows_that_all_gain_the_same_are_as_sure_as_their_number():
    active = np.arange(20) < 10
    own, controls = active * 1.0, np.zeros((2, 20))
    value, low, high = difference_interval(active, own, controls, 5)
    assert value == 0.5
    assert -0.2 < low < high < 1
    p_value = difference_p_value(active, own, controls, 5)
    assert 1 / math.comb(20, 10) < p_value < 5.01 / math.comb(20, 10)


@pytest.mark.parametrize("active", [[], [True, True], [False, False]])
def test_without_both_kinds_of_windows_nothing_is_decided(active):
    active = np.array(active, bool)
    own, controls = np.arange(len(active)) * 1.0, np.zeros((2, len(active)))
    score, found = area_interval(active, own, 3), difference_interval(active, own, controls, 3)
    assert all(math.isnan(number) for number in (*score, *found))
    assert decide(score, found, 0.1) == ""
    assert math.isnan(difference_p_value(active, own, controls, 3))
    both = np.array([True, False])
    assert math.isnan(difference_interval(both, np.arange(2.0), np.zeros((0, 2)), 3).value)


def holds(interval, truth):
    return interval.low <= truth <= interval.high


def simulate(effect, n_latents=2000, n=50, n_looks=5):
    """Shares of latents whose intervals hold the truth: to the stop, at all looks, and naively."""
    random = np.random.default_rng(0)
    planned = looks(n, n, n_looks)
    held = np.ones((n_latents, 3), bool)
    for latent in range(n_latents):
        gain = stats.gain_table(*margins(random, effect, n))
        stopped = naively_stopped = False
        for n_active, n_silent in planned:
            spread = stats.delong(gain[:n_active, :n_silent])
            found = repeated_interval(*spread, n_looks)
            held[latent, 1] &= holds(found, effect)
            held[latent, 0] &= stopped or holds(found, effect)
            stopped = stopped or decide(NONE, found, 0.0) != ""
            naive = repeated_interval(*spread, 1)
            held[latent, 2] &= naively_stopped or holds(naive, effect)
            naively_stopped = naively_stopped or decide(NONE, naive, 0.0) != ""
    return held.mean(axis=0)


@pytest.mark.parametrize("effect", [0.0, 0.1, 0.3])
def test_the_intervals_hold_the_truth_at_all_looks(effect):
    # Margins are drawn from their distribution, whose difference in area is `effect`. Two standard
    # deviations of a share of 2,000 at .95 are .01.
    to_the_stop, at_all_looks, naive = simulate(effect)
    assert at_all_looks <= to_the_stop
    assert at_all_looks >= 0.95 - 0.01
    if effect < 0.3:  # a great effect is seen at the first look, where one look is all there is
        assert naive < 0.93


def test_the_intervals_of_an_area_hold_the_truth_at_all_looks():
    random = np.random.default_rng(1)
    held = np.ones((500, 2), bool)
    for latent in range(500):
        active, own, _ = margins(random, 0.2, 50)
        # A control that ties everywhere makes a win of ½.
        wins = stats.gain_table(active, own, np.zeros((1, 100))) + 0.5
        for look in looks(50, 50, 5):
            area = float(wins[: look.n_active, : look.n_silent].mean())
            for column, n_looks in enumerate((5, 1)):
                found = stats.auroc_interval(area, *look, critical_value(n_looks))
                held[latent, column] &= holds(found, 0.7)
    repeated, naive = held.mean(axis=0)
    assert repeated >= 0.95 - 0.02  # two standard deviations of a share of 500
    assert naive < 0.93
