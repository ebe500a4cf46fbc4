"""A copy to send: the same but for what was left out, anonymous if wanted, shown by Datasette."""

import asyncio
import hashlib
import html
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tiny_export
import tiny_report
import tiny_study
from datasette.app import Datasette
from documented import check_records
from sqlite_utils import Database
from tiny_results import CACHE, CORPUS, make_shards
from typer.testing import CliRunner

from lite_interp import share as sharing
from lite_interp.anonymizing import Anonymizer
from lite_interp.cli import app
from lite_interp.datasette_metadata import HIDDEN, column_comments
from lite_interp.db import cached, caches, ratings, told
from lite_interp.db.anonymous import NUMBERS, STUDY, is_kept, text_columns
from lite_interp.db.attaching import FACTS, JSON
from lite_interp.db.file import add, open_results, read_results
from lite_interp.db.plain_views import RATERS
from lite_interp.db.shared_views import VIEW_NAMES, add_views, score_columns
from lite_interp.db.sharing import KEPT, NOT_SHARED, SHARED
from lite_interp.errors import LiteInterpError, ResultsError, UsageError
from lite_interp.explain_pipeline import ExplainJob, explain_latents
from lite_interp.firing_codec import pack_firings
from lite_interp.merge import merge_files
from lite_interp.migrations import SCHEMA_VERSION, TABLES, migrations
from lite_interp.migrations.search_index import INDEX_TABLES
from lite_interp.overview import latent_rows
from lite_interp.pipeline import cache_corpus
from lite_interp.records import Question, Rating
from lite_interp.share import record, share
from lite_interp.stages import open_source
from lite_interp.study import read_study


