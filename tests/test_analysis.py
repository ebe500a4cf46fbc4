import math
from dataclasses import replace

import numpy as np
import pytest
import tiny_results
from tiny_results import CACHE, EMBEDDER, ENGINE, USAGE, make_examples, make_trial, store_latent
from tiny_scores import score_trials

from lite_interp.analysis import summarise, write_scores
from lite_interp.db import trials
from lite_interp.db.trials import TrialRow
from lite_interp.records import Verdict
from lite_interp.stats import auroc_interval

TRUTH = (True, True, False, False)


def trial(values, name="own", truth=TRUTH, windows=None):
    """A trial whose windows are named 0, 1, …; None is a failure."""
    windows = range(len(values)) if windows is None else windows
    verdicts = tuple(
        Verdict(f"b2:{window}", active, value, None if value is not None else "engine: x")
        for window, active, value in zip(windows, truth, values, strict=True)
    )
    return TrialRow(f"b2:trial/{name}", f"b2:{name}", name != "own", verdicts)


def scores(own, *controls):
    return {score.variant: score for score in score_trials(own, controls, "detection")}


def test_an_area_is_counted_from_the_verdicts():
    # Pairs of an activating and a silent window: 2 > 1, 2 > −1, 0 < 1, 0 > −1: 3 of 4.
    found = scores(trial([2.0, 0.0, 1.0, -1.0]))
    assert found.keys() == {"raw"}
    score = found["raw"]
    assert (score.scorer, score.statistic) == ("detection", "auroc")
    assert score.estimate == auroc_interval(0.75, 2, 2)
    assert (score.n_active, score.n_silent, score.n_failed, score.n_controls) == (2, 2, 0, 0)
    assert math.isnan(score.null)
    assert all(math.isnan(number) for number in score.difference)


def test_with_one_control_there_is_a_null_and_no_relative_score():
    # The control: 0 < 1, 0 = 0, 1 = 1, 1 > 0: 2 of 4. Own: 3 of 4, as above.
    found = scores(trial([2.0, 0.0, 1.0, -1.0]), trial([0.0, 1.0, 1.0, 0.0], "a"))
    assert found.keys() == {"raw"}
    assert found["raw"].null == 0.5
    assert found["raw"].difference.value == pytest.approx(0.25)
    assert found["raw"].n_controls == 1


def test_a_relative_score_is_what_is_left_without_the_mean_of_the_controls():
    # Each control: 0 < 1, 0 = 0, −2 < 1, −2 < 0: ½ of 4, .125. Own less their mean (0, −2, 1, 0):
    # (2, 2, 0, −1), which separates: area 1. One control less the other is 0 everywhere: ½.
    control = [0.0, -2.0, 1.0, 0.0]
    found = scores(trial([2.0, 0.0, 1.0, -1.0]), trial(control, "a"), trial(control, "b"))
    assert found.keys() == {"raw", "relative"}
    raw, relative = found["raw"], found["relative"]
    assert (raw.estimate.value, raw.null) == (0.75, 0.125)
    assert raw.difference.value == pytest.approx(0.625)
    assert relative.estimate == auroc_interval(1.0, 2, 2)
    assert (relative.null, relative.difference.value) == (0.5, 0.5)
    assert (raw.n_controls, relative.n_controls) == (2, 2)


def test_a_window_without_a_verdict_in_any_trial_counts_as_failed_and_for_nothing_else():
    # Window 1 fails for the explanation, window 2 for the control; of 0 and 3 own gets 2 > −1.
    found = scores(trial([2.0, None, 1.0, -1.0]), trial([5.0, 5.0, None, 6.0], "a"))["raw"]
    assert (found.n_active, found.n_silent, found.n_failed) == (1, 1, 2)
    assert (found.estimate.value, found.null, found.difference.value) == (1.0, 0.0, 1.0)


def test_a_control_without_any_verdict_is_left_out_and_takes_no_window_with_it():
    own, dumb = trial([2.0, 0.0, 1.0, -1.0]), trial([None] * 4, "b")
    with_it, without = scores(own, trial([0.0, 1.0, 1.0, 0.0], "a"), dumb), scores(
        own, trial([0.0, 1.0, 1.0, 0.0], "a")
    )  # fmt: skip
    assert with_it == without
    assert scores(own, dumb)["raw"].n_controls == 0


def test_an_explanation_that_was_never_judged_has_no_score_and_says_how_many_failed():
    score = scores(trial([None] * 4), trial([1.0, 2.0, 3.0, 4.0], "a"))["raw"]
    assert (score.n_active, score.n_silent, score.n_failed) == (0, 0, 4)
    assert all(math.isnan(number) for number in (*score.estimate, score.null, *score.difference))


