"""People rate and judge: what they are asked, that they see no source, that no answer is lost."""

from __future__ import annotations

import datetime
import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import tiny_report
from rich.cells import cell_len
from rich.console import Console
from tiny_report import TOKENS
from tiny_results import CACHE, ENGINE, PROMPT, add_cache
from typer.testing import CliRunner

from lite_interp import annotate
from lite_interp.annotate import BLOCK, TASKS, Request
from lite_interp.annotate.asking import ask
from lite_interp.annotate.pool import apart, balanced
from lite_interp.annotate.terminal_page import question_page
from lite_interp.cli import app, people
from lite_interp.db import ratings, studies
from lite_interp.db.caches import the_cache
from lite_interp.db.file import open_results, read_results
from lite_interp.errors import ResultsError, UsageError
from lite_interp.ids import canonical_json, generator
from lite_interp.prompts import load_prompt
from lite_interp.records import Question
from lite_interp.render import marked_tokens
from lite_interp.score import SCORERS, Tools
from lite_interp.score.base import Item
from lite_interp.scoring import Judging, trial_settings

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, datetime.timezone.utc)
FIELDS = {"task", "ask", "explanation", "windows", "answers", "max"}
HIDDEN = ("b2:", "decile", "random", "llm", "token_list", ENGINE, PROMPT, "b2:x0", "stratum")
"""What tells whose an explanation is, or what is right."""
EVIL = "a\x00b\x1b[31m\u202ec\u2066\u200bd\U000e0041\x85\r\n\te\u2028f[red]g"


