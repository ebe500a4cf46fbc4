"""Pages for a terminal: they fit it, say what to believe, and are never run by it."""

import dataclasses
import io
import json
import math
import re
import sqlite3
import unicodedata

import numpy as np
import pytest
import tiny_results
import tiny_study
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from sqlite_utils import Database
from tiny_results import CACHE, make_examples, store_latent
from tiny_score_rows import (
    AREA,
    EVIL,
    all_rows,
    intervention_row,
    intruder_row,
    nothing_row,
    score_row,
    simulation_row,
)

from lite_interp import study
from lite_interp.db import caches, details, steerings, studies, trials
from lite_interp.db.file import add
from lite_interp.details import LatentDetails
from lite_interp.list_page import latents_table
from lite_interp.overview import latent_rows, summary_lines
from lite_interp.pipeline import ExplainJob, cache_corpus, explain_latents
from lite_interp.records import Passage, Steering, Window
from lite_interp.score_lines import score_lines, short
from lite_interp.view import info_table, latent_page, models_table, window_text


def printed(renderable, width=80, **options):
    """What a terminal of some width is sent."""
    console = Console(
        file=io.StringIO(),
        width=width,
        highlight=False,
        markup=False,
        legacy_windows=False,
        **options,
    )
    console.print(renderable)
    return console.file.getvalue()


def harmless(text: str) -> bool:
    return not any(
        unicodedata.category(character) in ("Cc", "Cf", "Cs") and character != "\n"
        for character in text
    )


def window(tokens, values):
    return Window("b2:w", 0, 0, 0, tuple(tokens), np.array(values, np.float32))


def plain_console(**options):
    return Console(file=io.StringIO(), **options)


def test_strength_is_a_digit_where_there_is_no_colour():
    shown = window([" a", " weak", " half", " most", "\n"], [0, 0.05, 0.5, 1.0, 0])
    assert window_text(shown, 1.0, plain_console()).plain == " a weak¹ half⁵ most⁹↵"
    assert window_text(shown, 10.0, plain_console()).plain == " a weak¹ half¹ most¹↵"
    no_colour = plain_console(force_terminal=True, no_color=True, color_system="truecolor")
    assert window_text(shown, 1.0, no_colour).plain == " a weak¹ half⁵ most⁹↵"


def test_strength_is_a_background_where_there_is_colour():
    shown = window([" a", " weak", " most"], [0, 0.05, 1.0])
    console = plain_console(force_terminal=True, color_system="truecolor")
    text = window_text(shown, 1.0, console)
    assert text.plain == " a weak most"
    marked = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert {word: style.split(" on ")[1] for word, style in marked.items() if style} | {} == {
        "weak": "#fdf3d8",
        "most": "#e0731a",
    }


@given(st.lists(st.text(st.characters()), min_size=1, max_size=5), st.booleans())
def test_no_token_can_move_the_cursor(tokens, coloured):
    console = plain_console(force_terminal=coloured, color_system="truecolor" if coloured else None)
    text = window_text(window(tokens, [1.0] * len(tokens)), 1.0, console)
    assert harmless(text.plain)
    assert "\n" not in text.plain


# One score


def lines_of(row):
    return score_lines(row, row["scorer"])


def test_an_area_is_told_with_its_null_and_what_follows():
    assert lines_of(score_row()) == [
        "detection (raw) AUROC 0.83 [0.72, 0.91], null 0.51, difference +0.32 [+0.20, +0.44], "
        "q 0.003 (40 + 38 windows, 2 failed)",
        "  by decile .9 .8 .8 .8 .7 .7 .6 .6 .5 .5; random .84; near .60",
        "  balanced accuracy 0.74; at the base rate of 0.31%: F1 0.12, average precision 0.20",
        "  Brier 0.21, ECE 0.08, calibrated on 320 verdicts of other latents",
    ]


def test_what_is_not_known_of_an_area_is_left_out():
    none = {"null_value": None, "difference": None, "difference_low": None, "q_value": None}
    assert lines_of(score_row(metrics={}, **none)) == [
        "detection (raw) AUROC 0.83 [0.72, 0.91] (40 + 38 windows, 2 failed)"
    ]
    strata = {"decile_1": {"n": 1, "auroc": 1.0}, "decile_1_wrong": {"n": 1, "auroc": 0.5}}
    fuzzing = lines_of(score_row(metrics={"strata": strata, "balanced_accuracy": [0.5, 0.4, 0.6]}))
    assert fuzzing[1:] == [
        "  by decile – 1.0 – – – – – – – –; wrong marks by decile – .5 – – – – – – – –",
        "  balanced accuracy 0.50",
    ]
    sure = lines_of(score_row(metrics={"n_items": 80, "share_saved": 0.6}))
    assert sure[1:] == ["  stopped when it was sure: 60% of the items saved"]
    # The threshold is calibrated, but no window got a yes.
    odd = {**AREA, "f1": [None, None, None], "average_precision": [None, None, None]}
    assert lines_of(score_row(metrics=odd))[2].endswith("F1 –, average precision –")