def test_windows_of_one_kind_alone_give_no_score():
    score = scores(trial([1.0, 2.0], truth=(True, True)))["raw"]
    assert math.isnan(score.estimate.value)
    assert (score.n_active, score.n_silent) == (2, 0)
    score = scores(trial([], truth=()))["raw"]
    assert (score.n_active, score.n_silent, score.n_failed) == (0, 0, 0)


def test_verdicts_are_joined_by_their_window_and_not_by_their_order():
    own = trial([2.0, 0.0, 1.0, -1.0])
    control = trial([0.0, 1.0, 1.0, 3.0], "a")
    turned = replace(control, verdicts=control.verdicts[::-1])
    assert scores(own, turned) == scores(own, control)
    # A control that lacks a window altogether loses it, as if it had failed.
    short = replace(control, verdicts=control.verdicts[:3])
    assert scores(own, short)["raw"].n_failed == 1
    assert scores(own, short)["raw"].n_silent == 1


def test_a_judge_that_looks_at_the_window_alone_gets_a_raw_score_and_no_relative_one():
    random = np.random.default_rng(0)
    truth = np.arange(40) < 20
    window = random.normal(0, 1, 40) + 2 * truth
    said = [(window + random.normal()).tolist() for _ in range(4)]
    names = ["own", "a", "b", "c"]
    found = scores(*(trial(v, n, truth.tolist()) for v, n in zip(said, names, strict=True)))
    assert found["raw"].estimate.low > 0.7
    assert found["raw"].difference.value == pytest.approx(0, abs=1e-12)
    assert found["relative"].estimate.value == 0.5
    difference = found["relative"].difference
    # No window gains anything, which is not to say that no other would.
    assert difference.value == 0
    assert -0.4 < difference.low < 0 < difference.high < 0.4


def test_the_same_verdicts_give_the_same_interval_whatever_was_computed_before():
    random = np.random.default_rng(1)
    truth = tuple(np.arange(30) < 15)
    own, *controls = (
        trial(random.normal(size=30).tolist(), name, truth) for name in ("own", "a", "b")
    )
    first = scores(own, *controls)
    scores(controls[0], own)
    assert scores(own, *controls) == first
    assert first["raw"].difference.low < first["raw"].difference.high


# From the file to the file

OWN = {0: [2.0, 0.0, 1.0, -1.0], 1: [1.0, 1.0, 0.0, 0.0], 2: [0.0, 0.0, 1.0, None]}
CONTROL = [0.0, -2.0, 1.0, 0.0]
PEAKS = (9.0, 3.0, 2.0, 0.0, 0.0)


def write_study(db, order=1):
    """Three latents, each judged on its own windows and on the others'."""
    examples = [make_examples(latent, PEAKS) for latent in range(3)]
    explanations = [store_latent(db, each) for each in examples]
    judged = [
        make_trial(said, seen, OWN[seen.latent] if said.latent == seen.latent else CONTROL)
        for said in explanations
        for seen in examples
    ]
    for each in judged[::order]:
        trials.store_trials(db, [(each, USAGE)], "engine")
    return examples, explanations


def table(db):
    return list(db.execute("select * from scores"))


def test_scores_of_a_file_are_those_of_its_verdicts():
    db = tiny_results.memory()
    write_study(db)
    write_scores(db, CACHE)
    found = {(row["latent"], row["variant"]): row for row in trials.load_scores(db, CACHE)}
    assert len(found) == 6
    # Latent 0 as in the tests above; latent 1: all 4 pairs; latent 2: 0 < 1 twice, one failure.
    assert {key: row["value"] for key, row in found.items() if key[1] == "raw"} == {
        (0, "raw"): 0.75, (1, "raw"): 1.0, (2, "raw"): 0.0,
    }  # fmt: skip
    assert found[0, "relative"]["value"] == 1.0
    # The nulls: .125, and for latent 2 without its last window 0 < 1 and −2 < 1: 0.
    assert [found[latent, "raw"]["null_value"] for latent in range(3)] == [0.125, 0.125, 0.0]
    assert [found[latent, "raw"]["n_failed"] for latent in range(3)] == [0, 0, 1]
    assert {row["n_controls"] for row in found.values()} == {2}
    assert {row["model_id"] for row in found.values()} == {ENGINE}
    low, high = auroc_interval(0.75, 2, 2)[1:]
    assert (found[0, "raw"]["low"], found[0, "raw"]["high"]) == (low, high)


def test_computing_scores_again_gives_the_same_rows_whatever_order_they_came_in():
    one, other = tiny_results.memory(), tiny_results.memory()
    write_study(one)
    write_scores(one, CACHE)
    first = table(one)
    write_scores(one, CACHE)
    assert table(one) == first
    write_study(other, order=-1)
    write_scores(other, CACHE)
    assert table(other) == first


