"""Sheets made by hand to scores, statistic by statistic."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tiny_scores import make_sheet

from lite_interp import sequential, stats
from lite_interp.calibration import Calibration
from lite_interp.db.trials import TrialRow
from lite_interp.measures import STATISTICS, score_sheet
from lite_interp.records import Estimate, Usage, Verdict
from lite_interp.score import SCORERS

TRUTH = (True, True, False, False)


def trial(values, name="own", truth=TRUTH, details=None, items=None):
    """A trial on windows 0, 1, …; None is a failure."""
    details = details or [None] * len(values)
    items = items or [""] * len(values)
    verdicts = tuple(
        Verdict(f"b2:{n}", active, value, None if value is not None else "engine: x", item, detail)
        for n, (active, value, detail, item) in enumerate(
            zip(truth, values, details, items, strict=True)
        )
    )
    return TrialRow(f"b2:trial/{name}", f"b2:{name}", name != "own", verdicts)


def found(sheet, calibrate=lambda variant: None):
    """Variant → score of a sheet."""
    statistic = SCORERS[sheet.scorer].statistic
    return {score.variant: score for score in score_sheet(sheet, statistic, calibrate)}


def nothing(score):
    return all(math.isnan(number) for number in (*score.estimate, *score.difference))


def test_every_statistic_of_a_scorer_is_known():
    assert {scorer.statistic for scorer in SCORERS.values()} == STATISTICS.keys()


# auroc

OWN = [2.0, 0.0, 1.0, -1.0]
A, B = [0.0, -2.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]


def test_an_area_for_each_token_is_read_beside_that_of_whole_windows():
    # The sums: 2 > 1, 2 > −1, 0 < 1, 0 > −1: 3 of 4. For each token: .5 > −1, .5 > .25, 0 > −1,
    # 0 < .25: 3 of 4 too, by other pairs. The control: 0 = 0, 0 < 1, 1 > 0, 1 = 1: 2 of 4, and
    # for each token 0 < .5, 0 < 1, .1 < .5, .1 < 1: none.
    own = trial(OWN, details=[{"per_token": v, "n_tokens": 4} for v in (0.5, 0.0, 0.25, -1.0)])
    control = trial(
        [0.0, 1.0, 0.0, 1.0], "a", details=[{"per_token": v} for v in (0.0, 0.1, 0.5, 1.0)]
    )
    scores = found(make_sheet(own, [control], "surprisal"))
    assert scores.keys() == {"raw", "per_token"}
    assert [scores[name].statistic for name in scores] == ["auroc", "auroc"]
    assert {name: score.estimate.value for name, score in scores.items()} == {
        "raw": 0.75, "per_token": 0.75,
    }  # fmt: skip
    assert (scores["raw"].null, scores["per_token"].null) == (0.5, 0.0)
    assert scores["per_token"].difference.value == pytest.approx(0.75)
    # Without a number for each token there is no such score.
    assert found(make_sheet(trial(OWN), [control], "surprisal")).keys() == {"raw"}


def test_a_failed_verdict_leaves_its_tokens_out_too():
    details = [{"per_token": 3.0}, None, {"per_token": 1.0}, {"per_token": 2.0}]
    own = trial([2.0, None, 1.0, -1.0], details=details)
    score = found(make_sheet(own, [], "surprisal"))["per_token"]
    assert (score.estimate.value, score.n_active, score.n_silent, score.n_failed) == (1.0, 1, 2, 1)


def test_areas_are_given_for_each_stratum():
    sheet = make_sheet(trial(OWN), [], "detection")
    sheet = replace(sheet, strata=np.array(["decile_0", "decile_9", "near", "random"]))
    strata = found(sheet)["raw"].metrics["strata"]
    # 2 beats both silent windows, 0 one of them; 1 loses to one of two, −1 to both.
    assert strata == {
        "decile_0": {"n": 1, "auroc": 1.0}, "decile_9": {"n": 1, "auroc": 0.5},
        "near": {"n": 1, "auroc": 0.5}, "random": {"n": 1, "auroc": 1.0},
    }  # fmt: skip


def test_wrong_marks_are_apart_from_the_right_ones_of_their_stratum():
    own = trial(OWN, items=["right", "right", "wrong", "wrong"])
    sheet = make_sheet(own, [], "fuzzing", are_windows=False)
    sheet = replace(sheet, strata=np.array(["decile_0", "decile_1"] * 2))
    assert found(sheet)["raw"].metrics["strata"] == {
        "decile_0": {"n": 1, "auroc": 1.0}, "decile_1": {"n": 1, "auroc": 0.5},
        "decile_0_wrong": {"n": 1, "auroc": 0.5}, "decile_1_wrong": {"n": 1, "auroc": 1.0},
    }  # fmt: skip


def test_rates_are_those_at_the_threshold_that_is_given_for_the_variant():
    asked = []

    def calibrate(variant):
        asked.append(variant)
        threshold = {"raw": -0.5, "relative": 1.5}[variant]
        return Calibration(threshold, 1.0, 0.0, 99)

    sheet = make_sheet(trial(OWN), [trial(A, "a"), trial(A, "b")], "detection")
    population = {"decile_0": 4.0, "random": 40.0}
    sheet = replace(sheet, weights=np.array([1.0, 3.0, 10.0, 30.0]), population=population)
    scores = found(sheet, calibrate)
    assert sorted(asked) == ["raw", "relative"]
    raw, relative = scores["raw"].metrics, scores["relative"].metrics
    assert (raw["threshold"], raw["n_calibration"]) == (-0.5, 99)
    # Above −.5: 2, 0 and the silent 1. Recall 1, specificity ½.
    assert raw["balanced_accuracy"].value == 0.75
    assert raw["recall"].value == 1.0
    # Of 40 silent windows in the corpus it is 10; 4 activating ones of 44.
    assert raw["false_positive_rate"].value == 0.25
    assert raw["base_rate"] == pytest.approx(4 / 44)
    assert raw["precision"].value == pytest.approx(4 / 14)
    # Relative: 2, 2, 0, −1; above 1.5 are the activating ones.
    assert relative["balanced_accuracy"].value == 1.0
    # p = 1 / (1 + exp(−value)).
    p = 1 / (1 + np.exp(-np.array(OWN)))
    assert raw["brier"] == pytest.approx(np.mean((p - np.array(TRUTH)) ** 2))


def test_windows_without_a_verdict_leave_their_weight_to_the_others_of_their_stratum():
    # Each activating window stands for 2 of 4, each silent one for 20 of 40. One silent verdict
    # failed: the other stands for all 40, and the base rate stays 4 of 44.
    sheet = make_sheet(trial([2.0, 0.0, 1.0, None]), [], "detection")
    population = {"decile_0": 4.0, "random": 40.0}
    sheet = replace(sheet, weights=np.array([2.0, 2.0, 20.0, 20.0]), population=population)
    some = found(sheet, lambda variant: Calibration(0.5, 1.0, 0.0, 99))["raw"].metrics
    assert some["base_rate"] == pytest.approx(4 / 44)
    # Above .5 are one of two activating windows and the silent one: 2 of the 42 yeses are right.
    assert some["precision"].value == pytest.approx(2 / 42)


def test_a_stratum_without_any_verdict_gives_no_rates():
    sheet = make_sheet(trial(OWN), [], "detection")
    sheet = replace(sheet, population={"decile_0": 4.0, "random": 40.0, "near": 5.0})
    metrics = found(sheet, lambda variant: Calibration(0.0, 1.0, 0.0, 99))["raw"].metrics
    assert "balanced_accuracy" in metrics
    assert "precision" not in metrics


def test_base_rates_mean_nothing_where_items_are_no_windows_of_the_corpus():
    sheet = make_sheet(trial(OWN), [], "fuzzing", are_windows=False)
    metrics = found(sheet, lambda variant: Calibration(0.0, 1.0, 0.0, 99))["raw"].metrics
    assert "balanced_accuracy" in metrics
    assert not {"recall", "precision", "base_rate", "average_precision"} & metrics.keys()


def test_intervals_of_a_judge_that_stops_hold_at_every_look():
    random = np.random.default_rng(0)
    truth = tuple(np.arange(40) < 20)
    own, control = (random.normal(size=40) + shift * np.array(truth) for shift in (2, 0))
    rows = trial(own.tolist(), truth=truth), trial(control.tolist(), "a", truth)
    sheet = make_sheet(rows[0], rows[1:], "detection")
    once = found(sheet)["raw"]
    settings = {"until_sure": 0.1, "n_looks": 5}
    often = found(replace(sheet, settings=settings, n_items=100))["raw"]
    active, table = sheet.active, sheet.values
    assert once.estimate == stats.auroc_interval(stats.auroc(active, own), 20, 20)
    assert often.estimate == sequential.area_interval(active, own, 5)
    assert often.difference == sequential.difference_interval(active, own, table[1:], 5)
    assert often.p_value == sequential.difference_p_value(active, own, table[1:], 5)
    assert (often.null, often.estimate.value) == (once.null, once.estimate.value)
    assert often.estimate.low < once.estimate.low
    assert once.p_value < often.p_value < 0.05
    assert (often.metrics["n_items"], often.metrics["share_saved"]) == (100, 0.6)
    assert "share_saved" not in once.metrics


def test_the_p_value_of_an_area_is_one_sided():
    random = np.random.default_rng(1)
    truth = tuple(np.arange(40) < 20)
    good, bad = (random.normal(size=40) + shift * np.array(truth) for shift in (2, 0))
    better = found(make_sheet(trial(good.tolist(), truth=truth),
                              [trial(bad.tolist(), "a", truth)], "detection"))["raw"]  # fmt: skip
    worse = found(make_sheet(trial(bad.tolist(), truth=truth),
                             [trial(good.tolist(), "a", truth)], "detection"))["raw"]  # fmt: skip
    assert better.p_value < 0.01
    assert worse.p_value == pytest.approx(1 - better.p_value)


@pytest.mark.parametrize(
    ("values", "truth", "reason"),
    [
        ([1.0, 2.0], (True, True), "no silent window with a verdict"),
        ([1.0, 2.0], (False, False), "no activating window with a verdict"),
        ([None, None], (True, False), "all 2 verdicts failed"),
        ([1.0, None], (True, False), "no silent window with a verdict"),
        ([], (), "too few windows"),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"until_sure": 0.1, "n_looks": 5}])
def test_there_is_no_area_without_both_kinds_and_it_is_said_why(values, truth, reason, settings):
    controls = [trial([0.0] * len(values), name, truth) for name in ("a", "b")]
    sheet = make_sheet(trial(values, truth=truth), controls, "detection", settings=settings)
    for score in found(sheet, lambda variant: Calibration(0.0, 1.0, 0.0, 9)).values():
        assert score.reason == reason
        assert nothing(score)
        assert math.isnan(score.null) and math.isnan(score.p_value)
        assert "threshold" not in score.metrics


def test_a_judge_that_says_the_same_of_everything_has_no_score():
    controls = [trial(A, "a"), trial(B, "b")]
    for score in found(make_sheet(trial([3.0] * 4), controls, "detection")).values():
        assert (nothing(score), score.reason) == (True, "all values are equal")
        assert math.isnan(score.null) and math.isnan(score.p_value)
        assert (score.n_active, score.n_silent, score.n_failed) == (2, 2, 0)


def test_a_control_that_says_the_same_of_everything_is_a_null_of_a_half():
    score = found(make_sheet(trial(OWN), [trial([5.0] * 4, "a")], "detection"))["raw"]
    assert (score.estimate.value, score.null, score.reason) == (0.75, 0.5, None)
    assert score.difference.value == 0.25


# pearson

EXPECTED = ([0.0, 2.0, 9.0], [1.0, 0.0, 4.0], [0.0, 0.0, 0.0], [0.0, 3.0, 1.0])
ACTIVATIONS = ([0.0, 1.0, 5.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
STRATA = np.array(["decile_0", "decile_9", "random", "near"])


def simulated(expected, name="own", truth=TRUTH):
    details = [{"expected": list(each), "mass": 0.5} for each in expected]
    return trial([max(each) for each in expected], name, truth, details)


def simulation(own, *controls, **changes):
    activations = tuple(np.array(each, np.float32) for each in ACTIVATIONS)
    plain = {"activations": activations, "strata": STRATA}
    return make_sheet(own, controls, "simulation", **{**plain, **changes})


def r_of(expected, *places):
    places = places or range(4)
    x = np.concatenate([ACTIVATIONS[place] for place in places])
    return float(np.corrcoef(x, np.concatenate([expected[place] for place in places]))[0, 1])


def test_a_simulation_is_correlated_over_the_tokens_of_all_windows():
    flipped = EXPECTED[::-1]
    scores = found(simulation(simulated(EXPECTED), simulated(flipped, "a")))
    assert scores.keys() == {"raw"}
    score = scores["raw"]
    assert (score.statistic, score.n_active, score.n_silent) == ("pearson", 2, 2)
    assert score.estimate.value == pytest.approx(r_of(EXPECTED))
    assert score.null == pytest.approx(r_of(flipped))
    assert score.difference.value == pytest.approx(r_of(EXPECTED) - r_of(flipped))
    assert score.difference.low <= score.difference.value <= score.difference.high
    assert score.reason is None


def test_a_simulation_is_correlated_in_each_stratum_and_in_top_and_random_windows():
    metrics = found(simulation(simulated(EXPECTED)))["raw"].metrics
    assert metrics["strata"]["decile_0"] == {"n": 1, "pearson": pytest.approx(r_of(EXPECTED, 0))}
    assert metrics["strata"]["decile_9"] == {"n": 1, "pearson": pytest.approx(r_of(EXPECTED, 1))}
    # Nothing can be correlated with a window in which nothing is.
    assert all(math.isnan(metrics["strata"][name]["pearson"]) for name in ("random", "near"))
    assert metrics["top_and_random"] == pytest.approx(r_of(EXPECTED, 0, 2))
    # Greatest ratings 9 and 4 of activating windows, 0 and 3 of silent ones.
    assert metrics["window_auroc"] == 1.0
    assert metrics["mass"] == 0.5


def test_a_control_that_rates_all_alike_has_no_correlation_and_takes_nothing_away():
    flat = simulated([[3.0] * 3] * 4, "flat")
    flipped = simulated(EXPECTED[::-1], "a")
    score = found(simulation(simulated(EXPECTED), flat, flipped))["raw"]
    assert score.null == pytest.approx(r_of(EXPECTED[::-1]))
    assert score.estimate.value == pytest.approx(r_of(EXPECTED))


def test_a_simulation_of_activating_windows_alone_has_no_score():
    own = simulated(EXPECTED[:2], truth=(True, True))
    activations = tuple(np.array(each, np.float32) for each in ACTIVATIONS[:2])
    sheet = make_sheet(own, [], "simulation", activations=activations, strata=STRATA[:2])
    (score,) = found(sheet).values()
    assert (nothing(score), score.reason) == (True, "no silent window with a verdict")
    assert score.metrics["strata"]["decile_0"]["n"] == 1


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        (simulated([[3.0] * 3] * 4), "all values are equal"),
        (trial([None] * 4), "all 4 verdicts failed"),
        (trial([], truth=()), "too few windows"),
    ],
)
def test_a_simulation_without_a_correlation_says_why(own, reason):
    n = len(own.verdicts)
    activations = tuple(np.array(each, np.float32) for each in ACTIVATIONS[:n])
    for controls in ((), (simulated(EXPECTED[:4], "a"),) if n else ()):
        sheet = make_sheet(own, controls, "simulation", activations=activations, strata=STRATA[:n])
        (score,) = found(sheet).values()
        assert (math.isnan(score.estimate.value), score.reason) == (True, reason)
        assert math.isnan(score.p_value)


# nats


def gained(values, name="own", n_tokens=4):
    truth = (True,) * len(values)
    details = [None if v is None else {"n_tokens": n_tokens, "per_token": 9.9} for v in values]
    return trial(values, name, truth, details)


def steered(own, *controls, **changes):
    facts = {"strength": 2.0, "kl_scored": 1.1, "failure": None}
    plain = {"facts": facts, "are_windows": False}
    return make_sheet(own, controls, "intervention", **{**plain, **changes})


def test_gains_are_means_over_prompts_of_all_tokens_and_of_one():
    # Own: mean 4, less the control's 1; each token of 4, and of the control's 2.
    own, control = gained([2.0, 4.0, 6.0]), gained([2.0, 1.0, 0.0], "a", 2)
    scores = found(steered(own, control))
    assert scores.keys() == {"raw", "per_token"}
    raw, each = scores["raw"], scores["per_token"]
    assert (raw.statistic, each.statistic) == ("nats", "nats")
    assert (raw.estimate.value, raw.null, raw.difference.value) == (4.0, 1.0, 3.0)
    assert (each.estimate.value, each.null, each.difference.value) == (1.0, 0.5, 0.5)
    # Student's t with 2 degrees of freedom is 4.303; the standard error of 2, 4, 6 is 2/√3.
    assert raw.estimate.high - raw.estimate.value == pytest.approx(4.3027 * 2 / 3**0.5, abs=1e-3)
    assert raw.metrics["sem"] == pytest.approx(2 / 3**0.5)
    assert each.metrics["sem"] == pytest.approx(0.5 / 3**0.5)
    # Differences 0, 3, 6: t = 3 / (3/√3) = √3, P(t(2) > √3) = ½ − √3 / (2√5).
    assert raw.p_value == pytest.approx(0.5 - 3**0.5 / (2 * 5**0.5))
    assert (raw.metrics["strength"], raw.metrics["kl_scored"]) == (2.0, 1.1)
    assert (raw.n_active, raw.n_silent, raw.n_controls) == (3, 0, 1)


def test_gains_without_a_control_have_no_null():
    raw = found(steered(gained([2.0, 4.0, None])))["raw"]
    assert (raw.estimate.value, raw.n_active, raw.n_failed) == (3.0, 2, 1)
    assert math.isnan(raw.null) and math.isnan(raw.p_value)
    assert raw.reason is None


@pytest.mark.parametrize(
    ("own", "failure", "reason"),
    [
        (gained([]), "not_reached", "not_reached"),
        (gained([]), None, "too few windows"),
        (gained([None, None]), None, "all 2 verdicts failed"),
    ],
)
@pytest.mark.parametrize("controls", [0, 2])
def test_a_latent_that_could_not_be_steered_says_why(own, failure, reason, controls):
    rows = [gained([1.0] * len(own.verdicts), name) for name in "ab"[:controls]]
    scores = found(steered(own, *rows, facts={"failure": failure}))
    assert scores.keys() == {"raw", "per_token"}
    for score in scores.values():
        assert (nothing(score), score.reason) == (True, reason)


# accuracy


def answered(n_right, n, n_failed=0):
    values = [1.0] * n_right + [0.0] * (n - n_right) + [None] * n_failed
    details = [{"stratum": f"decile_{number % 2}"} for number in range(len(values))]
    row = trial(values, truth=(True,) * len(values), details=details)
    return replace(row, explanation_id=None)


def intruder(row, **changes):
    strata = np.array([(verdict.detail or {})["stratum"] for verdict in row.verdicts], np.str_)
    return make_sheet(row, [], "intruder", strata=strata, are_windows=False, **changes)


def test_a_share_of_right_answers_stands_against_what_guessing_has():
    (score,) = found(intruder(answered(7, 10))).values()
    assert (score.variant, score.statistic, score.explanation_id) == ("raw", "accuracy", None)
    assert score.estimate == stats.wilson(7, 10)
    assert score.estimate.value == 0.7
    # Five windows a question.
    assert score.null == pytest.approx(0.2)
    assert score.difference.value == pytest.approx(0.5)
    assert score.difference.low == pytest.approx(score.estimate.low - 0.2)
    # P(X ≥ 7) of 10 at .2.
    p = sum(math.comb(10, k) * 0.2**k * 0.8 ** (10 - k) for k in range(7, 11))
    assert score.p_value == pytest.approx(p)
    assert (score.n_controls, score.reason) == (0, None)
    # Answers 0, 2, 4, 6 are right in one stratum, 1, 3, 5 in the other.
    assert score.metrics["strata"] == {
        "decile_0": {"n": 5, "share": 0.8}, "decile_1": {"n": 5, "share": pytest.approx(0.6)},
    }  # fmt: skip


def test_guessing_is_better_where_there_are_fewer_windows_to_choose_from():
    (score,) = found(intruder(answered(7, 10), settings={"n_choices": 2})).values()
    assert (score.null, score.difference.value) == (0.5, pytest.approx(0.2))
    assert score.p_value > 0.05


@pytest.mark.parametrize(
    ("row", "reason"),
    [(answered(0, 0), "too few windows"), (answered(0, 0, 4), "all 4 verdicts failed")],
)
def test_questions_without_an_answer_give_no_share(row, reason):
    (score,) = found(intruder(row)).values()
    assert (nothing(score), score.reason) == (True, reason)
    assert math.isnan(score.p_value)
    assert score.n_failed == len(row.verdicts)


# All


def test_a_score_keeps_whose_it_is_and_what_it_cost():
    sheet = make_sheet(trial(OWN), [], "detection", usage=Usage(100, 10, 0.5))
    score = found(sheet)["raw"]
    assert (score.example_set_id, score.explanation_id, score.scorer) == (
        "b2:set", "b2:own", "detection",
    )  # fmt: skip
    assert score.usage == Usage(100, 10, 0.5)
    assert isinstance(score.estimate, Estimate)