def test_other_statistics_have_their_own_words():
    assert lines_of(simulation_row()) == [
        "simulation (raw) Pearson r 0.41 [0.20, 0.60], null 0.02, difference +0.32 "
        "[+0.20, +0.44], q 0.003 (78 windows, 2 failed)",
        "  by decile .7 – – – – – – – – –; random –",
        "  strongest decile and random windows: r 0.66; AUROC of windows by greatest simulated "
        "activation 0.81; 97% of the probability on digits",
    ]
    assert lines_of(intervention_row()) == [
        "intervention (raw) gain +0.52 ± 0.11 nats [+0.30, +0.74], null -0.04, difference +0.32 "
        "[+0.20, +0.44], q 0.003 (10 prompts, 2 failed)",
        "  KL 0.94 nats reached on the scored prompts, 1.01 on those for tuning, strength 12.3",
    ]
    each = lines_of(intervention_row(variant="per_token", value=0.05))[0]
    assert each.startswith("intervention (per_token) gain +0.05 ± 0.11 nats a token [")
    assert lines_of(intruder_row()) == [
        "intruder (raw) share of intruders found 0.60 [0.45, 0.75], chance 0.20, difference "
        "+0.40 [+0.25, +0.55], q 0.003 (20 questions, 2 failed)",
        "  by decile 1.0 – – .5 – – – – – –",
    ]


def test_where_there_is_no_number_there_is_a_reason():
    assert lines_of(nothing_row()) == [
        "detection (raw) no AUROC: too few windows (0 + 3 windows, 2 failed)"
    ]
    failed = nothing_row(scorer="intervention", statistic="nats", reason="not_reached")
    assert lines_of(failed) == ["intervention (raw) no gain: not_reached (3 prompts, 2 failed)"]


@pytest.mark.parametrize("bad", [EVIL, [EVIL], {}, [], True, None, 1e999, [[1]]])
def test_a_metric_that_is_no_number_is_a_dash(bad):
    strata = {EVIL: {"auroc": bad, "pearson": bad, "share": bad}, "x": bad}
    metrics = {**dict.fromkeys([*AREA, "share_saved", "sem", "kl_scored", "mass"], bad)}
    for statistic in ("auroc", "pearson", "nats", "accuracy", EVIL):
        for odd in (metrics, {**metrics, "strata": strata}):
            lines = lines_of(score_row(statistic=statistic, metrics=odd, variant=EVIL))
            assert all(harmless(line) for line in lines)
            assert not any("nan" in line for line in lines)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.8349, ".83"), (0.994, ".99"), (0.996, "1.0"), (1.0, "1.0"), (0, ".00"), (-0.06, "-.06"),
        (9.94, "9.9"), (9.96, "10"), (-123.4, "-123"), (None, "–"), (math.nan, "–"), ("x", "–"),
    ],
)  # fmt: skip
def test_numbers_are_written_short(value, written):
    assert short(value) == written


# One latent

DETAILS = LatentDetails(
    1, tuple(0.1 * k for k in range(11)), (("year", 0.6), ("\x1b[2J", 0.2)), 0.6, 0.2,
    ("rare",), (("promoted", 3.1),), (("suppressed", -2.0),), ((2, 0.7),), ((3, 0.4),),
)  # fmt: skip


@pytest.fixture
def db():
    """Latent 1 with everything that a file can know about a latent."""
    db = tiny_results.memory()
    db.execute("pragma foreign_keys = off")
    for latent in (1, 2):
        add(db, "latents", {
            "cache_id": CACHE, "latent": latent, "n_firings": 10, "n_contexts": 5, "density": 0.01,
            "max_value": 3.0, "mean_value": 1.0, "histogram": [1] * 20,
        })  # fmt: skip
    return db


def add_scores(db, examples, explanation, *scores):
    known = {column.name for column in db["scores"].columns}
    own = {"example_set_id": examples.id}
    for score in scores:
        judged = score["explanation_id"] and explanation.id
        columns = {
            **score,
            **own,
            "explanation_id": judged,
            "metrics": json.dumps(score["metrics"]),
        }
        columns = {name: value for name, value in columns.items() if name in known}
        marks = ", ".join(f":{name}" for name in columns)
        db.execute(f"insert into scores ({', '.join(columns)}) values ({marks})", columns)


