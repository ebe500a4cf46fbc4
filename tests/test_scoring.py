"""Trials in groups, judged until sure or whole; scores of latents, parts of them, and old files."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tiny_marks
import tiny_results
import tiny_study
from tiny_results import CACHE, USAGE, make_explanation, store_latent

from lite_interp import analysis, judging, score_pipeline, scoring, sequential, stats, study
from lite_interp.analysis import summarise
from lite_interp.db import caches, studies, trials
from lite_interp.engine.scripted import ScriptedEngine
from lite_interp.ids import content_id
from lite_interp.prompts import load_prompt
from lite_interp.records import Place, Placed
from lite_interp.score import SCORERS, Judgement, Tools
from lite_interp.score_pipeline import ScoreJob
from lite_interp.scoring import Judging, Wanted
from lite_interp.tools import store_tools
from lite_interp.windows import make_window

TOOLS = Tools(embedder=tiny_study.BagOfWords())
N = 40
SURE = Judging(n_controls=2, until_sure=0.2, n_looks=5)


def noise(*names) -> float:
    """A number from 0 to 1 that follows from the names alone."""
    return int(content_id(list(names))[3:11], 16) / 16**8


def example_set(latent, n_active=N, n_silent=N, silent=("random",)):
    """Activating windows in ten deciles, and silent ones whose strata take turns."""
    examples = tiny_results.make_examples(latent)
    placed = []
    for number in range(n_active + n_silent):
        active = number < n_active
        peak = n_active - number + 1.0 if active else 0.0
        window = make_window(
            CACHE, latent, Place(number, 0, 2), (f" w{number}", " x"), np.array([0, peak], "f4")
        )
        stratum = f"decile_{10 * number // n_active}" if active else silent[number % len(silent)]
        placed.append(Placed(window, stratum, 2.0))
    return replace(examples, scored=tuple(placed))


class Judge:
    """Judges windows of one latent each; counts, and is interrupted after so many calls."""

    def __init__(self, knows=True, stop_after=None):
        self.knows, self.left = knows, stop_after
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def __call__(self, explanation, items, tools, settings):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        self.asked.append((explanation, tuple(item.window.id for item in items)))
        return [Judgement(self.value(explanation, item)) for item in items]

    def value(self, explanation, item):
        own = explanation == f"meaning {item.window.latent}"
        return noise(explanation, item.window.id) + (self.knows and own and item.active)

    @property
    def n_judged(self):
        return sum(len(windows) for _, windows in self.asked)


def scorer_of(judge, name="embedding"):
    return replace(SCORERS[name], score=judge)


def wanted_of(db, judge, how=SURE, name="embedding", tools=TOOLS):
    explanations = studies.load_explanations(db, CACHE)
    return Wanted(explanations, explanations, scorer_of(judge, name), tools, how)


def run(db, judge, how=SURE, name="embedding", tools=TOOLS):
    """Judge what is pending and compute the scores; returns how many groups there were."""
    store_tools(db, tools)
    wanted = wanted_of(db, judge, how, name, tools)
    groups = scoring.pending_trials(db, wanted)
    for _ in scoring.write_trials(db, groups, wanted):
        pass
    analysis.write_scores(db, CACHE)
    return len(groups)


def study_of(*example_sets):
    db = tiny_results.memory()
    for examples in example_sets:
        store_latent(db, examples)
    return db


def latents(n=3, **changes):
    return study_of(*(example_set(latent, **changes) for latent in range(n)))


def rows(db, *tables):
    """Everything in the tables but times."""
    return [
        {key: value for key, value in row.items() if key != "seconds"}
        for table in tables or ("trials", "verdicts", "scores")
        for row in db.query(f"select * from {table}")
    ]


def counts(db):
    return {
        (row[0], row[1]): row[2]
        for row in db.execute(
            """select example_sets.latent, control, count(*) / count(distinct trials.id)
               from verdicts join trials on trials.id = trial_id
               join example_sets on example_sets.id = example_set_id
               group by example_sets.latent, control"""
        )
    }


def scores_of(db, variant="raw"):
    return {r["latent"]: r for r in trials.load_scores(db, CACHE) if r["variant"] == variant}


# A trial and its controls are one unit


def test_a_group_that_is_killed_leaves_nothing_and_is_done_again_alike():
    whole = latents()
    run(whole, Judge(knows=False))
    for stop_after in (0, 1, 5, 14):
        db = latents()
        with pytest.raises(KeyboardInterrupt):
            run(db, Judge(knows=False, stop_after=stop_after))
        assert rows(db) == []
        run(db, Judge(knows=False))
        assert rows(db) == rows(whole)
    # 5 rounds of 3 texts: the second latent is in the middle, the first one is there whole.
    with pytest.raises(KeyboardInterrupt):
        run(db := latents(), Judge(knows=False, stop_after=17))
    assert sum(r["control"] == 0 for r in rows(db, "trials")) == 1 and len(rows(db, "trials")) == 3
    assert counts(db).keys() == {(rows_latent(db), 0), (rows_latent(db), 1)}
    run(db, Judge(knows=False))
    key = repr
    assert sorted(rows(db), key=key) == sorted(rows(whole), key=key)


def rows_latent(db):
    return db.execute(
        """select distinct latent from trials
           join example_sets on example_sets.id = example_set_id"""
    ).fetchone()[0]


def test_a_group_is_stored_whole_or_not_at_all(monkeypatch):
    db = latents()
    real, n_left = trials.add, [2 * N + 7]

    def add(db, table, row):
        n_left[0] -= table == "verdicts"
        if not n_left[0]:
            raise KeyboardInterrupt
        real(db, table, row)

    with monkeypatch.context() as patch:
        patch.setattr(trials, "add", add)
        with pytest.raises(KeyboardInterrupt):
            run(db, Judge(knows=False))
    assert rows(db) == []


def test_a_judge_who_knows_is_asked_less():
    db, judge = latents(), Judge()
    run(db, judge)
    assert counts(db) == {(latent, control): 2 * N / 5 for latent in range(3) for control in (0, 1)}
    assert judge.n_judged == 3 * 3 * 2 * N / 5
    for score in scores_of(db).values():
        assert score["value"] == 1.0
        assert score["difference_low"] > 0
        assert (score["n_active"], score["n_silent"], score["n_failed"]) == (N // 5, N // 5, 0)
        assert score["metrics"]["n_items"] == 2 * N
        assert score["metrics"]["share_saved"] == pytest.approx(0.8)


def test_a_judge_who_knows_nothing_is_asked_everything_unless_the_width_is_reached():
    db, judge = latents(), Judge(knows=False)
    run(db, judge, replace(SURE, until_sure=0.01))
    assert judge.n_judged == 3 * 3 * 2 * N
    assert {score["metrics"]["share_saved"] for score in scores_of(db).values()} == {0.0}
    # Half of the windows give an interval about .4 wide, all give one of .25 at one look.
    db, judge = latents(), Judge(knows=False)
    run(db, judge, replace(SURE, until_sure=0.5))
    assert judge.n_judged < 3 * 3 * 2 * N
    for score in scores_of(db).values():
        assert score["high"] - score["low"] < 0.5


def test_without_until_sure_everything_is_judged_and_nothing_is_said_to_be_saved():
    db, judge = latents(), Judge()
    assert run(db, judge, Judging(n_controls=2)) == 9
    assert judge.n_judged == 9 * 2 * N
    assert "share_saved" not in scores_of(db)[0]["metrics"]


def test_all_trials_of_a_group_have_the_same_items():
    db, judge = latents(), Judge()
    run(db, judge)
    for examples in {r["example_set_id"] for r in rows(db, "trials")}:
        asked = {
            tuple(
                db.execute(
                    "select window_id, item from verdicts where trial_id = ? order by 1, 2",
                    [r["id"]],
                ).fetchall()
            )
            for r in rows(db, "trials")
            if r["example_set_id"] == examples
        }
        assert len(asked) == 1


def test_a_second_run_until_sure_does_nothing():
    db, judge = latents(), Judge()
    run(db, judge)
    before = rows(db)
    assert run(db, judge) == 0
    assert rows(db) == before


def test_a_latent_is_not_judged_again_for_controls_that_came_later():
    db = latents(2)
    run(db, Judge())
    before = rows(db, "trials", "verdicts")
    store_latent(db, example_set(2))
    assert run(db, Judge()) == 1
    after = rows(db, "trials", "verdicts")
    assert [row for row in after if row in before] == before
    assert {latent: score["n_controls"] for latent, score in scores_of(db).items()} == {
        0: 1, 1: 1, 2: 2,
    }  # fmt: skip


def test_another_number_of_controls_is_another_way_to_judge_until_sure():
    db = latents()
    run(db, Judge(), replace(SURE, n_controls=1))
    assert run(db, Judge(), replace(SURE, n_controls=2)) == 3
    found = [(r["latent"], r["n_controls"]) for r in trials.load_scores(db, CACHE)]
    raw = Counter(found)
    assert set(raw) == {(latent, n) for latent in range(3) for n in (1, 2)}


def test_a_scorer_that_never_stops_is_judged_once_with_and_without_until_sure():
    def rate(explanation, items, tools, settings):
        return [Judgement(0.5, detail={"expected": [0.0, 1.0], "mass": 1.0}) for _ in items]

    engine = ScriptedEngine()
    tools = Tools(engine=engine, prompt=load_prompt("score/simulation"))
    db = latents()
    assert run(db, rate, Judging(n_controls=2), "simulation", tools) == 9
    before = rows(db, "trials")
    assert run(db, rate, SURE, "simulation", tools) == 0
    assert rows(db, "trials") == before
    assert all("until_sure" not in row["settings"] for row in before)


# Rounds


def items_of(examples):
    return SCORERS["detection"].items(examples, {}, None)


def test_rounds_follow_from_the_items_alone():
    items = items_of(example_set(0))
    names = [[item.window.id for item in part] for part in judging.plan_rounds(items, 5)]
    again = judging.plan_rounds(items_of(example_set(0)), 5)
    assert names == [[item.window.id for item in part] for part in again]
    assert sorted(sum(names, [])) == sorted(item.window.id for item in items)
    assert names[0] != [item.window.id for item in items][: len(names[0])], "in random order"
    # The judge is asked round by round, each text after the other.
    db, judge = study_of(example_set(0)), Judge(knows=False)
    run(db, judge, replace(SURE, until_sure=0.01))
    assert [list(windows) for _, windows in judge.asked] == names


def test_each_round_holds_its_share_of_each_stratum():
    examples = example_set(0, 40, 60, silent=("random", "near", "sibling"))
    total = Counter(placed.stratum for placed in examples.scored)
    rounds = judging.plan_rounds(items_of(examples), 5)
    assert len(rounds) == 5
    for n_rounds in range(1, 6):
        seen = Counter(item.stratum for part in rounds[:n_rounds] for item in part)
        for stratum, n in total.items():
            assert abs(seen[stratum] - n * n_rounds / 5) <= 1, (stratum, n_rounds)
    for part in rounds:
        assert Counter(item.active for item in part) == {True: 8, False: 12}


def test_few_items_are_one_round_and_none_are_asked_nothing():
    few = items_of(example_set(0, 3, 3))
    assert [len(part) for part in judging.plan_rounds(few, 5)] == [6]
    assert judging.plan_rounds([], 5) == []
    assert judging.judge_until_sure(["x"], [], SURE, scorer_of(Judge()), TOOLS)[0].answers == ()


def test_an_interval_is_for_the_looks_that_were_planned_and_not_for_those_that_were_allowed():
    # Nine windows of a kind are enough for two looks, not for five.
    db = latents(n_active=9, n_silent=9)
    run(db, Judge(), replace(SURE, until_sure=0.01))
    for score in scores_of(db).values():
        n = score["n_active"], score["n_silent"]
        at_two = stats.auroc_interval(score["value"], *n, sequential.critical_value(2))
        assert (score["low"], score["high"]) == at_two[1:]


def test_what_is_saved_is_a_share_of_the_items_and_not_of_the_windows():
    # 20 activating windows and 4 silent ones: up to 40 right and wrong marks, 24 windows.
    examples = replace(tiny_marks.at_random(0, 20, 4), id="b2:marks")
    fuzzing = SCORERS["fuzzing"]
    n_items = len(fuzzing.items(examples, fuzzing.settings, None))
    assert n_items > 24
    db = study_of(examples)
    tools = Tools(engine=ScriptedEngine(), prompt=load_prompt("score/fuzzing"))
    judge = Judge()
    judge.value = lambda told, item: noise(item.window.id, item.name) / 9 + item.active
    run(db, judge, replace(SURE, until_sure=0.5), "fuzzing", tools)
    (row,) = trials.load_scores(db, CACHE)
    assert row["metrics"]["n_items"] == n_items
    assert row["n_active"] + row["n_silent"] == judge.n_judged < n_items
    assert row["metrics"]["share_saved"] == pytest.approx(1 - judge.n_judged / n_items)


def test_a_latent_about_which_nothing_can_be_asked_gets_a_score_that_says_so():
    # Every window fires at its second token, so no marks can be wrong anywhere.
    tools = Tools(engine=ScriptedEngine(), prompt=load_prompt("score/fuzzing"))
    for how in (Judging(), SURE):
        db = latents()
        run(db, Judge(), how, "fuzzing", tools)
        for row in scores_of(db).values():
            assert (row["value"], row["reason"]) == (None, "too few windows")
            assert (row["n_active"], row["n_silent"], row["n_failed"]) == (0, 0, 0)


# Latents that are judged without an explanation


def test_a_scorer_of_latents_asks_once_for_each_example_set_and_has_no_controls():
    def name_it(explanation, items, tools, settings):
        assert explanation == ""
        return [
            Judgement(float(noise(item.name) < 0.7), detail={"stratum": "decile_1"})
            for item in items
        ]

    db = latents()
    for latent in range(3):
        bare = {"explainer": "token_list", "prompt_id": None, "engine_id": None}
        other = make_explanation(example_set(latent), "list", **bare)
        failed = make_explanation(example_set(latent), "bad", text=None, failure="empty")
        studies.store_explanations(db, CACHE, [(other, USAGE), (failed, USAGE)])
    tools = Tools(engine=ScriptedEngine(), prompt=load_prompt("score/intruder"))
    for how in (Judging(n_controls=2), SURE):
        n = run(db, name_it, how, "intruder", tools)
        assert n == (0 if how is SURE else 3)
    found = rows(db, "trials")
    assert len(found) == 3 == len({row["example_set_id"] for row in found})
    assert {(row["explanation_id"], row["control"]) for row in found} == {(None, 0)}
    scores = trials.load_scores(db, CACHE)
    assert {(r["latent"], r["variant"], r["statistic"]) for r in scores} == {
        (latent, "raw", "accuracy") for latent in range(3)
    }
    right = sum(noise(f"q{number}") < 0.7 for number in range(10))
    for score in scores:
        assert (score["value"], score["null_value"], score["n_controls"]) == (right / 10, 0.2, 0)
        assert score["metrics"]["strata"]["decile_1"]["n"] == 10
    (summary,) = summarise(scores)
    assert (summary.explainer, summary.n_latents) == (None, 3)


# Failures, and latents that are none


class Failing(Judge):
    """Fails on one window of each latent, and on another one for controls."""

    def __call__(self, explanation, items, tools, settings):
        found = super().__call__(explanation, items, tools, settings)
        bad = {0} if explanation == f"meaning {items[0].window.latent}" else {0, N}
        return [
            Judgement(None, "not_finite") if item.window.context in bad else said
            for item, said in zip(items, found, strict=True)
        ]


@pytest.mark.parametrize("how", [Judging(n_controls=2), replace(SURE, until_sure=0.01)])
def test_an_item_that_failed_is_stored_and_counted(how):
    db = latents()
    run(db, Failing(knows=False), how)
    failures = db.execute(
        """select control, context, failure, count(*) from verdicts
           join trials on trials.id = trial_id join windows on windows.id = window_id
           where value is null group by control, context, failure order by control, context"""
    ).fetchall()
    assert failures == [
        (0, 0, "not_finite", 3), (1, 0, "not_finite", 6), (1, N, "not_finite", 6),
    ]  # fmt: skip
    for score in scores_of(db).values():
        assert (score["n_active"], score["n_silent"], score["n_failed"]) == (N - 1, N - 1, 2)
        assert score["reason"] is None


def test_q_values_and_means_are_over_latents_only():
    db = study_of(*(example_set(latent, 12, 12) for latent in (-2, -1, 0, 1, 2)))
    judge = Judge()
    # Latent 1 is hard to judge; a rule-made latent is always easy.
    judge.value = lambda told, item: (
        noise(told, item.window.id)
        + (told == f"meaning {item.window.latent}" and item.active and item.window.latent != 1)
    )
    run(db, judge, Judging(n_controls=2))
    rows_raw = scores_of(db)
    assert rows_raw.keys() == {-2, -1, 0, 1, 2}
    assert all(rows_raw[latent]["q_value"] is None for latent in (-2, -1))
    p_values = np.array([rows_raw[latent]["p_value"] for latent in range(3)])
    expected = stats.q_values(p_values).tolist()
    assert [rows_raw[latent]["q_value"] for latent in range(3)] == pytest.approx(expected)
    assert expected[0] < 0.05 < expected[1]
    everything = trials.load_scores(db, CACHE)
    found = {each.variant: each for each in summarise(everything)}
    assert found["raw"].n_latents == 3
    assert found["raw"].n_certain == 2
    mean = np.mean([rows_raw[latent]["value"] for latent in range(3)])
    assert found["raw"].value.value == pytest.approx(mean)


# Calibration


def store_verdicts(db, judge):
    """Trials of a judge, in the place of those that are there."""
    for table in ("scores", "scorings", "verdicts", "trials"):
        db.execute(f"delete from {table}")
    run(db, judge, Judging(n_controls=0))


def calibrated(db):
    """Latent → its threshold, and the Brier score of its probabilities."""
    metrics = {latent: row["metrics"] for latent, row in scores_of(db).items()}
    return {latent: (each["threshold"], each["brier"]) for latent, each in metrics.items()}


def test_a_threshold_never_comes_from_the_windows_it_is_used_on():
    n = 8
    db = study_of(*(example_set(latent, 12, 12) for latent in range(n)))
    plain, moved = Judge(), Judge()
    plain.value = lambda told, item: noise(told, item.window.id) + 0.5 * item.active
    store_verdicts(db, plain)
    before = calibrated(db)
    assert before.keys() == set(range(n))
    moved.value = lambda told, item: plain.value(told, item) + 0.3 * (item.window.latent == 3)
    store_verdicts(db, moved)
    after = calibrated(db)
    # Latents are dealt to five parts in turn: 3 and 8 would be one part, but there is no 8.
    assert after[3][0] == before[3][0]
    assert all(after[latent][1] != before[latent][1] for latent in range(n))
    assert {latent for latent in range(n) if before[latent][0] != after[latent][0]} > {0, 2}
    # And the other way round: what is said of all others moves the threshold of latent 3.
    moved.value = lambda told, item: plain.value(told, item) + 0.3 * (item.window.latent != 3)
    store_verdicts(db, moved)
    assert calibrated(db)[3][0] == pytest.approx(before[3][0] + 0.3)
    n_others = {row["metrics"]["n_calibration"] for row in scores_of(db).values()}
    assert n_others == {24 * (n - 1), 24 * (n - 2)}


def test_a_latent_alone_has_no_threshold():
    db = study_of(example_set(0, 12, 12))
    run(db, Judge(), Judging())
    (row,) = trials.load_scores(db, CACHE)
    assert "threshold" not in row["metrics"]
    assert row["value"] == 1.0


# Latents with few windows, and scores that are none


def test_a_latent_with_few_windows_is_said_and_judged_all_the_same():
    db = study_of(example_set(0, 12, 12), example_set(1, 9, 12), example_set(2, 0, 12))
    store_latent(db, replace(example_set(3), scored=()))
    (cache,) = caches.load_caches(db)
    told = tiny_study.Told()
    job = ScoreJob(study.EngineSection(), study.ScoreSection())
    found = score_pipeline.wanted_explanations(db, cache, job, told)
    assert {each.latent for each in found} == {0, 1, 2, 3}
    assert told.lines == [
        "latents with fewer than 10 activating windows to score: 1 (9), 2 (0), 3 (0)"
    ]
    run(db, Judge(), Judging(n_controls=2))
    scores = scores_of(db)
    assert scores.keys() == {0, 1, 2}
    assert (scores[1]["value"], scores[1]["reason"]) == (1.0, None)
    assert (scores[2]["value"], scores[2]["reason"]) == (
        None,
        "too few windows",
    )


def test_a_score_without_a_number_says_why():
    db = study_of(example_set(0, 12, 0), example_set(1, 12, 12), example_set(2, 0, 12))
    dumb = Judge()
    dumb.value = lambda told, item: None if item.window.latent == 1 else 0.5

    def fail(explanation, items, tools, settings):
        said = dumb(explanation, items, tools, settings)
        return [each if each.value is not None else Judgement(None, "engine: x") for each in said]

    run(db, fail, Judging(n_controls=1))
    found = {latent: (row["value"], row["reason"]) for latent, row in scores_of(db).items()}
    assert found == {
        0: (None, "too few windows"),
        1: (None, "all 24 verdicts failed"),
        2: (None, "too few windows"),
    }
    assert scores_of(db)[1]["n_failed"] == 24
