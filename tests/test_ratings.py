"""Answers of people in the results file: kept once, taken back, counted, merged."""

import itertools
import json
import sqlite3
from dataclasses import replace

import pytest
import tiny_report
import tiny_study
from tiny_results import CACHE

from lite_interp.db import ratings, studies
from lite_interp.db.file import open_results
from lite_interp.merge import merge_files
from lite_interp.records import Question, Rating


@pytest.fixture(autouse=True)
def own_locks(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_report.make_results(tmp_path_factory.mktemp("ratings") / "results.db")


@pytest.fixture
def results(whole, tmp_path):
    path = tmp_path / "results.db"
    path.write_bytes(whole.read_bytes())
    return path


def question(db, place=0):
    """About the explanation at this place, or (above) about a window of it."""
    explanations = studies.load_explanations(db, CACHE)
    said = explanations[place % len(explanations)]
    if place < len(explanations):
        return Question("explanation", said.id, said.example_set_id, {})
    window = studies.load_example_set(db, said.example_set_id).scored[0].window
    return Question(
        "fuzzing", said.id, said.example_set_id, {"marks": "own"}, window.id, "right", 1
    )


def rate(question, rater, answer, second=0):
    name = ratings.rating_id(rater, question)
    return Rating(name, rater, question, answer, 2.5, f"2026-01-01T00:00:{second:02d}+00:00")


def test_an_answer_comes_back_as_it_was_and_the_first_one_stays(results):
    with open_results(results) as db:
        asked = [question(db, 0), question(db, 7)]
        first = [rate(each, "anna", 1, place) for place, each in enumerate(asked)]
        assert all(ratings.store_rating(db, each) for each in first)
        assert not ratings.store_rating(db, replace(first[0], answer=4))
        assert ratings.store_rating(db, rate(asked[0], "ben", 3, 9))
        assert ratings.load_ratings(db, CACHE, rater="anna") == first
        assert [each.rater for each in ratings.load_ratings(db, CACHE, "explanation")] == [
            "anna", "ben",
        ]  # fmt: skip
        assert ratings.load_ratings(db, "b2:other") == []
        assert ratings.count_ratings(db, CACHE) == [
            ("anna", "explanation", 1), ("anna", "fuzzing", 1), ("ben", "explanation", 1),
        ]  # fmt: skip


def test_an_answer_is_taken_back_once(results):
    with open_results(results) as db:
        kept = rate(question(db), "anna", 2)
        ratings.store_rating(db, kept)
        assert ratings.undo_rating(db, kept.id)
        assert not ratings.undo_rating(db, kept.id)
        assert ratings.load_ratings(db, CACHE) == []


def test_every_part_of_a_question_and_the_rater_name_it(results):
    with open_results(results) as db:
        asked = question(db, 7)
    others = [
        replace(asked, task="detection"), replace(asked, explanation_id="b2:x"),
        replace(asked, example_set_id="b2:e"), replace(asked, settings={"marks": "paper"}),
        replace(asked, window_id="b2:w"), replace(asked, item="wrong"),
    ]  # fmt: skip
    names = [ratings.rating_id("anna", each) for each in (asked, *others)]
    assert len({*names, ratings.rating_id("ben", asked)}) == 8
    assert ratings.rating_id("anna", replace(asked, right_answer=0)) == names[0]


def test_a_task_that_there_is_not_is_refused(results):
    with open_results(results) as db, pytest.raises(sqlite3.IntegrityError):
        ratings.store_rating(db, rate(replace(question(db), task="guessing"), "anna", 1))


@pytest.mark.parametrize("order", [*itertools.permutations(("a.db", "b.db"))])
def test_raters_of_two_files_come_together(results, tmp_path, order):
    for name, rater in (("a.db", "anna"), ("b.db", "ben")):
        (tmp_path / name).write_bytes(results.read_bytes())
        with open_results(tmp_path / name) as db:
            for place in (0, 1, 7):
                ratings.store_rating(db, rate(question(db, place), rater, place % 2))
    ours, theirs = (tmp_path / name for name in order)
    for _ in range(2):
        outcome = merge_files(ours, [theirs], tiny_study.Told())
        assert outcome.files[0].conflicts.n == 0
        with open_results(ours) as db:
            assert [each.n for each in ratings.count_ratings(db, CACHE)] == [2, 1, 2, 1]


def test_another_answer_of_the_same_person_is_a_conflict_another_time_is_none(results, tmp_path):
    other = tmp_path / "other.db"
    other.write_bytes(results.read_bytes())
    with open_results(results) as db, open_results(other) as there:
        for place, answer in ((0, 2), (1, 3)):
            asked = question(db, place)
            ratings.store_rating(db, rate(asked, "anna", 2, 1))
            ratings.store_rating(there, rate(asked, "anna", answer, 2))
    outcome = merge_files(results, [other], tiny_study.Told())
    (conflict,) = outcome.files[0].conflicts.listed
    assert conflict.table == "ratings"
    with open_results(results) as db:
        assert [each.answer for each in ratings.load_ratings(db, CACHE)] == [2, 2]


@pytest.mark.parametrize("turned", [False, True])
def test_an_answer_about_another_text_is_no_answer_about_this_one(results, tmp_path, turned):
    other = tmp_path / "other.db"
    other.write_bytes(results.read_bytes())
    with open_results(results) as db, open_results(other) as there:
        one, two = (question(db, place) for place in (0, 2))
        assert None not in (one.explanation_id, two.explanation_id)
        assert one.explanation_id != two.explanation_id
        there.execute(
            "update explanations set text = 'other words' where id = ?", [one.explanation_id]
        )
        for each in (one, two):
            ratings.store_rating(db, rate(each, "anna", 1))
            ratings.store_rating(there, rate(each, "ben", 0))
    ours, theirs = (other, results) if turned else (results, other)
    for n_new in (2, 0):
        found = merge_files(ours, [theirs], tiny_study.Told()).files[0].conflicts
        assert sorted(each.table for each in found.listed) == ["explanations", "ratings"]
        assert found.n_new == n_new
        with open_results(ours) as db:
            kept = [(each.rater, each.question) for each in ratings.load_ratings(db, CACHE)]
            (left,) = db.execute("select other from conflicts where table_name = 'ratings'")
        here, away = ("ben", "anna") if turned else ("anna", "ben")
        assert kept == [(here, one), (here, two), (away, two)]
        assert json.loads(left[0])["rater"] == away