def steering(examples, name="b2:steering", **changed):
    """What the subject wrote behind the prompts of an example set."""
    settings = {"kl": 1.0, "ablate": False, "direction": "decoder"}
    passages = tuple(
        Passage(placed.window.id, f"prompt {number}", ("clean a", "clean b"), ("warm a", "warm b"))
        for number, placed in enumerate(examples.scored)
    )
    promoted = {"tokens": [[" year", 0.25]], "lens_steered": 0.12, "lens_clean": 0.03}
    found = Steering(name, examples.id, settings, 12.34, 1.01, 0.94, promoted, None, passages)
    return dataclasses.replace(found, **changed)


def page(db, latent=1, width=100):
    (cache,) = caches.load_caches(db)
    console = Console(file=io.StringIO(), width=width)
    return printed(latent_page(db, cache, latent, 10, console), width)


def test_a_page_has_details_scores_and_continuations(db):
    examples = make_examples(1, (3.0, 2.0, 2.0, 2.0, 2.0, 0.0))
    explained = store_latent(db, examples)
    details.store_details(db, CACHE, [DETAILS])
    add_scores(db, examples, explained, *all_rows(1))
    steerings.store_steering(db, steering(examples), 1.0)
    out = page(db)
    assert re.search("^flags +rare", out, re.MULTILINE)
    assert re.search(r'^promotes +"promoted" \+3.10', out, re.MULTILINE)
    assert "\x1b" not in out
    lines = out.splitlines()
    place = lines.index("judged without an explanation")
    assert lines[place + 1].startswith("  intruder (raw) share of intruders found 0.60")
    assert "  simulation (raw) Pearson r 0.41 [0.20, 0.60]" in out
    assert "    by decile .9 .8" in out
    assert (
        "what the subject writes with the latent added along the decoder direction, KL 1.0 wanted, "
        "0.94" in " ".join(out.split())
    )
    assert 'makes likelier: " year" +0.25' in out
    assert "tokens that the latent promotes: 12% of what it writes, 3% without steering" in out
    shown = [line.split("  ") for line in lines if "warm" in line]
    words = [[word.strip() for word in line if word.strip()] for line in shown]
    # Three of five prompts, two continuations of each.
    # In the order of the windows' ids.
    assert words[0][0].startswith("prompt ")
    assert [words[0][1:], words[1]] == [["clean a", "warm a"], ["clean b", "warm b"]]
    assert len(words) == 6


def test_steerings_that_failed_say_why_and_each_way_is_shown(db):
    examples = make_examples(1, (3.0, 2.0, 0.0))
    store_latent(db, examples)
    failed = steering(examples, failure="not_reached", strength=None, passages=(), promoted={})
    ablated = steering(
        examples, "b2:ablated", settings={"kl": 1.0, "ablate": True}, strength=None, promoted={}
    )
    for each in (failed, ablated):
        steerings.store_steering(db, each, 1.0)
    out = " ".join(page(db).split())
    assert "the decoder direction, KL 1.0 wanted: nothing, not_reached" in out
    assert "with the latent ablated, 0.94 nats reached" in out


def test_a_page_shows_the_scores_of_its_own_latent_only(db):
    first, second = make_examples(1), make_examples(2)
    add_scores(db, first, store_latent(db, first), score_row(1), nothing_row(1, "fuzzing"))
    add_scores(db, second, store_latent(db, second), score_row(2, "embedding"), intruder_row(2))
    out = page(db)
    assert "detection (raw) AUROC 0.83" in out
    assert "fuzzing (raw) no AUROC: too few windows" in out
    assert "embedding" not in out
    assert "intruder" not in out
    assert "judged without an explanation" not in out


def test_ways_have_the_names_that_the_list_gives_them(db):
    examples = make_examples(1)
    ways = [intervention_row(1, settings=json.dumps({"kl": kl})) for kl in (0.1, 1.0)]
    add_scores(db, examples, store_latent(db, examples), *ways)
    out = page(db)
    assert "  intervention (raw)" in out
    assert "  intervention@kl=1 (raw)" in out