def test_scores_that_no_verdict_stands_behind_any_more_are_gone():
    db = tiny_results.memory()
    examples, explanations = write_study(db)
    write_scores(db, CACHE)
    for table_name, key in (("verdicts", "trial_id"), ("trials", "id")):
        name = f"b2:trial/{explanations[0].id}/{examples[0].id}"
        db.execute(f"delete from {table_name} where {key} = ?", [name])
    write_scores(db, CACHE)
    assert {row["latent"] for row in trials.load_scores(db, CACHE)} == {1, 2}


def test_explainers_are_scored_each_against_its_own_kin():
    db = tiny_results.memory()
    examples, _ = write_study(db)
    bare = {"explainer": "token_list", "prompt_id": None, "engine_id": None}
    lists = [store_latent(db, each, name="list", **bare) for each in examples]
    for said in lists:
        values = [1.0, 1.0, 0.0, 0.0] if said.latent == 0 else [0.0, 0.0, 1.0, 1.0]
        trial = make_trial(said, examples[0], values)
        trials.store_trials(db, [(trial, USAGE)], "engine")
    write_scores(db, CACHE)
    found = {
        row["explainer"]: (row["value"], row["null_value"], row["n_controls"])
        for row in trials.load_scores(db, CACHE)
        if row["latent"] == 0 and row["variant"] == "raw"
    }
    assert found == {"llm": (0.75, 0.125, 2), "token_list": (1.0, 0.0, 2)}


def test_scorers_and_models_are_scored_apart():
    db = tiny_results.memory()
    examples, explanations = write_study(db)
    cosine = make_trial(
        explanations[0], examples[0], [0.1, 0.2, 0.3, 0.0], scorer="embedding", id="b2:cosine",
        model_id=EMBEDDER, prompt_id=None,
    )  # fmt: skip
    trials.store_trials(db, [(cosine, USAGE)], "embedder")
    write_scores(db, CACHE)
    found = {
        (row["scorer"], row["model_id"]): (row["value"], row["n_controls"])
        for row in trials.load_scores(db, CACHE)
        if row["latent"] == 0 and row["variant"] == "raw"
    }
    # The cosine: .1 < .3, .1 > 0, .2 < .3, .2 > 0: 2 of 4.
    assert found == {("detection", ENGINE): (0.75, 2), ("embedding", EMBEDDER): (0.5, 0)}


# Over latents


def row(latent, value, null=0.5, **changes):
    difference = None if value is None or null is None else value - null
    plain = {"latent": latent, "explainer": "llm", "scorer": "detection", "variant": "raw"}
    return {**plain, "value": value, "null_value": null, "difference": difference, **changes}


def test_a_summary_is_the_mean_over_latents_with_students_interval():
    # .6 and .8: mean .7, standard deviation .1 · sqrt(2), t(1) = 12.706: .7 ± 12.706 · .1.
    (found,) = summarise([row(0, 0.6, 0.4), row(1, 0.8, 0.5)])
    assert (found.explainer, found.scorer, found.variant) == ("llm", "detection", "raw")
    assert found.n_latents == 2
    assert found.value == pytest.approx((0.7, 0.7 - 1.2706, 0.7 + 1.2706), abs=1e-3)
    assert found.null.value == pytest.approx(0.45)
    # Differences .2 and .3: paired, so narrower: .25 ± 12.706 · .05.
    assert found.difference == pytest.approx((0.25, 0.25 - 0.6353, 0.25 + 0.6353), abs=1e-3)


def test_explainers_scorers_and_variants_are_summarised_apart():
    rows = [
        row(0, 0.6), row(0, 0.7, variant="relative"), row(0, 0.8, scorer="embedding"),
        row(0, 0.9, explainer="token_list"), row(1, 0.7),
    ]  # fmt: skip
    found = {(s.explainer, s.scorer, s.variant): s.value.value for s in summarise(rows)}
    assert found == pytest.approx({
        ("llm", "detection", "raw"): 0.65, ("llm", "detection", "relative"): 0.7,
        ("llm", "embedding", "raw"): 0.8, ("token_list", "detection", "raw"): 0.9,
    })  # fmt: skip


def test_a_latent_without_a_score_is_not_counted():
    (found,) = summarise([row(0, 0.6), row(1, None, None), row(2, 0.8, None)])
    assert found.n_latents == 2
    assert found.value.value == pytest.approx(0.7)
    assert found.null.value == 0.5
    assert math.isnan(found.difference.low)


def test_no_rows_have_no_summary():
    assert summarise([]) == []
