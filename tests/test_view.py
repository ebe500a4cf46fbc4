"""Pages for a terminal: they fit it, say what to believe, and are never run by it."""

import io
import json
import math
import sqlite3
import unicodedata

import numpy as np
import pytest
import tiny_study
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from lite_interp import study
from lite_interp.analysis import Summary
from lite_interp.db import caches
from lite_interp.db.file import read_results
from lite_interp.pipeline import ExplainJob, cache_corpus, explain_latents
from lite_interp.records import Estimate, Window
from lite_interp.view import (
    info_table,
    latent_page,
    latent_rows,
    latents_table,
    models_table,
    summary_lines,
    window_text,
)

EVIL = "\x1b]0;title\x07\x1b[2J[bold red]b[/] \x9b31m\u202eevil\r\n\x08\ufeff[link=file:///x]y"


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


def row(**changed):
    values = {
        "latent": 131071,
        "density": 0.123456,
        "explainer": "token_list",
        "explanation": "names of years and of other dates, often in parentheses after a name",
        "failure": None,
        "detection": 0.8349,
        "detection_low": 0.51,
        "detection_high": 1.0,
        "detection_null": 0.5,
        "embedding": 0.06,
        "tokens": 123456,
        "seconds": 1234.5,
    }
    return {**values, **changed}


ROWS = {
    "long words": row(explanation="x" * 399),
    "wide letters": row(explanation="年" * 200),
    "no scores": row(detection=None, detection_low=None, detection_high=None, embedding=None),
    "a failure": row(explanation=None, failure="engine: " + "code -3 " * 30),
    "evil": row(explanation=EVIL * 4, explainer=EVIL),
    "other explainer": row(explainer="llm"),
}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ROWS)
def test_the_table_fits_the_terminal(name, width):
    out = printed(latents_table([ROWS[name], row(explainer="llm")]), width)
    assert max(map(cell_len, out.splitlines())) <= width
    assert harmless(out)
    assert "131071" in out
    assert "123.5k" in out


def test_areas_are_written_short():
    out = printed(latents_table([row()]), 120)
    assert ".83 .51–1.0" in out
    assert "12.35%" in out
    assert ".06" in out
    none = row(detection=None, embedding=math.nan)
    assert printed(latents_table([none]), 120).count("–") == 2
    assert "(none: empty)" in printed(latents_table([row(explanation=None, failure="empty")]), 120)


def test_markup_in_a_text_is_text():
    out = printed(
        latents_table([row(explanation="[bold]a[/bold] [red]b")]), 120, force_terminal=True
    )
    assert "[bold]a[/bold] [red]b" in out


def test_explainers_are_named_only_where_there_are_several():
    assert "token_list" not in printed(latents_table([row()]), 120)
    assert "token_list" in printed(latents_table([row(), row(explainer="llm")]), 120)


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


def summary(value, null, low, high, explainer="llm", n_latents=8):
    return Summary(
        explainer,
        "detection",
        "raw",
        n_latents,
        Estimate(value, value - 0.1, value + 0.1),
        Estimate(null, null - 0.1, null + 0.1),
        Estimate(value - null, low, high),
    )


def test_a_summary_says_when_nothing_is_told_apart_from_the_null():
    (good,) = summary_lines([summary(0.8, 0.5, 0.2, 0.4)])
    assert good == (
        "llm, detection (raw): mean AUROC 0.800 over 8 latents, null 0.500, "
        "difference +0.300 [+0.200, +0.400]"
    )
    for low, high in ((-0.1, 0.3), (0.0, 0.2), (-0.3, -0.1)):
        (bad,) = summary_lines([summary(0.6, 0.5, low, high)])
        assert bad.endswith(": not told apart from its null, so it says nothing")


def test_a_summary_of_one_latent_has_no_interval_and_says_so():
    (line,) = summary_lines([summary(0.8, 0.5, math.nan, math.nan, n_latents=1)])
    assert "nan" not in line
    assert line == (
        "llm, detection (raw): mean AUROC 0.800 over 1 latent, null 0.500, difference +0.300 "
        "(one latent: no interval)"
    )


def test_a_summary_without_null_claims_nothing():
    (line,) = summary_lines([summary(0.8, math.nan, math.nan, math.nan)])
    assert line == "llm, detection (raw): mean AUROC 0.800 over 8 latents"
    (line,) = summary_lines([summary(0.8, math.nan, math.nan, math.nan, explainer=EVIL)])
    assert harmless(line)


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
        db.execute(
            """insert into scores select id, ?, '{}', 'b2:x', ?, 'auroc', 0.5, 0.4, 0.6, null,
               null, null, null, 3, 3, 0, 0 from explanations""",
            evil * 2,
        )
    db.close()
    return path


@pytest.mark.parametrize("width", [80, 120])
def test_a_hostile_file_sends_nothing_but_text(hostile, width):
    console = Console(file=io.StringIO(), width=width)
    with read_results(hostile) as db:
        (cache,) = caches.load_caches(db)
        pages = [latent_page(db, cache, latent, 10, console) for latent in (0, 3)]
        pages += [info_table(db), latents_table(latent_rows(db, cache, "raw"))]
        texts = [printed(page, width) for page in pages]
    for text in texts:
        assert harmless(text)
        assert max(map(cell_len, text.splitlines())) <= width
    assert "[bold red]b[/]" in texts[0]
    assert "[link=file:///x]y" in texts[2].replace("\n", "")


def test_rows_for_machines_hold_no_control_characters_either(hostile):
    """`list --csv` writes them as they are."""
    with read_results(hostile) as db:
        rows = latent_rows(db, caches.load_caches(db)[0], "raw")
    for found in rows:
        for value in (found["explanation"], found["failure"], found["explainer"], *found):
            assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in value or "")


def test_models_are_listed():
    rows = [
        {"name": "m", "roles": ["engine"], "licence": "MIT", "bytes": 2e6, "installed": ""},
        {"name": "n", "roles": ["a", "b"], "licence": "MIT", "bytes": 1, "installed": EVIL},
    ]
    out = printed(models_table(rows))
    assert harmless(out)
    assert out.splitlines()[1].split() == ["m", "engine", "MIT", "2", "no"]