@pytest.fixture(autouse=True)
def surroundings(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotate")
    return tiny_report.make_results(folder / "results.db", 3, ("rain", "snow", "ice"))


@pytest.fixture
def results(whole, tmp_path):
    path = tmp_path / "results.db"
    path.write_bytes(whole.read_bytes())
    return path


@pytest.fixture
def db(results):
    with open_results(results) as opened:
        yield opened


def cache_of(db):
    return the_cache(db, CACHE)


def pool(db, task, **filters):
    return annotate.pool(db, cache_of(db), task, **filters)


def sitting(db, rater="anna", task="explanation", **filters):
    return annotate.open_sitting(db, cache_of(db), rater, Request(task, **filters))


def answer(db, asked, n=1, rater="anna"):
    """Answer the next n questions of a sitting with the first answer that there is."""
    for _ in range(n):
        question = annotate.next_question(db, cache_of(db), asked).question
        first = annotate.answers(question)[0][0]
        ratings.store_rating(db, annotate.make_rating(rater, question, first, 1.0, NOW))


def run(path, *words, typed="", rater="anna"):
    given = ["annotate", str(path), *(["--rater", rater] if rater else []), *words]
    return CliRunner().invoke(app, given, input=typed)


def places(output):
    """How far the rater was at each question that was shown."""
    return re.findall(r"^(\d+) of \d+$", output, re.MULTILINE)


# The pool


def test_every_explanation_with_a_text_is_rated(db):
    found = pool(db, "explanation")
    able = [each.id for each in studies.load_explanations(db, CACHE) if each.text is not None]
    assert Counter(each.explanation_id for each in found) == Counter(able)
    assert all(each.settings == {} and each.right_answer is None for each in found)
    assert len(able) == 4  # of six


@pytest.mark.parametrize("task", ["detection", "fuzzing"])
def test_items_are_balanced_and_the_same_for_all_explanations_of_a_set(db, task):
    found = pool(db, task)
    by_explanation = {}
    for each in found:
        key = (each.window_id, each.item, each.right_answer)
        by_explanation.setdefault((each.example_set_id, each.explanation_id), set()).add(key)
    assert len(by_explanation) == 4
    sets = {}
    for (examples, _), items in by_explanation.items():
        assert sets.setdefault(examples, items) == items
        n = Counter(right for _, _, right in items)
        # Six windows fire and four are silent; no window is there twice.
        assert n == ({1: 5, 0: 4} if task == "detection" else {1: 3, 0: n[0]})
        assert len({window for window, _, _ in items}) == len(items)
    assert len(sets) == 3


@pytest.mark.parametrize("task", ["detection", "fuzzing", "intruder"])
def test_an_answer_can_be_laid_beside_the_judges_verdict(db, task):
    n_judged = 0
    for each in pool(db, task):
        key = [task, each.explanation_id, each.example_set_id, canonical_json(each.settings)]
        rows = db.execute(
            """select active from verdicts join trials on trials.id = trial_id
               where scorer = ? and explanation_id is ? and example_set_id = ? and settings = ?
               and control = 0 and window_id = ? and item = ?""",
            [*key, each.window_id, each.item],
        ).fetchall()
        # The explanation by another explainer was not judged.
        assert len(rows) == (0 if each.explanation_id == "b2:y0" else 1)
        for (active,) in rows:
            right = silent_place(db, each) if task == "intruder" else active
            assert right == each.right_answer
            n_judged += 1
    # Three latents with 5 + 4 windows, or one question.
    assert n_judged == {"detection": 27, "intruder": 3}.get(task, n_judged)
    assert n_judged >= 3


def silent_place(db, question):
    """Place, from 1, of the only window of a question in which the latent is silent."""
    examples = studies.load_example_set(db, question.example_set_id)
    (item,) = [
        each
        for each in SCORERS["intruder"].items(examples, SCORERS["intruder"].settings, None)
        if (each.window.id, each.name) == (question.window_id, question.item)
    ]
    (place,) = [n for n, each in enumerate(item.choices, 1) if each.window.peak == 0]
    return place


@pytest.mark.parametrize("task", ["detection", "fuzzing", "intruder"])
def test_the_settings_are_those_of_a_trial_but_for_its_prompt(db, task):
    scorer = SCORERS[task]
    stored = trial_settings(scorer, Tools(prompt=load_prompt(scorer.prompt)), Judging())
    del stored["prompt"]
    assert pool(db, task)[0].settings == stored


def test_intruders_are_asked_whatever_was_explained(db):
    found = pool(db, "intruder")
    assert {each.explanation_id for each in found} == {None}
    assert len({each.example_set_id for each in found}) == 3
    assert all(1 <= each.right_answer <= 5 for each in found)
    db.execute("delete from scores")
    db.execute("delete from verdicts")
    db.execute("delete from trials")
    db.execute("delete from explanations")
    assert pool(db, "intruder") == found
    assert pool(db, "detection") == []


@pytest.mark.parametrize("task", TASKS)
def test_a_part_of_the_pool_stands_in_the_order_of_the_whole(db, task):
    every = pool(db, task)
    assert every == pool(db, task)
    for filters in ({"latents": (0, 2)}, {"explainer": "llm"}, {"explainer": "token_list"}):
        some = pool(db, task, **filters)
        assert some == [each for each in every if each in some]
        assert 0 < len(some) < len(every) or (task, filters) == ("intruder", {"explainer": "llm"})
    assert pool(db, task, latents=(7,)) == []


def test_rule_made_latents_and_unreadable_strata_are_left_out(db):
    n = len(pool(db, "intruder"))
    db.execute("update example_set_windows set stratum = 'strong' where stratum like 'decile_%'")
    assert pool(db, "intruder") == []
    assert len(pool(db, "explanation")) == 4
    db.execute("update explanations set latent = -1 - latent")
    db.execute("update example_sets set latent = -1 - latent")
    assert n == 3
    assert [pool(db, task) for task in TASKS] == [[]] * 4


class Drawn(NamedTuple):
    stratum: str
    number: int


def test_a_draw_is_spread_over_strata_and_leaves_none_out_for_ever():
    found = [Drawn(f"decile_{n // 5}", n) for n in range(50)]
    seen = Counter()
    for seed in range(60):
        drawn = annotate.spread(found, 5, generator(seed, "test"))
        strata = [int(each.stratum[-1]) for each in drawn]
        assert len(set(strata)) == 5
        assert set(np.diff(strata)) <= {1, 2, 3}
        assert len({each.stratum for each in annotate.spread(found, 10, generator(seed))}) == 10
        seen.update(drawn)
    assert len(seen) == 50
    assert max(seen.values()) < 25
    assert sorted(annotate.spread(found, 60, generator(0))) == found
    assert annotate.spread([], 5, generator(0)) == []


def test_a_window_is_never_seen_with_right_and_with_wrong_marks(db):
    window = studies.load_example_set(db, pool(db, "fuzzing")[0].example_set_id).scored[0].window
    for n_windows, wanted in ((40, 5), (8, 4), (1, 0)):
        windows = [replace(window, id=f"b2:w{n}") for n in range(n_windows)]
        items = [
            Item(each, right, f"decile_{n % 10}", 1.0)
            for right in (True, False)
            for n, each in enumerate(windows)
        ]
        for seed in range(20):
            drawn = balanced(items, generator(seed, "test"))
            assert [each.active for each in drawn] == [True] * wanted + [False] * wanted
            assert len({each.window.id for each in drawn}) == len(drawn)


def test_no_text_comes_again_in_another_question_about_intruders(db):
    examples = studies.load_example_set(db, pool(db, "intruder")[0].example_set_id)
    scorer = SCORERS["intruder"]
    items = scorer.items(examples, scorer.settings, None)
    # Six windows fire and each question shows four: all of them come again.
    assert len(items) == 10
    assert apart(items) == items[:1]
    texts = [
        shown._replace(window=replace(shown.window, id=f"b2:{n}"))
        for n, shown in enumerate(items[0].choices * 3)
    ]
    asked = [
        replace(items[0], name=f"q{n}", choices=tuple(texts[place : place + 5]))
        for n, place in enumerate((0, 4, 5, 9, 10))
    ]
    assert [each.name for each in apart(asked)] == ["q0", "q2", "q4"]


# The order


def many(n=57):
    return [Question("explanation", f"b2:{place}", "b2:e", {}) for place in range(n)]


def test_raters_answer_the_same_blocks_in_their_own_order():
    questions = many()
    orders = [annotate.order(questions, name) for name in ("anna", "ben", "anna")]
    assert orders[0] == orders[2] != orders[1]
    for start in range(0, len(questions), BLOCK):
        block = {each.explanation_id for each in questions[start : start + BLOCK]}
        for asked in orders:
            part = asked[start : start + BLOCK]
            assert {each.explanation_id for each in part} == block
            assert part != questions[start : start + BLOCK]
    within = [
        [block.index(each) for each in orders[0][start : start + BLOCK]]
        for start in (0, BLOCK)
        for block in [questions[start : start + BLOCK]]
    ]
    assert within[0] != within[1]
    assert annotate.order([], "anna") == []


# Blindness


def strings(value):
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    if isinstance(value, (list, tuple)):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("task", TASKS)
def test_a_record_tells_no_source_and_no_right_answer(db, task):
    shapes = {}
    for question in pool(db, task):
        record = annotate.question_record(db, cache_of(db), question)
        assert set(record) == FIELDS - (set() if task == "explanation" else {"max"})
        text = json.dumps(record)
        assert not any(word in text for word in HIDDEN)
        more = {"explanation": {"fires"}, "detection": set()}.get(task, {"marks"})
        assert all(set(each) == {"tokens", *more} for each in record["windows"])
        told = ("rain", "snow", "ice", "year", record["ask"], task, *TOKENS)
        labels = [label for _, label in record["answers"]]
        assert set(strings(record)) <= {*told, *labels}
        assert (record["explanation"] is None) == (task == "intruder")
        n_windows = {"explanation": 10, "intruder": 5}.get(task, 1)
        assert len(record["windows"]) == n_windows
        shapes.setdefault(question.right_answer, set()).add(
            (*record, tuple(record["windows"][0]), n_windows)
        )
    assert len(set().union(*shapes.values())) == 1


def test_an_explanation_stands_beside_windows_of_every_strength_in_no_order(db):
    for question in pool(db, "explanation"):
        windows = annotate.question_record(db, cache_of(db), question)["windows"]
        peaks = [max((value for _, value in each["fires"]), default=0) for each in windows]
        assert all(peaks[:6])
        assert not any(peaks[6:])  # the silent ones are last
        assert peaks[:6] != sorted(peaks[:6], reverse=True)
        examples = studies.load_example_set(db, question.example_set_id)
        scored = [each.window.peak for each in examples.scored if each.window.peak > 0]
        assert sorted(peaks[:6]) == pytest.approx(sorted(scored), rel=1e-3)


def test_marks_are_right_where_the_answer_says_so(db):
    for question in pool(db, "fuzzing"):
        (window,) = annotate.question_record(db, cache_of(db), question)["windows"]
        examples = studies.load_example_set(db, question.example_set_id)
        (host,) = [p.window for p in examples.scored if p.window.id == question.window_id]
        right = np.flatnonzero(marked_tokens(host.values, 0.3)).tolist()
        assert (window["marks"] == right) == bool(question.right_answer)
        assert question.right_answer or not host.values[window["marks"]].any()


def test_the_intruder_stands_at_the_place_of_the_right_answer(db):
    questions = pool(db, "intruder")
    tokens = canonical_json(["so", *TOKENS[1:]])
    db.execute("update windows set tokens = ? where max_value = 0", [tokens])
    for question in questions:
        windows = annotate.question_record(db, cache_of(db), question)["windows"]
        (place,) = [n for n, each in enumerate(windows, 1) if each["tokens"][0] == "so"]
        assert place == question.right_answer


@pytest.mark.parametrize("task", TASKS)
def test_the_terminal_tells_no_source_either(results, task):
    done = run(results, "--task", task, typed="1\n" * 60)
    assert done.exit_code == 0
    with read_results(results) as db:
        n = len(pool(db, task))
        (count,) = ratings.count_ratings(db, CACHE)
    assert count == ("anna", task, n)
    assert places(done.output) == [str(number) for number in range(1, n + 1)]
    assert f"answered now: {n}; in all {n} of {n}" in done.output
    assert "to go on" not in done.output
    shown = done.output.replace(str(results), "")
    assert not any(word in shown for word in HIDDEN)
    allowed = {"explanation": "what the latent fires on?"}.get(task)
    assert re.findall(r"latent.*", shown) == ([allowed[9:]] * n if allowed else [])


# Sittings


def test_a_sitting_goes_on_where_the_answers_end(results):
    with open_results(results) as db:
        asked = sitting(db, task="detection")
        answer(db, asked, 5)
    with open_results(results) as db:
        again = sitting(db, " anna ", "detection")
        assert again == asked
        turn = annotate.next_question(db, cache_of(db), again)
        assert turn[1:] == (5, len(asked.questions)) == (5, 36)
        assert turn.question == [*asked.questions.values()][5]
        # Somebody else begins at the beginning, another task too.
        assert annotate.next_question(db, cache_of(db), sitting(db, "ben", "detection"))[1] == 0
        assert annotate.next_question(db, cache_of(db), sitting(db))[1] == 0


def test_the_last_answer_is_taken_back_and_asked_again(db):
    asked = sitting(db)
    assert annotate.take_back(db, cache_of(db), asked) is None
    answer(db, asked, 2)
    answer(db, sitting(db, "ben"), 1, "ben")
    answer(db, sitting(db, task="fuzzing"), 1)
    order = [*asked.questions.values()]
    for place in (1, 0):
        assert annotate.take_back(db, cache_of(db), asked) == order[place]
        turn = annotate.next_question(db, cache_of(db), asked)
        assert (turn.question, turn.n_answered) == (order[place], place)
    assert annotate.take_back(db, cache_of(db), asked) is None
    assert [each.rater for each in ratings.count_ratings(db, CACHE)] == ["anna", "ben"]


def test_only_answers_to_what_is_asked_are_taken_back(db):
    part = sitting(db, latents=(1, 2))
    answer(db, part)
    answer(db, sitting(db, latents=(0,)), 2)
    assert annotate.take_back(db, cache_of(db), part) == [*part.questions.values()][0]
    assert annotate.take_back(db, cache_of(db), part) is None
    assert ratings.count_ratings(db, CACHE) == [("anna", "explanation", 2)]


def test_what_is_skipped_comes_at_the_end_in_the_order_of_skipping(db):
    asked = sitting(db)
    names = [*asked.questions]
    later = [names[2], names[0]]
    turn = annotate.next_question(db, cache_of(db), asked, later)
    assert turn.question == asked.questions[names[1]]
    for question in (names[1], names[3]):
        rating = annotate.make_rating("anna", asked.questions[question], 2, 0.0, NOW)
        ratings.store_rating(db, rating)
    turn = annotate.next_question(db, cache_of(db), asked, later)
    assert turn.question == asked.questions[names[2]]
    turn = annotate.next_question(db, cache_of(db), asked, [*later[1:], later[0]])
    assert turn.question == asked.questions[names[0]]


def test_keys_in_the_terminal(results):
    # 1 answered; 2 skipped; 3 answered and taken back, then answered; 4; then 2 again.
    done = run(results, typed="4\ns\n3\nu\n2\n1\n1\n")
    assert done.exit_code == 0
    assert places(done.output) == ["1", "2", "2", "3", "2", "3", "4"]
    assert "answered now: 4; in all 4 of 4" in done.output
    with read_results(results) as db:
        order = [*sitting(db).questions.values()]
        given = ratings.load_ratings(db, CACHE)
    assert [each.answer for each in given] == [4, 2, 1, 1]
    assert [order.index(each.question) for each in given] == [0, 2, 3, 1]
    assert all(0 <= each.seconds < 60 for each in given)


def test_what_is_taken_back_is_asked_before_what_was_left_open_another_day(results):
    run(results, typed="s\n2\nq\n")
    done = run(results, typed="u\n3\nq\n")
    with read_results(results) as db:
        order = [*sitting(db).questions.values()]
        (given,) = ratings.load_ratings(db, CACHE)
        texts = [
            annotate.question_record(db, cache_of(db), each)["explanation"] for each in order[:2]
        ]
    assert (given.question, given.answer) == (order[1], 3)
    asked = re.findall("^explanation: (.+)$", done.output, re.MULTILINE)
    assert asked == [texts[0], texts[1], texts[0]]


def test_what_is_no_answer_is_asked_again_and_nothing_is_lost_at_the_end_of_the_input(results):
    done = run(results, typed="u\n7\nyes\n\n" + "9" * 3000 + "\n3\nx")
    assert done.exit_code == 0
    assert "there is no answer to take back" in done.output
    assert "not an answer: yes (1 wrong, 2 mostly wrong, 3 mostly right, 4 right)" in done.output
    assert "answered now: 1; in all 1 of 4" in done.output
    again = f"to go on: lite-interp annotate {results} --rater anna --task explanation"
    assert again in done.output
    done = run(results, "--latents", "0,1", typed="q\n", rater="o'hara")
    assert "--rater 'o'\"'\"'hara' --task explanation --latents 0,1" in done.output
    yes = run(results, "--task", "fuzzing", typed="Y\nno\nq\n")
    assert "answered now: 2" in yes.output
    with read_results(results) as db:
        assert [each.answer for each in ratings.load_ratings(db, CACHE, "fuzzing")] == [1, 0]


def test_ctrl_c_says_how_to_go_on(results, monkeypatch):
    lines = iter(["2\n"])

    def line():
        for typed in lines:
            return typed
        raise KeyboardInterrupt

    monkeypatch.setattr(people, "_line", line)
    done = run(results)
    assert done.exit_code == 130
    assert "answered now: 1; in all 1 of 4\nto go on: lite-interp annotate" in done.output


def test_a_kill_costs_no_answer(results):
    code = "from lite_interp.cli import main; main()"
    words = [sys.executable, "-c", code, "annotate", str(results), "--rater", "anna"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as process:
        process.stdin.write("4\n3\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("3 of 4"):
                break
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = run(results, typed="1\n1\n")
    assert places(done.output) == ["3", "4"]
    with read_results(results) as db:
        assert [each.answer for each in ratings.load_ratings(db, CACHE)] == [4, 3, 1, 1]


def test_two_raters_at_one_file_at_the_same_time(results):
    outputs = {}

    def rate(rater):
        console = Console(file=io.StringIO(), width=80)
        with annotate.open_to_ask(results) as db:
            cache, asked = cache_of(db), sitting(db, rater, "fuzzing")
        outputs[rater] = [
            turn.n_answered for turn in ask(results, cache, asked, lambda: "1\n", console)
        ]

    threads = [threading.Thread(target=rate, args=(name,)) for name in ("anna", "ben")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with read_results(results) as db:
        n = len(pool(db, "fuzzing"))
        assert ratings.count_ratings(db, CACHE) == [("anna", "fuzzing", n), ("ben", "fuzzing", n)]
        given = [ratings.load_ratings(db, CACHE, rater=name) for name in ("anna", "ben")]
    assert outputs == {name: [*range(n + 1)] for name in ("anna", "ben")}
    ids = [[annotate.question_id(each.question) for each in some] for some in given]
    assert ids[0] != ids[1]
    assert sorted(ids[0]) == sorted(ids[1])


def test_an_answer_waits_for_another_writer_but_not_for_ever(results):
    with open_results(results) as db:
        question = pool(db, "explanation")[0]
    rating = annotate.make_rating("anna", question, 3, 0.5, NOW)
    held, free = threading.Event(), threading.Event()

    def hold():
        with open_results(results):
            held.set()
            free.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    with pytest.raises(ResultsError, match="another process is writing"):
        annotate.keep_rating(results, rating, patience_s=0.2)
    threading.Timer(0.3, free.set).start()
    started = time.monotonic()
    assert annotate.keep_rating(results, rating, patience_s=30)
    assert time.monotonic() - started < 20
    thread.join()
    assert not annotate.keep_rating(results, rating)
    missing = results.with_name("missing.db")
    with pytest.raises(ResultsError, match="no such results file"):
        annotate.keep_rating(missing, rating, patience_s=30)


def test_an_answer_given_elsewhere_meanwhile_stays(results, monkeypatch):
    def line():
        with open_results(results) as db:
            if not ratings.count_ratings(db, CACHE):
                answer(db, sitting(db))
                return "4\n"
        return ""

    monkeypatch.setattr(people, "_line", line)
    assert "answered elsewhere meanwhile" in run(results).output
    with read_results(results) as db:
        assert [each.answer for each in ratings.load_ratings(db, CACHE)] == [1]


# Answers


def test_a_rating_is_what_was_answered(db):
    question = pool(db, "detection")[0]
    rating = annotate.make_rating(" anna ", question, 0, 2.34567, NOW)
    assert rating.id == ratings.rating_id("anna", question)
    assert rating.rater == "anna"
    assert (rating.answer, rating.seconds) == (0, 2.346)
    assert rating.answered_utc == "2026-01-02T03:04:05.678+00:00"
    ratings.store_rating(db, rating)
    assert ratings.load_ratings(db, CACHE) == [rating]


@pytest.mark.parametrize(
    ("task", "good", "bad"),
    [
        ("explanation", (1, 2, 3, 4), (0, 5)),
        ("detection", (0, 1), (2, -1)),
        ("fuzzing", (0, 1), (2, -1)),
        ("intruder", (1, 2, 3, 4, 5), (0, 6)),
    ],
)
def test_only_what_can_be_answered_is_an_answer(db, task, good, bad):
    question = pool(db, task)[0]
    record = annotate.question_record(db, cache_of(db), question)
    assert {value for value, _ in record["answers"]} == set(good)
    for value in good:
        assert annotate.checked_answer(question, value) == value
    for value in (*bad, True, 1.0, "1", None, [1], "\x1b[2J" * 100):
        with pytest.raises(UsageError, match="not an answer: ") as caught:
            annotate.make_rating("anna", question, value, 1.0, NOW)
        assert len(str(caught.value)) < 100
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="not a time"):
            annotate.make_rating("anna", question, good[0], seconds, NOW)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x1bb", "a\u202eb", "\ud800", "x" * 41, None])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(UsageError, match="rater") as caught:
        annotate.checked_rater(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["x" * 40, "Zoë", "anna b", "安娜"])
def test_other_names_are_taken(name):
    assert annotate.checked_rater(f" {name}\n") == name


# Hostile content


def hostile(path):
    """One latent whose explanation and windows hold all that is not to be trusted."""
    tiny_report.make_results(path, 1, [EVIL], (*TOKENS[:-2], EVIL, " half"))
    with open_results(path) as db:
        db.execute(r"""update windows set tokens = replace(tokens, ' half', '\ud83d')""")
        long = json.dumps(" y" * 2**19)[1:-1]
        db.execute("update windows set tokens = replace(tokens, ' year', ?)", [long])
    return path


@pytest.mark.parametrize("task", TASKS)
def test_hostile_texts_are_shown_as_text(tmp_path, task):
    path = hostile(tmp_path / "evil.db")
    with read_results(path) as db:
        for question in pool(db, task):
            record = annotate.question_record(db, cache_of(db), question)
            assert len(json.dumps(record, ensure_ascii=False).encode()) < 20_000
            assert all(each.isprintable() for each in strings(record))
            assert "\ufffd" in record["windows"][0]["tokens"]
    done = run(path, "--task", task, typed="1\n" * 60)
    assert done.exit_code == 0
    assert not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066]", done.output
    )
    assert "[red]" in done.output  # no markup either
    assert max(map(cell_len, done.output.splitlines())) <= 80
    assert len(done.output) < 200_000


def test_a_text_that_is_no_utf_8_is_shown_broken(results):
    with open_results(results) as db:
        db.execute("update explanations set text = cast(x'61ff62' as text) where text is not null")
    assert "explanation: a\ufffdb" in run(results, typed="q\n").output


# The page in a terminal


def shown(record, **settings):
    file = io.StringIO()
    console = Console(file=file, width=80, highlight=False, markup=False, **settings)
    console.print(question_page(record, "12 of 240", console))
    return file.getvalue()


COLOURED = {"force_terminal": True, "color_system": "truecolor", "no_color": False}


@pytest.mark.parametrize("task", TASKS)
def test_marks_and_strength_are_seen_with_and_without_colours(db, task):
    record = annotate.question_record(db, cache_of(db), pool(db, task)[0])
    record["windows"] = [{**each, "tokens": each["tokens"] * 5} for each in record["windows"]]
    record["explanation"] = record["explanation"] and "many words " * 20
    plain = shown(record)
    no_colour = shown(record, **{**COLOURED, "no_color": True})
    colours = shown(record, **COLOURED)
    bare = [re.sub(r"\x1b\[[0-9;]*m", "", text) for text in (no_colour, colours)]
    for text in (plain, *bare):
        assert "12 of 240" in text
        assert max(map(cell_len, text.splitlines())) <= 80
    assert bare[0] == plain
    assert "\x1b[38" not in no_colour
    n_marked = sum(len(each.get("marks", ())) > 0 for each in record["windows"])
    if task in ("fuzzing", "intruder"):
        assert plain.count("<<") == n_marked == len(record["windows"])
        assert "<<" not in bare[1]
        assert colours.count("\x1b[1;7m") == n_marked
    elif task == "explanation":
        assert "⁹" in plain
        assert "it is silent in" in plain
        assert len(re.findall(r"\x1b\[38;2;26;26;26;48;2;", colours)) == 11
        assert not re.search("[⁰¹²³⁴⁵⁶⁷⁸⁹]", bare[1])
    else:
        assert "<<" not in plain
        assert "\x1b[7" not in colours


def test_a_terminal_without_unicode_still_tells_the_strength(results):
    with read_results(results) as db:
        record = annotate.question_record(db, cache_of(db), pool(db, "explanation")[0])
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    console = Console(file=file, width=80)
    console.print(question_page(record, "1 of 2", console))
    file.flush()
    assert b"[9]" in file.buffer.getvalue()


# The command


def test_the_status_says_who_has_answered_how_much(results):
    assert "nobody has answered anything yet" in run(results, "--status", rater="").output
    run(results, typed="1\n2\nq\n")
    run(results, "--task", "detection", typed="1\n", rater="ben")
    done = run(results, "--status", rater="")
    words = [line.split() for line in done.output.splitlines()]
    assert words[1:] == [["anna", "explanation", "2"], ["ben", "detection", "1"]]
    rows = [json.loads(line) for line in run(results, "--status", "--json").output.splitlines()]
    assert rows[1] == {"rater": "ben", "task": "detection", "answers": 1}


@pytest.mark.parametrize(
    ("words", "rater", "message"),
    [
        ((), "", "no rater is named"),
        (("--task", "fuzz"), "anna", "no such task: fuzz"),
        (("--latents", "77"), "anna", "nothing to ask about these latents: 77"),
        (("--explainer", "lllm"), "anna", "no explanations by: lllm"),
        (("--latents", "x"), "anna", "not a list of latents"),
        (("--json",), "anna", "--json belongs to --status"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(results, words, rater, message):
    done = run(results, *words, rater=rater)
    assert done.exit_code == 2
    assert done.output.startswith(f"Error: {message}")
    assert "\nhint: " in done.output


def test_a_file_without_explanations_is_refused(tmp_path):
    path = tmp_path / "empty.db"
    with open_results(path, create=True) as db:
        add_cache(db)
        db.execute("update caches set n_counted = 1000")
    for task in TASKS:
        done = run(path, "--task", task)
        assert done.exit_code == 2
        assert done.output.startswith("Error: no explanations in this file\n\nhint: `lite-interp")