@pytest.fixture(autouse=True)
def own_locks(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A file in which every table has rows, but those of the index of search."""
    path = tmp_path_factory.mktemp("share") / "results.db"
    tiny_report.make_results(path, texts=("<script>alert('a')</script>", "b & c", "d"))
    with open_results(path) as db:
        fill_up(db)
    return path


@pytest.fixture
def results(whole, tmp_path):
    (tmp_path / "from").mkdir()
    return Path(shutil.copy(whole, tmp_path / "from" / "results.db"))


def fill_up(db):
    """Rows for the tables that `tiny_report` leaves empty."""
    shards = make_shards()
    caches.store_corpus(db, CORPUS, shards)
    for ordinal in range(3):
        row = {"cache_id": CACHE, "shard": ordinal, "n_firings": 1, "n_counted": 10}
        packed = [(0, pack_firings(np.array([ordinal]), np.array([1.0], np.float32)))]
        cached.store_cache_shard(db, {**row, "n_masked": {}, "seconds": 0.5}, packed)
    vectors = {"corpus_id": CORPUS.id, "width": 6, "embedder_id": "b2:embedder", "shard": 0}
    add(db, "window_vectors", {**vectors, "vectors": b"v" * 100})
    for place, (rater, answer) in enumerate([("zoe", 3), ("anna", 1), ("zoe", 2), ("ben", 4)]):
        rate(db, place, rater, answer)
    condition = {"grid": "paper", "name": "base", "ordinal": 0, "part": "base", "label": "base"}
    condition |= {"against": [], "settings": {"coder": {"path": "/home/anna/coder"}}}
    add(db, "conditions", {**condition, "cache_id": CACHE, "judge_id": "", "explanation_ids": []})
    (question,) = db.execute("select id from ratings where rater = 'ben'").fetchone()
    row = next(db.query("select * from ratings where id = ?", [question]))
    for table, key, other in (
        ("ratings", {"id": question}, {**row, "answer": 1}),
        ("subjects", {"id": "b2:subject"}, {"id": "b2:subject", "provenance": '{"path":"/a/b"}'}),
        ("firings", {"cache_id": CACHE, "shard": 0, "latent": 0}, {"packed": "00ff"}),
        ("scores", {"id": "x"}, None),
    ):
        found = {"key": json.dumps(key), "other": json.dumps(other), "found_utc": "2026"}
        db.execute(
            "insert into conflicts values (:table_name, :key, :other, :file, :found_utc)",
            {**found, "table_name": table, "file": "anna_laptop.db"},
        )
    db.execute(
        """insert into runs (command, argv, versions, machine, started_utc, ended_utc, outcome)
           values ('score', '["score", "/home/anna/x.db"]', '{"numpy":"2"}', '{"cores":2}',
                   '2026-01-01T00:00:00+00:00', '2026-01-01T00:01:30+00:00',
                   'failed: no such file: /home/anna/my models/x.gguf')"""
    )


def rate(db, place, rater, answer):
    """An answer about the explanation at this place."""
    said, examples = db.execute(
        "select id, example_set_id from explanations order by rowid limit 1 offset ?", [place]
    ).fetchone()
    asked = Question("explanation", said, examples, {})
    at = f"2026-01-01T00:00:{place:02d}+00:00"
    name = ratings.rating_id(rater, asked)
    ratings.store_rating(db, Rating(name, rater, asked, answer, 2.5, at))


def shared(results, name="small.db", **settings):
    told_to = tiny_study.Told()
    done = share(results, results.parent.parent / name, told_to, **settings)
    return Path(done.path), told_to.lines


def rows(path, table):
    """All stored columns of all rows, in the order in which they lie."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"select * from {table}").fetchall()


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# The copy


def test_the_copy_is_what_a_slow_twin_is(results):
    before = digest(results)
    small, _ = shared(results)
    assert digest(results) == before
    twin = results.parent / "twin.db"
    shutil.copy(results, twin)
    with closing(sqlite3.connect(twin, isolation_level=None)) as db:
        for table in NOT_SHARED:
            db.execute(f"delete from {table}")
        db.execute("delete from conflicts where table_name = 'firings'")
        db.execute("vacuum")
    for table in (*SHARED, "_sqlite_migrations"):
        assert rows(small, table) == rows(twin, table), table
        assert rows(small, table), f"nothing in {table} to compare"
    for table in NOT_SHARED:
        assert rows(results, table) and not rows(small, table)


def test_the_copy_is_one_closed_file_of_ours(results):
    small, _ = shared(results)
    found = sorted(path.name for path in small.parent.iterdir())
    assert found == ["from", "small.db", "small.metadata.json"]
    assert [path.name for path in results.parent.iterdir()] == ["results.db"]
    with closing(sqlite3.connect(small)) as db:
        pragmas = {
            name: db.execute(f"pragma {name}").fetchone()[0]
            for name in ("application_id", "user_version", "journal_mode", "freelist_count")
        }
        assert pragmas == {
            "application_id": 0x4C495445, "user_version": SCHEMA_VERSION,
            "journal_mode": "delete", "freelist_count": 0,
        }  # fmt: skip
        assert db.execute("pragma foreign_key_check").fetchall() == []
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        strict = dict(db.execute("select name, strict from pragma_table_list"))
        assert all(strict[name] for name in SHARED)
        schema = "select type, name, sql from sqlite_master where type <> 'view' order by name"
        with closing(sqlite3.connect(results)) as whole:
            assert db.execute(schema).fetchall() == whole.execute(schema).fetchall()
    with open_results(small) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute("insert into caches (id, corpus_id, subject_id, coder_id, settings) "
                   "values ('x', 'x', 'x', 'x', 'x')")  # fmt: skip


def test_the_same_file_gives_the_same_bytes(results):
    names = [shared(results, name, anonymize=True)[0] for name in ("a.db", "b.db")]
    assert digest(names[0]) == digest(names[1])


def test_it_says_what_it_left_out_and_how_big_both_are(results):
    with open_results(results) as db:
        db.execute("insert into search_marks values ('windows', 1, 'x')")
    small, lines = shared(results)
    assert lines[:5] == [
        f"left out: firings of 1 cache: 3 rows, {size(results, 'firings', 'packed')}",
        f"left out: tokens of the corpus: 3 rows, {size(results, 'context_shards', 'token_ids')}",
        "left out: directions of windows: 1 rows, 0.0 MB",
        "left out: index of search: 4 rows, 0.0 MB",
        "left out: conflicts about these: 1 rows",
    ]
    sizes = [f"{path.stat().st_size / 1e6:,.1f} MB" for path in (results, small)]
    assert lines[5] == f"{small}: {sizes[0]} → {sizes[1]} in 0 s"
    assert lines[6].startswith(f"to look at it: datasette -i {small} -m ")


def size(path, table, column):
    ((n_bytes,),) = rows(path, f"(select sum(length({column})) from {table})")
    return f"{n_bytes / 1e6:,.1f} MB"


def test_json_says_the_same(results, tmp_path):
    command = ["share", str(results), "-o", str(tmp_path / "small.db"), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    (found,) = check_records("share", done.stdout)
    assert found["bytes_after"] == (tmp_path / "small.db").stat().st_size
    assert found["left_out"][0]["n_rows"] == 3 and not found["anonymous"]


def test_a_writer_at_work_does_no_harm_and_takes_none(results):
    expected = rows(results, "explanations")
    with open_results(results) as db:
        db.execute("begin immediate")
        db.execute("update explanations set seconds = 99")
        small, _ = shared(results)
        db.execute("commit")
        assert rows(small, "explanations") == expected
        small, _ = shared(results, "later.db")
    assert {row[13] for row in rows(small, "explanations")} == {99.0}


def test_shards_of_a_cache_that_is_not_complete_stay_behind(results):
    # They would pass for done where their firings are not.
    with open_results(results) as db:
        db.execute("update caches set n_counted = null")
    small, lines = shared(results)
    assert rows(small, "cache_shards") == []
    assert "left out: shards of caches that are not complete: 3 rows" in lines
    with read_results(small) as db:
        (cache,) = caches.load_caches(db)
        assert not caches.has_corpus(db, cache.corpus.id)


@pytest.mark.parametrize(
    ("prepare", "force", "message"),
    [
        (lambda folder, results: folder / "results.db", True, "that is the results file"),
        (lambda folder, results: folder / "none" / "x.db", False, "no such folder"),
        (lambda folder, results: (folder / "x.db").write_text("x") and folder / "x.db", False,
         "it is there already"),
        (lambda folder, results: (folder / "x.metadata.json").write_text("x") and folder / "x.db",
         False, "it is there already"),
        (lambda folder, results: (folder / "d.db").mkdir() or folder / "d.db", True, "a folder"),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_written_to_is_refused(results, prepare, force, message):
    place = prepare(results.parent, results)
    before = digest(results), sorted(results.parent.iterdir())
    with pytest.raises(LiteInterpError, match=message):
        share(results, place, tiny_study.Told(), force=force)
    assert (digest(results), sorted(results.parent.iterdir())) == before


def test_force_writes_over_an_earlier_copy(results):
    small, _ = shared(results)
    (first, told_first) = digest(small), small.with_suffix(".metadata.json").read_text("utf-8")
    small.write_text("something else")
    small.with_suffix(".metadata.json").write_text("x")
    shared(results, force=True)
    assert digest(small) == first
    assert small.with_suffix(".metadata.json").read_text("utf-8") == told_first


def test_what_fails_half_way_leaves_nothing(results, monkeypatch):
    def fail(*_):
        raise RuntimeError("half way")

    monkeypatch.setattr(sharing, "make_metadata", fail)
    with pytest.raises(RuntimeError):
        shared(results)
    assert [path.name for path in results.parent.parent.iterdir()] == ["from"]


def test_a_full_disk_and_a_damaged_file_are_one_line(results, monkeypatch):
    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(sharing, "add_views", full)
        with pytest.raises(ResultsError, match="the disk is full"):
            shared(results)
    with closing(sqlite3.connect(results)) as db:
        db.execute("update explanations set engine_id = 'b2:nobody'")
        db.commit()
    with pytest.raises(ResultsError, match="rows of explanations refer to rows that are not"):
        shared(results)
    assert [path.name for path in results.parent.parent.iterdir()] == ["from"]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.db").write_text("not a database")
    with pytest.raises(ResultsError, match="not a results file"):
        share(tmp_path / "x.db", tmp_path / "y.db", tiny_study.Told())


# What works on it


READING = [
    ["show", "1"], ["list", "--json"], ["list", "--csv"], ["info"], ["agree", "--json"],
    ["agree", "--explainer", "llm"], ["compare", "--json"], ["compare", "llm", "token_list"],
    ["search", "alert", "--json"], ["search", "year", "--json"],
]  # fmt: skip


@pytest.mark.parametrize("command", READING, ids=" ".join)
@pytest.mark.parametrize("anonymize", [False, True])
def test_commands_that_read_say_of_the_copy_what_they_say_of_the_whole(results, command, anonymize):
    small, _ = shared(results, anonymize=anonymize)
    said = []
    for path in (results, small):
        done = CliRunner().invoke(app, [command[0], str(path), *command[1:]])
        assert done.exit_code == 0, done.output
        said.append(done.stdout)
    if command == ["info"] and anonymize:
        # Where the subject was is not said, nor what could not be found; lines are cut elsewhere.
        said = [" ".join(each.partition("run ")[0].split()) for each in said]
        said[0] = said[0].replace("/models/s", "s")
    assert said[0] == said[1] and said[0]


@pytest.mark.parametrize(
    "kind", ["jsonl", "csv", "markdown", "neuronpedia", "circuit-tracer", "delphi"]
)
def test_exports_are_those_of_the_whole(results, kind, tmp_path):
    small, _ = shared(results)
    found = []
    for name, path in (("a", results), ("b", small)):
        done = CliRunner().invoke(app, ["export", str(path), kind, "-o", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        place = tmp_path / name
        files = [place] if place.is_file() else [x for x in place.rglob("*") if x.is_file()]
        found.append({str(x.relative_to(place)): x.read_bytes() for x in files})
    assert found[0] == found[1] and any(found[0].values())


def test_a_report_is_that_of_the_whole(results, tmp_path):
    small, _ = shared(results)
    shutil.copy(small, tmp_path / "results.db")
    pages = []
    for number, path in enumerate((results, tmp_path / "results.db")):
        page = tmp_path / f"{number}.html"
        done = CliRunner().invoke(app, ["report", str(path), "-o", str(page)])
        assert done.exit_code == 0, done.output
        pages.append(page.read_bytes())
    assert pages[0] == pages[1]


def test_an_export_of_firings_says_that_there_are_none(results, tmp_path):
    small, _ = shared(results)
    out = str(tmp_path / "out")
    done = CliRunner().invoke(app, ["export", str(small), "delphi-cache", "-o", out])
    assert done.exit_code and "a shared copy leaves them out" in done.output


def test_firings_and_tokens_that_are_wanted_are_missed_in_one_line(results):
    small, _ = shared(results)
    with read_results(small) as db:
        (cache,) = caches.load_caches(db)
        for wanted in (
            lambda: cached.load_firings(db, cache, 0),
            lambda: list(cached.iterate_firings(db, cache)),
            lambda: caches.load_tokens(db, cache.corpus),
            lambda: open_source(db, cache, None, 6),
        ):
            with pytest.raises(ResultsError, match="not in this file: it is a shared copy") as seen:
                wanted()
            assert "merge that into this one" in seen.value.hint
    # A latent that never fires is another thing.
    with read_results(results) as db:
        (cache,) = caches.load_caches(db)
        assert len(cached.load_firings(db, cache, 3).values) == 0


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A study with a real cache, two latents explained by their tokens; and its shared copy."""
    folder = tmp_path_factory.mktemp("studied")
    (folder / "from").mkdir()
    path = folder / "from" / "results.db"
    whole = read_study(tiny_study.write_study(folder))
    parts = tiny_study.Parts(
        folder / "subject", folder / "coder" / "layers.1", folder / "corpus.jsonl"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "locks"))
        cache_corpus(path, tiny_study.cache_job(parts), tiny_study.Told())
        latents = explain(path, whole)
        small, _ = shared(path)
    return path, small, whole, latents, parts


def explain(path, whole, latents=()):
    section = whole.latents.model_copy(update={"indices": tuple(latents), "n": 2})
    said = whole.explain.model_copy(update={"explainers": ("token_list",)})
    job = ExplainJob(
        whole.seed, section, whole.examples, whole.engine, said, whole.subject.model,
        whole.coder.path,
    )  # fmt: skip
    return explain_latents(path, "", job, tiny_study.Told()).latents


def test_latents_with_windows_can_be_explained_others_not(studied, tmp_path):
    path, small, whole, latents, _ = studied
    copy = shutil.copy(small, tmp_path / "small.db")
    assert sorted(explain(Path(copy), whole, latents)) == sorted(latents)
    with read_results(path) as db:
        others = caches.latents_by_density(db, caches.the_cache(db).id, 0.001, 1)
    others = [latent for latent in others if latent not in latents]
    with pytest.raises(ResultsError, match="the tokens of the corpus are not in this file"):
        explain(Path(copy), whole, others[:1])
    # Tokens alone do not do: without firings every latent would seem silent.
    with closing(sqlite3.connect(copy)) as db:
        db.execute("attach ? as whole", [str(path)])
        db.execute("insert into context_shards select * from whole.context_shards")
        db.commit()
    with pytest.raises(ResultsError, match="the firings of this cache are not in this file"):
        explain(Path(copy), whole, others[:1])


def test_cache_brings_back_the_tokens(studied, tmp_path):
    path, small, _, _, parts = studied
    copy = Path(shutil.copy(small, tmp_path / "small.db"))
    cache_corpus(copy, tiny_study.cache_job(parts), tiny_study.Told())
    assert rows(copy, "context_shards") == rows(path, "context_shards")


# Merged


def merged(results, *others):
    return merge_files(results, others, tiny_study.Told())


def everything(path, without=()):
    return tiny_study.dump(path, without={"number", "key", "cache", *without})


def test_the_whole_merged_into_its_copy_is_the_whole(studied, tmp_path):
    path, small, *_ = studied
    copy = Path(shutil.copy(small, tmp_path / "small.db"))
    outcome = merged(copy, path)
    assert everything(copy) == everything(path)
    assert [each.conflicts.n for each in outcome.files] == [0] and outcome.notes == []
    back = Path(shutil.copy(path, tmp_path / "back.db"))
    outcome = merged(back, small)
    assert everything(back) == everything(path)
    assert [each.conflicts.n for each in outcome.files] == [0]


@pytest.mark.parametrize("turned", [False, True])
def test_an_anonymous_copy_brings_no_false_conflicts(studied, tmp_path, turned):
    path, *_ = studied
    whole = tmp_path / "from" / "whole.db"
    whole.parent.mkdir()
    shutil.copy(path, whole)
    small, _ = shared(whole, anonymize=True)
    one, two = (small, whole) if turned else (whole, small)
    outcome = merged(one, two)
    assert outcome.files[0].conflicts.n == 0
    # What is left to differ: where models were, and the log.
    places = {"provenance", "name"}
    assert everything(one, places) == everything(path, places)


def test_two_people_of_two_anonymous_files_are_never_taken_for_one(results, tmp_path):
    other = results.parent / "other.db"
    shutil.copy(results, other)
    with open_results(results) as db, open_results(other) as there:
        for each in (db, there):
            each.execute("delete from ratings")
            each.execute("delete from conflicts")
        rate(db, 0, "anna", 1)
        rate(there, 0, "ben", 4)
    one, _ = shared(results, "one.db", anonymize=True)
    two, _ = shared(other, "two.db", anonymize=True)
    outcome = merged(one, two)
    assert outcome.files[0].conflicts.n == 0
    with read_results(one) as db:
        found = ratings.load_ratings(db, CACHE)
    assert sorted(each.answer for each in found) == [1, 4]
    assert len({each.rater for each in found}) == 2
    assert outcome.files[0].notes == []


def test_answers_that_come_back_without_their_names_are_told(results):
    with open_results(results) as db:
        n_answers = len(ratings.load_ratings(db, CACHE))
    named, _ = shared(results)
    assert merged(named, results).files[0].notes == []
    small, _ = shared(results, "anonymous.db", anonymize=True)
    (note,) = merged(results, small).files[0].notes
    assert note.startswith(f"{n_answers} answers are here under another name too")


# Anonymous


SECRET = "qz"
TEXTS = [
    "/home/qzuser/qz dir/{0}", "no such file: /home/qzuser/qzdir/x: gone", "by qzuser on qzhost",
    "http://qzhost:8080/v1", "see https://qzuser:qzword@qzhost.qzlab/x for",
    "C:\\Users\\qzuser\\{0}", "\\\\qzserver\\qzshare\\{0}", "~/qz/{0}", "../../qz/{0}",
    "mail qzother@qzfaculty.org now",
    "QZUSER's", "qzmachine", "file:///qz/x", "of qzlogin", "qzserver",
]  # fmt: skip
"""Ways in which a place or a name stands in a text; `{0}` is what was there."""


SPECIAL = {
    ("conflicts", "table_name"), ("conflicts", "key"), ("conflicts", "other"),
    ("example_set_windows", "role"), ("ratings", "task"),
}  # fmt: skip
"""Columns that SQLite checks, or that are filled by hand below."""


def secret_json(text, old):
    """JSON that holds a text wherever it can, and what was there."""
    value = {"path": text, "note": [text, {"deep": text}], text: 1, "n": 2.5, "url": text}
    return json.dumps({**value, "was": old}, ensure_ascii=False)


def plant(path, text):
    """Put a text into every text column that is not kept; returns those that had no row for it."""
    empty = set()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("update verdicts set value = null, failure = 'x' where value > 1.5")
        db.execute("update scores set value = null, reason = 'x' where value > 0.9")
        db.execute("update steerings set failure = 'x'")
        other = json.dumps({"id": "b2:subject", "name": text, "provenance": secret_json(text, "")})
        db.execute("update conflicts set other = ? where table_name = 'subjects'", [other])
        columns = {
            (table, column)
            for table in FACTS
            for column in text_columns(Database(db), "main", table)
            if not is_kept(table, column)
        }
        for table, column in sorted(columns - SPECIAL):
            filled = [(where, old) for where, old in keyed(db, table, column) if old is not None]
            for where, old in filled:
                new = text.replace("{0}", str(old) or "x")
                if column in JSON.get(table, ()) or column in ("settings", "versions", "metrics"):
                    new = secret_json(new, old)
                elif (table, column) in UNIQUE:
                    new = f"{old} {new}"
                db.execute(f"update {table} set {column} = ? where {where}", [new])
            if not filled:
                empty.add((table, column))
    return empty


UNIQUE = {
    ("conditions", "grid"), ("conditions", "name"), ("verdicts", "item"), ("scores", "scorer"),
    ("scores", "variant"),
}  # fmt: skip
"""Columns that tell rows apart: what was there stands in front."""


def keyed(db, table, column):
    """(condition that names a row, old value), for tables with and without row numbers."""
    pks = Database(db)[table].pks
    names = ", ".join(pks)
    for *key, old in db.execute(f"select {names}, {column} from {table}").fetchall():
        terms = (f"{name} = {quoted(value)}" for name, value in zip(pks, key, strict=True))
        yield " and ".join(terms), old


def quoted(value):
    return str(value) if isinstance(value, (int, float)) else "'" + value.replace("'", "''") + "'"


@pytest.mark.parametrize("text", TEXTS)
def test_no_byte_of_a_secret_is_in_an_anonymous_copy(results, text, monkeypatch):
    assert plant(results, text) == set(), "columns that no row fills are not tested"
    with closing(sqlite3.connect(results, isolation_level=None)) as db:
        # Somewhere the file says who is who; elsewhere the bare names are enough.
        known = "/home/qzuser/x http://qzhost https://qzhost.qzlab"
        db.execute("update runs set argv = ?", [json.dumps([known])])
    monkeypatch.setattr(sharing, "own_names", lambda: ["qzmachine", "qzlogin", "qzserver"])
    plain, _ = shared(results, "plain.db")
    assert SECRET in plain.read_bytes().decode("utf-8", "replace").lower()
    small, _ = shared(results, anonymize=True)
    for path in (small, small.with_suffix(".metadata.json")):
        data = path.read_bytes().decode("utf-8", "replace").lower()
        assert SECRET not in data, data[data.index(SECRET) - 200 :][:400]


def test_texts_of_the_study_are_as_they_were(results):
    small, _ = shared(results, anonymize=True)
    for table, columns in (*STUDY.items(), *NUMBERS.items()):
        for column in columns:
            query = f"(select {column} from {table})"
            assert rows(small, query) == rows(results, query)
    for table in SHARED:
        with closing(Database(sqlite3.connect(results))) as db:
            names = text_columns(db, "main", table)
        ids = [name for name in names if name == "id" or name.endswith(("_id", "_ids", "_hash"))]
        if ids and table != "ratings":
            query = f"(select {', '.join(ids)} from {table})"
            assert rows(small, query) == rows(results, query), table


def test_these_texts_are_kept_and_no_others():
    """A new column is made anonymous unless somebody decides otherwise, here."""
    db = Database(memory=True)
    migrations.apply(db)
    kept = {
        f"{table}.{column}" for table in FACTS for column in text_columns(db, "main", table)
        if is_kept(table, column) and column != "id"
        and not column.endswith(("_id", "_ids", "_hash"))
    }  # fmt: skip
    assert kept == {
        "windows.marked", "windows.tokens", "windows.acts", "explanations.text",
        "explanations.raw", "explanations.detail", "prompts.text", "continuations.prompt",
        "continuations.text", "verdicts.detail", "steerings.promoted", "latents.histogram",
        "latent_details.quantiles", "latent_details.top_tokens", "latent_details.flags",
        "latent_details.promoted", "latent_details.suppressed",
        "latent_details.decoder_neighbours", "latent_details.cofiring_neighbours",
    }  # fmt: skip


def test_paths_that_do_not_look_like_it_go_where_paths_are(results):
    """Relative ones in provenance and settings of studies; coders and corpora are named by some."""
    relative = json.dumps({"path": "qz models/x", "config": {"run": "qz/run", "note": "a / b"}})
    with closing(sqlite3.connect(results, isolation_level=None)) as db:
        for table in ("subjects", "coders", "engines", "embedders"):
            db.execute(f"update {table} set provenance = ?", [relative])
        db.execute("update conditions set settings = ?", [relative])
        for table in ("subjects", "coders", "corpora", "embedders"):
            db.execute(f"update {table} set name = 'qz/layers.9 (random)'")
    small, _ = shared(results, anonymize=True)
    for table, column in (
        ("subjects", "provenance"), ("coders", "provenance"), ("engines", "provenance"),
        ("embedders", "provenance"), ("conditions", "settings"),
    ):  # fmt: skip
        ((found,),) = rows(small, f"(select distinct {column} from {table})")
        assert json.loads(found) == {"path": "x", "config": {"run": "run", "note": "a / b"}}
    for table in ("subjects", "coders", "corpora", "embedders"):
        assert rows(small, f"(select name from {table})") == [("layers.9 (random)",)]


def test_rows_that_only_a_path_tells_apart_are_told_in_one_line(results):
    with closing(sqlite3.connect(results, isolation_level=None)) as db:
        (row,) = db.execute("select * from conditions").fetchall()
        marks = ", ".join("?" * len(row))
        db.execute("delete from conditions")
        for name in ("/home/anna/x", "/home/ben/x"):
            db.execute(f"insert into conditions values ({marks})", [row[0], name, *row[2:]])
    with pytest.raises(ResultsError, match="rows of conditions differ in nothing but a path"):
        shared(results, anonymize=True)
    shared(results)


def test_texts_that_say_nothing_of_anybody_stay_letter_by_letter(whole, results):
    # All settings, names and reasons of a file in which no path is.
    with closing(sqlite3.connect(results, isolation_level=None)) as db:
        db.execute("""update subjects set provenance = '{"path":"s", "x":1}'""")
        db.execute("""update conditions set settings = '{}'""")
        db.execute("update runs set outcome = 'done'")
        for table in ("ratings", "conflicts"):
            db.execute(f"delete from {table}")
    small, _ = shared(results, anonymize=True)
    for table in SHARED:
        if table != "runs":
            assert rows(small, table) == rows(results, table), table


def test_raters_get_names_that_follow_from_no_name(results):
    small, _ = shared(results, anonymize=True)
    again, _ = shared(small.rename(results.parent / "again.db"), "again.db", anonymize=True)
    with read_results(results) as db, read_results(again) as there:
        before, after = (ratings.load_ratings(each, CACHE) for each in (db, there))
    assert [each.answer for each in before] == [each.answer for each in after]
    names = {old.rater: new.rater for old, new in zip(before, after, strict=True)}
    assert list(names) == ["zoe", "anna", "ben"] and len(set(names.values())) == 3
    for old, new in zip(before, after, strict=True):
        assert new.rater == names[old.rater] and new.rater.startswith("rater ")
        assert new.id == ratings.rating_id(new.rater, new.question) != old.id
    # The conflict about ben's answer names it by its new id.
    ids = {each.rater: each.id for each in after}
    with read_results(again) as db:
        found = db.execute("select key, other from conflicts where table_name = 'ratings'")
        key, other = map(json.loads, found.fetchone())
    assert key == {"id": ids[names["ben"]]}
    assert (other["id"], other["rater"], other["answer"]) == (key["id"], names["ben"], 1)
    # Who answers more keeps the name; who is renamed in the original too.
    with open_results(results) as db:
        rate(db, 5, "zoe", 1)
        db.execute("update ratings set rater = 'aaa' where rater = 'zoe'")
    later, _ = shared(results, "later.db", anonymize=True)
    with read_results(later) as db:
        assert ratings.load_ratings(db, CACHE)[0].rater == names["zoe"]


def test_what_stands_for_places_and_names(results):
    small, lines = shared(results, anonymize=True)
    assert "read them before you send" in "".join(lines)
    ((subject,),) = rows(small, "(select json_extract(provenance, '$.path') from subjects)")
    assert subject == "s"
    ((argv, machine, outcome),) = rows(small, "(select argv, machine, outcome from runs)")
    assert (argv, machine, outcome) == ("[]", "{}", "failed: no such file: (path)")
    assert {row[3] for row in rows(small, "conflicts")} == {"file 1"}
    ((settings,),) = rows(small, "(select settings from conditions)")
    assert json.loads(settings) == {"coder": {"path": "coder"}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/anna/llama/model.gguf", "model.gguf"),
        ("/home/anna", "(name)"),
        ("/", "/"),
        ("C:\\models\\x.gguf", "x.gguf"),
        ("~/x", "x"),
        ("http://gpu7:8080", "(address)"),
        ("engine: cannot reach http://gpu7:8080 now", "engine: cannot reach (address) now"),
        ("cannot be read: /a b/c d: no", "cannot be read: (path)"),
        ("at=/data/x/y", "at=(path)"),
        ("anna-sae of Anna, not annabel", "(name)-sae of (name), not annabel"),
        ("model.layers.9.output", "model.layers.9.output"),
        ("explain/small", "explain/small"),
        ("and/or, 1/2, </b></i>, a / b / c", "and/or, 1/2, </b></i>, a / b / c"),
        ("intervention@kl=1", "intervention@kl=1"),
        ("neurons:9", "neurons:9"),
        ("~5 of /x", "~5 of /x"),
    ],
)
def test_places_addresses_and_names_go_and_nothing_else(text, expected):
    hider = Anonymizer(["anna", "root", "x"])
    assert hider.text(text) == expected


def test_json_keeps_its_letters_unless_something_goes():
    hider = Anonymizer()
    text = '{"b": 1.50, "a": ["\\u00e4", "x/y"], "chat_template": "/a/b/ {{ x }}"}'
    assert hider.json(text) == text
    assert json.loads(hider.json(text, places=True))["a"] == ["ä", "y"]
    assert json.loads(hider.json(text, places=True))["chat_template"] == "/a/b/ {{ x }}"
    assert hider.json('{"path": "my models/x", "z": "\\ud800/"}') == '{"path":"x","z":"\\ud800/"}'
    assert hider.json("/a/b") == "b" and hider.json("[" * 5000) == "[" * 5000
    assert Anonymizer().place("coder/layers.9 (random)") == "layers.9 (random)"


# Views


def test_views_show_the_scores_of_list_and_the_explanation_that_others_choose(whole, results):
    small, _ = shared(results)
    with read_results(small) as db:
        cache = caches.the_cache(db)
        listed = latent_rows(db, cache, "raw")
        names = [way.name for way in score_columns(db)]
        assert names == ["detection", "fuzzing", "simulation", "intruder"]
        told_best = told.tell_latents(db, cache, range(3))
        explained = {
            (row["latent"], row["explainer"]): row
            for row in db.query("select * from v_explanations")
        }
        best = {row["latent"]: row for row in db.query("select * from v_latents")}
    assert len(explained) == len(listed) == 6
    for row in listed:
        seen = explained[row["latent"], row["explainer"]]
        assert (seen["explanation"], seen["failure"]) == (row["explanation"], row["failure"])
        for name in names:
            for column in (name, f"{name}_null", f"{name}_q"):
                assert seen[column] == row.get(column)
    assert sorted(best) == [0, 1, 2]
    for latent, row in best.items():
        assert row["explanation_id"] == told_best[latent].explanation_id
        assert row["density"] == told_best[latent].density
        assert row["top_tokens"] == "lord, of" and row["flags"] == "rare"
        assert row["n_explanations"] == 2


def test_the_best_explanation_is_chosen_as_elsewhere(results):
    """By the first scorer that judged any; the latest of equal ones."""
    with open_results(results) as db:
        said = next(db.query("select * from explanations where latent = 0 and explainer = 'llm'"))
        score = next(db.query("select * from scores where explanation_id = ? and variant = 'raw'"
                              " and scorer = 'detection'", [said["id"]]))  # fmt: skip
        for name, scorer, value in (
            ("b2:new1", "detection", score["value"]), ("b2:new2", "fuzzing", 9.0),
            ("b2:new3", "detection", score["value"] - 0.1), ("b2:new4", None, None),
        ):  # fmt: skip
            add(db, "explanations", {**said, "id": name})
            if scorer:
                row = {**score, "explanation_id": name, "scorer": scorer, "value": value}
                names = ", ".join(row)
                marks = ", ".join(f":{key}" for key in row)
                db.execute(f"insert into scores ({names}) values ({marks})", row)
    small, _ = shared(results)
    with read_results(small) as db:
        expected = told.tell_latent(db, caches.the_cache(db), 0)
        (found,) = db.execute("select explanation_id from v_latents where latent = 0").fetchone()
    assert found == expected.explanation_id == "b2:new1"


def test_views_of_windows_verdicts_and_raters(results):
    small, _ = shared(results)
    with read_results(small) as db:
        (n_windows,) = db.execute("select count(*) from example_set_windows").fetchone()
        windows = list(db.query("select * from v_windows"))
        assert len(windows) == n_windows == 39
        assert {row["role"] for row in windows} == {"shown", "held_out", "scored"}
        shown = next(row for row in windows if row["role"] == "shown" and row["latent"] == 0)
        assert shown["text"] == " in the <<year>> of our lord" and shown["peak"] == 9.5
        verdicts = list(db.query("select * from v_verdicts"))
        (n_verdicts,) = db.execute("select count(*) from verdicts").fetchone()
        assert len(verdicts) == n_verdicts
        own = [row for row in verdicts if row["whose"] == "own" and row["scorer"] == "detection"]
        said = {(row["truth"], row["value"] > 0) for row in own if row["stratum"] != "decile_5"}
        assert said == {("active", True), ("silent", False)}
        assert {row["judge"] for row in verdicts} == {"e"}
        raters = list(db.query("select number, rater, n_answers, mean_answer from v_raters"))
        mean = next(each for each in RATERS.columns if each.name == "mean_answer").sql
        asked = "select 'intruder' as task, 4 as answer union all select 'detection', 1"
        means = db.execute(f"select task, {mean} from ({asked}) group by task").fetchall()
    # A mean of places says nothing.
    assert means == [("detection", 1.0), ("intruder", None)]
    assert [tuple(row.values()) for row in sorted(raters, key=lambda row: row["number"])] == [
        (1, "zoe", 2, 2.5), (2, "anna", 1, 1.0), (3, "ben", 1, 4.0),
    ]  # fmt: skip


def test_names_of_ways_that_are_taken_or_hostile_do_no_harm(results):
    with open_results(results) as db:
        evil = """it's "x" -- ; drop table runs"""
        db.execute("update scores set scorer = 'latent' where scorer = 'fuzzing'")
        db.execute("update scores set scorer = ? where scorer = 'simulation'", [evil])
        db.execute("""update scores set settings = ? where scorer = 'detection'""", ["{'}--\n;"])
    small, _ = shared(results)
    with read_results(small) as db:
        columns = [row[0] for row in db.execute("select * from v_explanations").description]
        assert {"latent", "latent 2", evil, "detection"} <= set(columns)
        assert db.execute(f'select count("{evil.replace(chr(34), chr(34) * 2)}") from v_latents')
        assert db.execute("select count(detection) from v_explanations").fetchone()[0] > 0
        assert db.execute("select count(*) from runs").fetchone()[0] == 1


def test_an_old_copy_with_views_is_brought_up_to_date(tmp_path):
    path = tmp_path / "old.db"
    with closing(Database(sqlite3.connect(path, isolation_level=None))) as db:
        names = [each.name for each in migrations.pending(db)]
        migrations.apply(db, stop_before=names[1:])
        db.execute("pragma application_id = 0x4C495445")
        db.execute("pragma user_version = 1")
        db.execute("create view v_verdicts as select * from verdicts join trials")
        db.execute("create view mine as select 1")
    with open_results(path) as db:
        assert db.view_names() == ["mine"]
        assert db.execute("pragma user_version").fetchone()[0] == SCHEMA_VERSION


def test_views_are_in_shared_copies_alone_and_are_renewed_in_a_copy_of_a_copy(results):
    with read_results(results) as db:
        assert db.view_names() == []
    small, _ = shared(results)
    with read_results(small) as db:
        assert sorted(db.view_names()) == sorted(VIEW_NAMES)
    again, _ = shared(Path(shutil.copy(small, results.parent / "small.db")), "again.db")
    assert [path.read_bytes() for path in (again,)] == [small.read_bytes()]


# Datasette


def ask(path, *addresses):
    """Answers of Datasette itself, which reads the file and the metadata beside it."""
    metadata = json.loads(path.with_suffix(".metadata.json").read_text(encoding="utf-8"))

    async def answers():
        datasette = Datasette([], immutables=[str(path)], metadata=metadata)
        await datasette.invoke_startup()
        found = [await datasette.client.get(address) for address in addresses]
        for database in datasette.databases.values():
            database.close()
        datasette.executor.shutdown()
        return found

    return asyncio.run(answers())


@pytest.fixture(scope="module")
def small(whole, tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(path.parent / "locks"))
        share(whole, path, tiny_study.Told())
    return path


@pytest.fixture(scope="module")
def metadata(small):
    return json.loads(small.with_suffix(".metadata.json").read_text(encoding="utf-8"))


def test_datasette_opens_and_says_what_it_is(small, metadata):
    front, index, structure = ask(small, "/", "/small", "/small.json")
    assert front.status_code == index.status_code == 200
    assert metadata["title"] in html.unescape(front.text)
    assert "c on tiny" in index.text
    assert '<link rel="stylesheet" href="data:text/css,dl.column-descriptions' in index.text
    for name in VIEW_NAMES:
        assert f"/small/{name}" in index.text
    for query in metadata["databases"]["small"]["queries"].values():
        assert query["title"] in index.text
    found = structure.json()
    hidden = {table["name"] for table in found["tables"] if table["hidden"]}
    assert hidden >= set(HIDDEN)
    assert {table["name"] for table in found["tables"]} - hidden == set(TABLES) - set(HIDDEN)


@pytest.mark.parametrize("name", [*VIEW_NAMES, *sorted(set(TABLES) - set(HIDDEN))])
def test_datasette_shows_every_view_and_table_with_its_facets(small, metadata, name):
    told_of = metadata["databases"]["small"]["tables"][name]
    page, data = ask(small, f"/small/{name}", f"/small/{name}.json?_shape=objects&_size=max")
    assert page.status_code == data.status_code == 200
    assert html.escape(told_of["description"], quote=False) in page.text.replace("&#39;", "'")
    with closing(sqlite3.connect(small)) as db:
        db.row_factory = sqlite3.Row
        expected = [dict(row) for row in db.execute(f"select * from {name}")]
    found = data.json()
    assert len(found["rows"]) == min(len(expected), 1000) and found["rows"]
    assert found["filtered_table_rows_count"] == len(expected)
    plain = [{key: repr(row[key]) for key in row} for row in expected]
    for row in found["rows"][:20]:
        row.pop("rowid", None)
        assert {key: repr(value) for key, value in row.items()} in plain
    assert set(told_of["columns"]) <= set(found["columns"])
    assert "facets timed out" not in page.text
    for facet in told_of["facets"]:
        results = found["facet_results"][facet]["results"]
        values = [row[facet] for row in expected if row[facet] is not None]
        assert {row["value"]: row["count"] for row in results} == {
            value: values.count(value) for value in values
        }
        if results:
            narrowed = ask(small, results[0]["toggle_url"].replace("http://localhost", ""))[0]
            assert narrowed.json()["filtered_table_rows_count"] == results[0]["count"]
    if "sort_desc" in told_of:
        values = [row[told_of["sort_desc"]] for row in found["rows"]]
        known = [value for value in values if value is not None]
        assert known == sorted(known, reverse=True) and values[: len(known)] == known


ASKED = {
    "worst_explanations": ("", {"latent", "explanation", "value"}),
    "latents_on_token": ("token=lord", {"latent", "share"}),
    "score_by_explainer": ("", {"explainer", "mean"}),
    "density_against_score": ("scorer=fuzzing", {"density", "value"}),
    "windows_of_a_latent": ("latent=1", {"text", "stratum", "role"}),
    "mistakes_of_the_judge": ("latent=1", {"text", "truth", "value", "wrong"}),
    "same_words": ("", {"explanation", "latents"}),
    "cost_of_commands": ("", {"command", "seconds"}),
    "cost_of_methods": ("", {"method", "tokens"}),
}


def test_every_question_is_asked_below(metadata):
    assert set(metadata["databases"]["small"]["queries"]) == set(ASKED)


@pytest.mark.parametrize("name", ASKED)
def test_datasette_answers_every_question(small, metadata, name):
    given, columns = ASKED[name]
    page, empty, data = ask(
        small,
        f"/small/{name}?{given}",
        f"/small/{name}",
        f"/small/{name}.json?_shape=objects&{given}",
    )
    assert page.status_code == empty.status_code == data.status_code == 200
    assert metadata["databases"]["small"]["queries"][name]["title"] in page.text
    found = data.json()
    assert found["ok"] and columns <= set(found["columns"])
    assert found["rows"] or name == "same_words"
    if given:
        key, _, value = given.partition("=")
        assert f'name="{key}" value="{value}"' in page.text


def answer(small, name, given=""):
    return ask(small, f"/small/{name}.json?_shape=array&{given}")[0].json()


def test_answers_are_those_of_the_file(small):
    with read_results(small) as db:
        listed = latent_rows(db, caches.the_cache(db), "raw")
    worst = answer(small, "worst_explanations")
    judged = [row["detection"] for row in listed if row.get("detection") is not None]
    assert [row["value"] for row in worst] == sorted(judged)
    assert {row["scorer"] for row in answer(small, "worst_explanations", "scorer=fuzzing")} == {
        "fuzzing"
    }
    points = answer(small, "density_against_score")
    assert sorted((row["density"], row["value"]) for row in points) == sorted(
        (row["density"], row["detection"]) for row in listed if row.get("detection") is not None
    )
    (mean,) = (
        row["mean"] for row in answer(small, "score_by_explainer")
        if (row["explainer"], row["scorer"]) == ("llm", "detection")
    )  # fmt: skip
    assert mean == pytest.approx(sum(judged) / len(judged), abs=1e-4)
    on_token = answer(small, "latents_on_token", "token=lord")
    assert [(row["latent"], row["share"]) for row in on_token] == [(n, 0.75) for n in range(3)]
    assert answer(small, "latents_on_token", "token=nothing") == []
    assert answer(small, "latents_on_token", "token=") == []
    assert len(answer(small, "windows_of_a_latent", "latent=1")) == 13
    (run,) = answer(small, "cost_of_commands")
    assert (run["command"], run["seconds"]) == ("score", 90)
    methods = {row["method"]: row for row in answer(small, "cost_of_methods")}
    assert methods["llm"]["tokens"] == 3 * 110 and methods["detection"]["n"] == 9


def test_mistakes_are_the_windows_on_the_wrong_side(small):
    # tiny_report's judge says yes to all activating windows but those of the sixth decile.
    found = answer(small, "mistakes_of_the_judge", "scorer=detection")
    assert {(row["truth"], row["stratum"]) for row in found} == {("active", "decile_5")}
    assert sorted(row["latent"] for row in found) == [0, 1, 2]
    assert [row["latent"] for row in answer(small, "mistakes_of_the_judge", "latent=2")] == [2]


def test_a_token_with_quotes_and_slashes_is_found(results):
    token = ' a"b\\c'
    with open_results(results) as db:
        db.execute("update latent_details set top_tokens = ?", [json.dumps([[token, 0.5]])])
    small, _ = shared(results)
    found = ask(small, '/small/latents_on_token.json?_shape=array&token=a"b\\c')[0].json()
    assert [row["latent"] for row in found] == [0, 1, 2]


def test_hostile_texts_are_shown_as_text(tmp_path):
    evil = "<script>alert(1)</script>"
    (tmp_path / "from").mkdir()
    results = tiny_export.hostile(tmp_path / "from" / "results.db")
    with open_results(results) as db:
        for table in ("coders", "corpora", "subjects"):
            db.execute(f"update {table} set name = ?", [f"{evil}{{{{7*7}}}}"])
        db.execute("update scores set scorer = ? where scorer = 'embedding'", [evil])
        db.execute("update example_set_windows set stratum = ?", [evil])
    small, _ = shared(results)
    metadata = json.loads(small.with_suffix(".metadata.json").read_text(encoding="utf-8"))
    names = [*VIEW_NAMES, "coders", "corpora", "explanations", "windows", "scores"]
    addresses = ["/", "/small", *(f"/small/{name}" for name in names)]
    addresses += [
        f"/small/{name}?latent=0&token=x" for name in metadata["databases"]["small"]["queries"]
    ]
    n_seen = 0
    for page in ask(small, *addresses):
        assert page.status_code == 200, page.text
        assert "alert(1)</script" not in page.text and "<img src=x" not in page.text
        assert "<title>{{" not in page.text and "49" not in page.text.split("<title>")[1][:40]
        n_seen += "&lt;script&gt;alert(1)" in page.text
    assert n_seen > 8


def test_metadata_describe_every_column_that_the_schema_describes():
    db = Database(memory=True)
    migrations.apply(db)
    found = column_comments(db["cache_shards"].schema)
    assert found == {"n_masked": "JSON: positions by reason",
                     "batch_tokens": "tokens in a forward pass"}  # fmt: skip
    assert column_comments(db["latents"].schema)["n_windows"].startswith("activating; null")
    assert column_comments(db["latents"].schema)["histogram"].startswith("JSON: 20 equal bins")
    assert column_comments(db["caches"].schema)["number"] == "names this cache in firings.key"
    for name in set(TABLES) - set(HIDDEN):
        schema = db[name].schema
        assert len(column_comments(schema)) == schema.count("--") + schema.count("/*"), name


def test_what_is_shared_and_what_not_is_every_table():
    assert {*SHARED, *NOT_SHARED, *INDEX_TABLES} == set(TABLES)
    assert set(KEPT) <= set(SHARED)


def test_views_are_made_for_a_file_without_scores():
    db = Database(memory=True)
    migrations.apply(db)
    views = add_views(db)
    assert [view.name for view in views] == list(VIEW_NAMES)
    for view in views:
        assert list(db.query(f"select * from {view.name}")) == []


def test_the_command_refuses_in_one_line(results, tmp_path):
    done = CliRunner().invoke(app, ["share", str(results), "-o", str(results), "--force"])
    assert done.exit_code == UsageError.exit_code and "that is the results file" in done.output
    assert record.__doc__