# A file in which everything is hostile


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A file in which every text is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    parts = tiny_study.write_parts(folder)
    path = folder / "results.db"
    cache_corpus(path, tiny_study.cache_job(parts), tiny_study.Told())
    explain_latents(
        path,
        "",
        ExplainJob(
            0,
            study.LatentsSection(indices=(0, 3)),
            study.ExamplesSection(width=8, n_shown=4, n_active=6, n_silent=6),
            study.EngineSection(),
            study.ExplainSection(explainers=("token_list",)),
        ),
        tiny_study.Told(),
    )
    with sqlite3.connect(path) as db:
        evil = (EVIL,)
        db.execute("update explanations set text = ?, explainer = ? where latent = 0", evil * 2)
        db.execute("update explanations set text = null, failure = ? where latent = 3", evil)
        db.execute("update runs set command = ?, outcome = ?, started_utc = ?", evil * 3)
        db.execute("update coders set name = ?, hookpoint = ?", evil * 2)
        db.execute("update corpora set name = ?", evil)
        db.execute("update subjects set provenance = json_object('path', ?)", evil)
        for name, tokens in db.execute("select id, tokens from windows").fetchall():
            tokens = json.dumps([EVIL] * len(json.loads(tokens)))
            db.execute("update windows set tokens = ? where id = ?", [tokens, name])
    db.close()
    return path


@pytest.fixture
def filled(hostile):
    """The same with scores, details and steerings, in memory."""
    db = Database(sqlite3.connect(":memory:", isolation_level=None))
    with sqlite3.connect(hostile) as file:
        file.backup(db.conn)
    file.close()
    (cache,) = caches.load_caches(db)
    for explanation in studies.load_explanations(db, cache.id):
        examples = studies.load_example_set(db, explanation.example_set_id)
        evil = {"variant": "raw", "reason": EVIL, "settings": json.dumps({EVIL: EVIL})}
        strata = {"strata": {EVIL: {"auroc": 0.5}}}
        add_scores(
            db,
            examples,
            explanation,
            *all_rows(),
            score_row(scorer=EVIL, statistic=EVIL),
            score_row(scorer=EVIL, variant=EVIL),
            nothing_row(**evil),
            intruder_row(settings=json.dumps({EVIL: EVIL}), metrics=strata),
        )
        texts = tuple((EVIL, 0.5) for _ in range(10))
        named = {"top_tokens": texts, "promoted": texts, "suppressed": texts, "flags": (EVIL,)}
        known = dataclasses.replace(DETAILS, latent=explanation.latent, **named)
        details.store_details(db, cache.id, [known])
        passages = tuple(
            Passage(placed.window.id, EVIL * 5, (EVIL, EVIL * 9), (EVIL, "年" * 90))
            for placed in examples.scored
        )
        promoted = {"tokens": [[EVIL, 0.1], EVIL, [1]], "lens_steered": EVIL, "lens_clean": 0.1}
        for number, failure in enumerate((None, EVIL)):
            changed = {"passages": passages, "promoted": promoted, "failure": failure}
            settings = {"direction": EVIL, "kl": EVIL}
            name = f"b2:{number}{explanation.latent}"
            each = steering(examples, name, settings=settings, **changed)
            steerings.store_steering(db, each, 1.0)
    return db


@pytest.mark.parametrize("width", [80, 120])
def test_a_hostile_file_sends_nothing_but_text(filled, width):
    console = Console(file=io.StringIO(), width=width)
    (cache,) = caches.load_caches(filled)
    pages = [latent_page(filled, cache, latent, 10, console) for latent in (0, 3)]
    pages += [info_table(filled), latents_table(latent_rows(filled, cache, "raw"), width)]
    texts = [printed(page, width) for page in pages]
    texts += summary_lines(trials.load_scores(filled, cache.id))
    for text in texts:
        assert harmless(text)
    for text in texts[:4]:
        assert max(map(cell_len, text.splitlines())) <= width
    assert "[bold red]b[/]" in texts[0]
    assert "[link=file:///x]y" in texts[2].replace("\n", "")


def test_rows_for_machines_hold_no_control_characters_either(filled):
    """`list --csv` writes them as they are."""
    rows = latent_rows(filled, caches.load_caches(filled)[0], "raw")
    assert len(rows) == 2
    for found in rows:
        for value in (*found, *(value for value in found.values() if isinstance(value, str))):
            assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in value)


def test_models_are_listed():
    rows = [
        {"name": "m", "roles": ["engine"], "licence": "MIT", "bytes": 2e6, "installed": ""},
        {"name": "n", "roles": ["a", "b"], "licence": "MIT", "bytes": 1, "installed": EVIL},
    ]
    out = printed(models_table(rows, EVIL))
    assert harmless(out)
    assert out.splitlines()[1].split() == ["m", "engine", "MIT", "2", "no"]
