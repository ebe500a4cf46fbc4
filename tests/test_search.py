"""Words and meaning over explanations and windows: what is found, in which order, how it stays
fresh, and that no text can break it."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
import tiny_results
import tiny_study
from rich.cells import cell_len
from rich.console import Console
from tiny_results import CACHE, USAGE, make_explanation
from typer.testing import CliRunner

from lite_interp import search, tools
from lite_interp.cli import app
from lite_interp.cli.options import parse_indices
from lite_interp.db import caches, search_index, studies
from lite_interp.db import search as db_search
from lite_interp.db.file import add, open_results
from lite_interp.errors import EmbedderError, ResultsError, UsageError
from lite_interp.ids import content_id
from lite_interp.migrations.search_index import INDEX_TABLES
from lite_interp.records import ExampleSet, Place, Placed
from lite_interp.search import finding, index
from lite_interp.windows import make_window

HOSTILE = [
    '"',
    '""',
    "a\"b'c",
    "rain OR snow",
    "NEAR(rain snow, 2)",
    "text: rain",
    "{text} : rain",
    "rain AND",
    "NOT rain",
    "^rain",
    "rain + snow",
    "-rain",
    "((rain",
    "rain)*",
    "*rain",
    "rain**",
    "rain\x00snow",
    "\x1b[31mrain\x1b[0m",
    "rain\ud800snow",
    "\u202erain",
    "'; drop table windows; --",
    "%s %d {0} $rain",
    "<script>rain</script>",
    "日本 rain",
    "re\u0301sume\u0301 r",
]


@pytest.fixture(autouse=True)
def surroundings(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(tools, "find_embedder", lambda name: tiny_study.BagOfWords())
    for name in ("FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result.stdout, result.stderr


def ids(*arguments):
    return [int(line) for line in call("search", *arguments, "--ids")[0].split()]


def examples(latent, windows, cache=CACHE):
    """An example set of windows (tokens, activations)."""
    placed = [
        Placed(
            make_window(cache, latent, Place(number, 0, len(tokens)), tokens, values),
            "decile_0" if max(values) else "random",
            1.0,
        )
        for number, (tokens, values) in enumerate(
            (tokens, np.array(values, np.float32)) for tokens, values in windows
        )
    ]
    name = content_id(["set", cache, latent, len(windows)])
    return ExampleSet(name, latent, "quantiles", {}, 0, (), tuple(placed))


def explain(db, latent, text, windows=(), name="x", cache=CACHE):
    """A latent with an explanation and the windows that are stored of it."""
    found = examples(latent, windows, cache)
    studies.store_example_set(db, cache, found)
    changes = {} if text is not None else {"failure": "empty"}
    said = make_explanation(found, name, text=text, **changes)
    studies.store_explanations(db, cache, [(said, USAGE)])
    stats = {"n_firings": 1, "n_contexts": 1, "density": 0.01, "mean_value": 1.0}
    row = {"cache_id": cache, "latent": latent, **stats, "max_value": 4.0, "histogram": [1]}
    add(db, "latents", row)
    return said


RAIN = (" the", " rain", " in", " Spain")
ON_RAIN, ON_SPAIN, SILENT = [0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 4.0], [0.0] * 4
SNOW = (" white", " sn", "ow", " fell")


def fill(db):
    """Latents 0 rain (said and fired on), 1 Spain, 2 snow, 3 silent on rain; 4 of no words."""
    db.execute("update caches set n_counted = 100")
    explain(db, 0, "words for raining", [(RAIN, ON_RAIN)])
    explain(db, 1, "Spain, Italy and other countries", [(RAIN, ON_SPAIN)])
    explain(db, 2, "weather: snow, rain and storms", [(SNOW, [0.0, 2.0, 2.0, 0.0])])
    explain(db, 3, "verbs", [(RAIN, SILENT)])
    explain(db, 4, None)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "results.db"
    with open_results(path, create=True) as db:
        tiny_results.add_cache(db)
        fill(db)
    return path


def mark(path, source):
    with sqlite3.connect(path) as db:
        row = db.execute("select last_row from search_marks where source = ?", [source]).fetchone()
    db.close()
    return row and row[0]


# What is found


def test_words_are_found_with_any_ending_in_any_order(path):
    assert set(ids(path, "rain", "--in", "explanations")) == {0, 2}
    assert ids(path, "rains snowed", "--in", "explanations") == [2]
    assert ids(path, "storm weather", "--in", "explanations") == [2]
    assert ids(path, "RAIN weather", "--in", "explanations") == [2]
    assert ids(path, "rain Italy", "--in", "explanations") == []


def test_a_star_at_the_end_of_a_word_stands_for_any_ending(path):
    assert ids(path, "Spai*", "--in", "explanations") == [1]
    assert ids(path, "wea* sno*", "--in", "explanations") == [2]
    assert ids(path, "Spai", "--in", "explanations") == []


def test_a_window_counts_for_the_latent_that_fires_in_it(path):
    """Latents 0 and 1 fire in it, 0 on the word itself; 3 is silent there."""
    assert ids(path, "rain", "--in", "windows") == [0, 1]
    assert ids(path, "spain", "--in", "windows") == [1, 0]
    rows = [json.loads(line) for line in call("search", path, "rain", "--json")[0].splitlines()]
    assert [(row["latent"], row["fires_on_words"]) for row in rows] == [
        (0, True), (1, False), (2, False),
    ]  # fmt: skip
    assert rows[0]["window"] == " the rain in Spain"
    assert rows[0]["window_hits"] == [[5, 9]]


def test_a_word_that_is_cut_into_tokens_is_found_whole(path):
    assert ids(path, "snow", "--in", "windows") == [2]
    assert ids(path, "sn", "--in", "windows") == []


def test_rows_say_where_the_words_stand_and_what_the_latent_is(path):
    (row,) = [json.loads(line) for line in call("search", path, "storms", "--json")[0].splitlines()]
    assert row["explanation"] == "weather: snow, rain and storms"
    assert [row["explanation"][a:b] for a, b in row["explanation_hits"]] == ["storms"]
    assert (row["explainer"], row["density"], row["found_by"]) == ("llm", 0.01, ["words"])
    assert row["fused"] == pytest.approx(1 / 61)


def test_scores_stand_beside_the_explanation_that_has_them(path):
    with open_results(path) as db:
        said = explain(db, 5, "hail")
        row = {
            "example_set_id": said.example_set_id, "explanation_id": said.id, "value": 0.75,
            "low": 0.5, "high": 0.9, "null_value": 0.5, "statistic": "auroc", "model_id": "b2:e",
            "n_active": 2, "n_silent": 2, "n_failed": 0, "n_controls": 0, "metrics": "{}",
            "tokens": 0, "seconds": 0.0, "settings": "{}",
        }  # fmt: skip
        for scorer, variant, value in (
            ("embedding", "raw", 0.1), ("detection", "raw", 0.75), ("detection", "relative", 0.8),
        ):  # fmt: skip
            plain = {**row, "scorer": scorer, "variant": variant, "value": value}
            names = ", ".join(plain)
            marks = ", ".join(f":{name}" for name in plain)
            db.execute(f"insert into scores ({names}) values ({marks})", plain)
    (found,) = [json.loads(line) for line in call("search", path, "hail", "--json")[0].splitlines()]
    assert (found["detection"], found["detection_low"], found["embedding"]) == (0.75, 0.5, 0.1)
    out, _ = call("search", path, "hail")
    assert out.split()[:4] == ["latent", "det", "density", "explanation"]
    assert ".75" in out


def test_of_several_explanations_the_one_with_the_words_is_shown(path):
    with open_results(path) as db:
        explain(db, 1, "matadors", name="y")
    (row,) = [
        json.loads(line) for line in call("search", path, "matador", "--json")[0].splitlines()
    ]
    assert (row["latent"], row["explanation"]) == (1, "matadors")
    (row,) = [json.loads(line) for line in call("search", path, "italy", "--json")[0].splitlines()]
    assert row["explanation"].startswith("Spain")


def test_only_one_cache_is_searched(path):
    with open_results(path) as db:
        tiny_results.add_cache(db, "b2:other")
        db.execute("update caches set n_counted = 100")
        explain(db, 0, "rain elsewhere", [(RAIN, ON_RAIN)], name="o", cache="b2:other")
    assert set(ids(path, "rain", "--cache", "cache")) == {0, 1, 2}
    assert ids(path, "rain", "--cache", "other") == [0]
    (row,) = call("search", path, "rain", "--cache", "other", "--json")[0].splitlines()
    assert json.loads(row)["n_windows"] == 1
    _, err = call("search", path, "rain", code=2)
    assert "several caches fit" in err


def test_a_limit_cuts_the_list_and_0_is_none(path):
    assert len(ids(path, "rain", "--limit", "2")) == 2
    assert len(ids(path, "rain", "--limit", "0")) == 3


# Together


def test_ranks_are_fused_as_in_the_paper(path):
    """Words: BM25 prefers the shorter, 0 then 2. Windows: 0, 1. So 0: 2/61, 2: 1/62, 1: 1/62."""
    rows = [json.loads(line) for line in call("search", path, "rain", "--json")[0].splitlines()]
    assert {row["latent"]: row["fused"] for row in rows} == pytest.approx(
        {0: 2 / 61, 1: 1 / 62, 2: 1 / 62}
    )
    assert [row["latent"] for row in rows] == [0, 1, 2], "equal ones by index"


def test_meaning_finds_what_lies_nearest_and_says_how_near(path):
    out, err = call("search", path, "countries and other things", "--meaning", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows[0]["latent"] == 1
    assert rows[0]["found_by"] == ["meaning"]
    model = tiny_study.BagOfWords()
    with open_results(path) as db:
        texts = {
            row[0]: row[1]
            for row in db.execute("select latent, text from explanations where text is not null")
        }
    query = model.embed(["countries and other things"])[0]
    slow = {latent: float(model.embed([text])[0] @ query) for latent, text in texts.items()}
    assert {row["latent"]: row["cosine"] for row in rows} == pytest.approx(slow, abs=1e-6)
    assert "embedding explanations: 1 in" in err
    _, err = call("search", path, "countries", "--meaning", "--json")
    assert err == "", "they are embedded once"


def test_only_new_explanations_are_embedded(path, monkeypatch):
    call("search", path, "rain", "--meaning")
    seen = []
    real = tiny_study.BagOfWords.embed
    monkeypatch.setattr(
        tiny_study.BagOfWords, "embed", lambda self, texts: seen.append(texts) or real(self, texts)
    )
    with open_results(path) as db:
        explain(db, 5, "hail")
    assert ids(path, "hail", "--meaning")[0] == 5
    assert seen == [["hail"], ["hail"]], "the explanation, then the query"


def test_vectors_are_float32_in_blocks_and_all_are_compared(path, monkeypatch):
    monkeypatch.setattr(search_index, "BLOCK_VECTORS", 2)
    first = cosines(path)
    with sqlite3.connect(path) as db:
        rows = db.execute("select block, explanation_ids, vectors from search_vectors").fetchall()
    db.close()
    assert [(block, len(json.loads(names))) for block, names, _ in rows] == [(0, 2), (1, 2)]
    assert all(len(blob) == 2 * 8192 * 4 for _, _, blob in rows)
    monkeypatch.setattr(search_index, "BLOCK_VECTORS", 1024)
    with open_results(path) as db:
        search_index.empty(db)
    assert cosines(path) == pytest.approx(first, abs=1e-6)


def cosines(path):
    rows = call("search", path, "rain", "--meaning", "--json")[0].splitlines()
    return {row["latent"]: row["cosine"] for row in map(json.loads, rows)}


def test_an_embedder_that_is_not_there_is_refused(path, monkeypatch):
    def missing(place):
        raise EmbedderError("no sentence-embedding model: x")

    monkeypatch.setattr(tools, "find_embedder", missing)
    _, err = call("search", path, "rain", "--meaning", code=1)
    assert err.startswith("Error: no sentence-embedding model: x")
    assert mark(path, "explanations") is None, "nothing was written"


# The index


def test_the_index_is_made_once_and_brought_up_to_date(path):
    _, err = call("search", path, "rain")
    assert "indexing explanations: 1 in" in err
    assert "indexing windows: 1 in" in err
    before = path.read_bytes()
    assert call("search", path, "rain")[1] == ""
    assert path.read_bytes() == before, "a fresh index is only read"
    with open_results(path) as db:
        explain(db, 6, "rainbow rain", [((" more", " rain"), [0.0, 4.0])])
    assert 6 in ids(path, "rain")
    assert (mark(path, "explanations"), mark(path, "windows")) == (6, 5)


def test_where_to_look_says_what_is_indexed(path):
    _, err = call("search", path, "rain", "--in", "explanations")
    assert "windows" not in err
    assert mark(path, "windows") is None


def test_each_text_is_indexed_once_whoever_fires_in_it(path):
    call("search", path, "rain")
    with sqlite3.connect(path) as db:
        assert db.execute("select count(*) from search_texts").fetchone()[0] == 2
        found = db.execute("select latent, share from search_places order by latent").fetchall()
        # The index holds no text.
        assert db.execute("select text from search_windows").fetchall() == [(None,), (None,)]
    db.close()
    assert found == [(0, 0.75), (1, 1.0), (2, 0.5)]


def test_the_index_is_the_same_in_small_steps(path, monkeypatch):
    monkeypatch.setattr(search_index, "ROWS_AT_ONCE", 1)
    _, err = call("search", path, "rain")
    assert "indexing windows: 4 in" in err
    assert ids(path, "rain") == [0, 1, 2]
    with sqlite3.connect(path) as db:
        assert db.execute("select count(*) from search_texts").fetchone()[0] == 2
    db.close()


def test_indexing_that_is_killed_goes_on(path, monkeypatch):
    monkeypatch.setattr(search_index, "ROWS_AT_ONCE", 1)
    with open_results(path) as db:
        filling = search_index.index_windows(db, db)
        next(filling)
        next(filling)
        filling.close()
    assert mark(path, "windows") == 2
    assert ids(path, "rain", "--in", "windows") == [0, 1]


def test_rows_that_were_renumbered_are_indexed_anew(path):
    ids(path, "rain")
    with open_results(path) as db:
        db.execute("pragma foreign_keys = off")
        db.execute("update explanations set rowid = rowid + 10")
        db.execute("update windows set rowid = rowid + 10")
    assert set(ids(path, "rain")) == {0, 1, 2}
    assert mark(path, "explanations") == 15
    assert set(ids(path, "Italy")) == {1}


def test_vacuum_leaves_a_file_that_is_searched_rightly(path):
    before = call("search", path, "rain", "--json")[0]
    with open_results(path) as db:
        db.execute("vacuum")
    assert call("search", path, "rain", "--json")[0] == before


def test_an_explanation_that_is_gone_is_not_found(path):
    ids(path, "rain")
    with open_results(path) as db:
        db.execute("delete from explanations where latent = 0")
    assert ids(path, "rain", "--in", "explanations") == [2]


def test_a_read_only_file_is_searched_through_an_index_in_memory(path, monkeypatch):
    real = os.access
    before = path.read_bytes()
    # Root may write everything, so the system is not asked.
    monkeypatch.setattr(os, "access", lambda at, mode: mode != os.W_OK and real(at, mode))
    out, err = call("search", path, "rain", "--ids")
    assert out.split() == ["0", "1", "2"]
    assert err.count("in memory, for this search alone: the file is read-only") == 1
    assert path.read_bytes() == before


def test_a_file_that_is_being_written_is_searched_through_an_index_in_memory(path):
    with open_results(path):
        out, err = call("search", path, "rain", "--meaning", "--ids")
    assert {"0", "1", "2"} <= set(out.split())
    assert err.count("in memory, for this search alone: another process is writing") == 1
    assert mark(path, "explanations") is None


def test_an_index_in_memory_finds_the_same(path):
    with open_results(path):
        unwritten = call("search", path, "rain", "--meaning", "--json")[0]
    assert call("search", path, "rain", "--meaning", "--json")[0] == unwritten


def test_a_file_without_explanations_is_searched_without_complaint(tmp_path):
    path = tmp_path / "new.db"
    with open_results(path, create=True) as db:
        tiny_results.add_cache(db)
        db.execute("update caches set n_counted = 1")
    out, err = call("search", path, "rain", "--meaning")
    assert (out, err) == ("", "nothing found\n")


def test_the_tables_of_the_index_begin_with_search_and_can_be_emptied(path):
    call("search", path, "rain", "--meaning")
    with open_results(path) as db:
        search_index.empty(db)
        for table in INDEX_TABLES:
            assert table.startswith("search_")
            if table not in ("search_explanations", "search_windows"):
                assert db.execute(f"select count(*) from {table}").fetchone()[0] == 0
        assert list(db_search.find_explanations(db, '"rain"')) == []
        assert db_search.find_latents(db, '"rain"', 1, 10) == []
        db.execute("insert into search_windows (search_windows) values ('integrity-check')")
    assert set(ids(path, "rain")) == {0, 1, 2}


def test_a_full_text_index_is_whole_after_many_small_updates(path):
    for latent in range(10, 20):
        with open_results(path) as db:
            explain(db, latent, f"kind {latent} of rain", [((" rain", f" {latent}"), [1.0, 0.0])])
        assert latent in ids(path, "rain", "--limit", "0")
    with open_results(path) as db:
        for table in ("search_explanations", "search_windows"):
            db.execute(f"insert into {table} ({table}) values ('integrity-check')")


def test_common_words_are_looked_up_in_some_of_their_texts_evenly(path, monkeypatch):
    monkeypatch.setattr(finding, "MOST_TEXTS", 2)
    with open_results(path) as db:
        for latent in range(10, 18):
            explain(db, latent, "x", [((" rain", f" {latent}"), [1.0, 0.0])])
    found = ids(path, "rain", "--in", "windows")
    # Nine texts: those whose number is a multiple of five.
    assert set(found) == {12, 17}


# The slow twin


def test_words_are_those_that_a_plain_search_finds(path):
    """Texts of few known words, so that porter and Unicode leave them as they are."""
    draw = np.random.default_rng(0)
    vocabulary = ["rain", "snow", "cat", "dog", "sun"]
    texts = {latent: " ".join(draw.choice(vocabulary, 3)) for latent in range(10, 60)}
    with open_results(path) as db:
        for latent, text in texts.items():
            tokens = tuple(f" {word}" for word in draw.choice(vocabulary, 3))
            texts[latent] = (text, tokens)
            explain(db, latent, text, [(tokens, [0.0, 1.0, 0.0])])
        cache = caches.the_cache(db)
    for query in ("rain", "cat dog", "sun sun snow"):
        words = set(query.split())
        said = {latent for latent, (text, _) in texts.items() if words <= set(text.split())}
        fired = {
            latent for latent, (_, tokens) in texts.items()
            if words <= {token.strip() for token in tokens}
        }  # fmt: skip
        tell = tiny_study.Told()
        with search.open_searched(path, search.PLACES["all"], None, tell) as searched:
            for place, expected in (("explanations", said), ("windows", fired)):
                hits = search.find(searched, cache, search.Request(query, place, None, 0))
                assert {hit.told.latent for hit in hits if hit.told.latent >= 10} == expected


# Hostile text


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_syntax(path, text):
    try:
        query = search.words_query(text)
    except UsageError as error:
        assert "no word to search for" in str(error)  # noqa: PT017
        return
    with search.open_searched(path, search.PLACES["all"], None, tiny_study.Told()) as searched:
        found = list(db_search.find_explanations(searched.index, query))
        db_search.find_latents(searched.index, query, 1, 10)
    words = text.split()
    if len(words) == 1 and words[0].isalpha():
        assert found


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_can_be_searched_for_in_the_terminal(path, text):
    if "\x00" in text or "\ud800" in text:
        return
    result = CliRunner().invoke(app, ["search", str(path), "--", text])
    assert result.exit_code in (0, 2)
    assert "\x1b" not in result.stdout + result.stderr


def test_signs_inside_a_word_join_its_parts(path):
    with open_results(path) as db:
        explain(db, 7, "things that co-occur, e.g. rain/snow")
    assert ids(path, "co-occur") == [7]
    assert ids(path, "occur-co") == []
    assert ids(path, "rain/snow", "--in", "explanations") == [7]


@pytest.mark.parametrize("text", ["", "  ", "--", "*", '"', "🎉", "\x00\x1b"])
def test_a_text_without_a_word_is_refused(path, text):
    _, err = call("search", path, "--", text, code=2)
    assert err.startswith("Error: no word to search for: ")
    assert err.count("\n") == 3


def test_a_megabyte_is_refused_in_one_line(path):
    _, err = call("search", path, "rain " * 200_000, code=2)
    assert err.startswith("Error: the text to search for is too long: 1,000,000 characters\n")
    assert len(err) < 300
    assert mark(path, "explanations") is None


def test_as_many_words_as_are_allowed_can_be_searched_for(path):
    assert ids(path, "rain " * 200) == ids(path, "rain")
    assert ids(path, "r* " * 333) == ids(path, "r*")


def test_ids_can_be_given_to_other_commands(path):
    out, _ = call("search", path, "rain", "--ids")
    assert parse_indices(out) == (0, 1, 2)
    assert parse_indices("12,99") == parse_indices("12, 99,") == (12, 99)


def test_an_unknown_place_is_refused_with_the_nearest(path):
    _, err = call("search", path, "rain", "--in", "window", code=2)
    assert err == "Error: no such place: window\n\nhint: did you mean `windows`?\n"


EVIL = "rain \x1b[2J\u202e<b>\x07\ttab =1+1 \ue000 \ue001 [x]\nnext\x00end"


def test_hostile_explanations_and_windows_are_harmless_to_see(path):
    with open_results(path) as db:
        explain(db, 8, EVIL, [((" rain", "\x1b[2J", "\u202e", "\x00", "\n"), [1.0] * 5)])
    for given in ((), ("--json",), ("--csv",)):
        out, _ = call("search", path, "rain", *given)
        assert not {"\x1b", "\x07", "\x00"} & set(out)
    assert "\u202e" not in call("search", path, "rain")[0]
    rows = [json.loads(line) for line in call("search", path, "rain", "--json")[0].splitlines()]
    (row,) = [row for row in rows if row["latent"] == 8]
    assert [row["explanation"][a:b] for a, b in row["explanation_hits"]] == ["rain"]


def test_a_megabyte_of_an_explanation_is_shown_around_the_words(path):
    with open_results(path) as db:
        explain(db, 8, "x" * (1 << 20) + " hail " + "y " * 1000, [((" hail", " z" * 9999), [1, 0])])
    out, _ = call("search", path, "hail")
    assert len(out) < 2000
    assert out.count("[hail]") == 2
    (row,) = call("search", path, "hail", "--json")[0].splitlines()
    assert len(json.loads(row)["explanation"]) > 1 << 20


def test_no_spreadsheet_runs_what_was_found(path):
    with open_results(path) as db:
        explain(db, 8, "=rain(1)")
    rows = list(csv.DictReader(io.StringIO(call("search", path, "rain", "--csv")[0])))
    (row,) = [row for row in rows if row["latent"] == "8"]
    assert row["explanation"] == "'=rain(1)"
    assert json.loads(row["explanation_hits"]) == [[1, 5]]


def test_marks_survive_texts_that_hold_the_marks():
    text = "".join(chr(code) for code in range(0xE000, 0xE010)) + " rain"
    assert db_search.spans('"rain"', [text, "no", "rains rain"]) == [
        ((17, 21),), (), ((0, 5), (6, 10)),
    ]  # fmt: skip
    assert db_search.spans('"rain"', ["rain \x00 rain"]) == [()], "cut at a NUL: no marks at all"
    assert db_search.spans('"rain"', []) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [("tokens", "{}"), ("tokens", "["), ("tokens", '["\\ud800", 3]')],
)
def test_damaged_windows_are_one_line_or_harmless(path, column, value):
    with open_results(path) as db:
        db.execute(f"update windows set {column} = ? where latent = 0", [value])
    result = CliRunner().invoke(app, ["search", str(path), "spain"])
    assert result.exit_code in (0, 4)
    assert isinstance(result.exception, (SystemExit, type(None)))


def test_damaged_vectors_are_one_line(path):
    call("search", path, "rain", "--meaning")
    with open_results(path) as db:
        db.execute("update search_vectors set vectors = x'000000'")
    _, err = call("search", path, "rain", "--meaning", code=4)
    assert err.startswith("Error: the file is damaged")


# The table


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits(path, width):
    with open_results(path) as db:
        explain(db, 9, "雨 rain 🌧 " * 12, [((" 雨" * 30, " rain", " y" * 90), [0.0, 1.0, 0.0])])
    with search.open_searched(path, search.PLACES["all"], None, tiny_study.Told()) as searched:
        hits = search.find(searched, caches.the_cache(searched.db), search.Request("rain"))
    for terminal in (False, True):
        console = Console(
            width=width, file=io.StringIO(), force_terminal=terminal, color_system=None
        )
        console.print(search.hits_table(hits, console))
        lines = console.file.getvalue().splitlines()
        assert max(map(cell_len, lines)) <= width
        assert any("[rain]" in line for line in lines) != terminal
    assert any("…" in line for line in lines)


def test_a_latent_without_an_explanation_is_told_by_its_tokens(path):
    with open_results(path) as db:
        found = examples(7, [((" hail", " stones"), [1.0, 0.0])])
        studies.store_example_set(db, CACHE, found)
        add(db, "latents", {"cache_id": CACHE, "latent": 7, "n_firings": 1, "n_contexts": 1,
            "density": 0.01, "mean_value": 1.0, "max_value": 1.0, "histogram": [1]})  # fmt: skip
        db.execute(
            """insert into latent_details values
               (:cache, 7, '[]', '[[" hail", 0.5], ["hail", 0.2]]', 0.5, 0, '[]', null, null,
                '[]', '[]')""",
            {"cache": CACHE},
        )
    out, _ = call("search", path, "stones")
    assert "(no explanation; fires on: hail)" in out
    assert "in 1 window:  hail [stones]" in out
    (row,) = call("search", path, "stones", "--json")[0].splitlines()
    assert json.loads(row)["explanation"] is None


def test_an_older_file_that_cannot_be_written_is_refused(path, monkeypatch):
    def refuse(path):
        raise ResultsError("the file is read-only")

    with open_results(path) as db:
        db.execute("pragma user_version = 5")
    monkeypatch.setattr(index, "open_results", refuse)
    with (
        pytest.raises(ResultsError, match="older version"),
        search.open_searched(path, search.PLACES["all"], None, tiny_study.Told()),
    ):
        pass


def test_words_are_found_without_torch(path):
    code = (
        "import sys; from lite_interp.cli import app\n"
        "try: app(sys.argv[1:], standalone_mode=False)\n"
        "finally: print(sorted({'torch', 'transformers', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "search", path, "rain", "--ids"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split("\n")[:-1] == ["0", "1", "2", "[]"]
