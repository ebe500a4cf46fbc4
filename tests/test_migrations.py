"""A file of an older version keeps what was judged, and is as good as a new one."""

from __future__ import annotations

import sqlite3
from dataclasses import asdict

import numpy as np
import pytest
import tiny_results
from sqlite_utils import Database
from tiny_results import CACHE, EMBEDDER, ENGINE, PROMPT, USAGE, make_examples, make_explanation

from lite_interp import analysis
from lite_interp.db import cached, caches, studies, trials
from lite_interp.db.file import open_results, read_results
from lite_interp.errors import ResultsError
from lite_interp.firing_codec import pack_firings
from lite_interp.ids import canonical_json
from lite_interp.migrations import APPLICATION_ID, SCHEMA_VERSION, migrations
from lite_interp.records import Usage

NEWER = "m002_all_scorers"
SETTINGS = {"prompt": PROMPT}
OWN = {0: [2.0, 0.0, 1.0, -1.0], 1: [1.0, None, 0.0, 0.0], 2: [0.0, 0.0, 1.0, 2.0]}
CONTROL = [0.0, -2.0, 1.0, 0.0]


@pytest.fixture(autouse=True)
def own_locks(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def insert(db, table, **row):
    names = ", ".join(row)
    db.execute(f"insert into {table} ({names}) values ({', '.join(':' + key for key in row)})", row)


def judge(db, name, explanation, examples, values, **model):
    """A trial with the columns that version 0.1 knew."""
    insert(
        db, "trials", id=name, scorer="detection", settings=canonical_json(SETTINGS),
        explanation_id=explanation.id, example_set_id=examples.id,
        control=int(explanation.latent != examples.latent), prompt_id=PROMPT,
        **USAGE._asdict(), **model,
    )  # fmt: skip
    for placed, value in zip(examples.scored, values, strict=True):
        insert(
            db, "verdicts", trial_id=name, window_id=placed.window.id,
            active=int(placed.window.peak > 0), value=value,
            failure=None if value is not None else "engine: x",
        )  # fmt: skip


def explain(db, examples):
    """An example set and its explanation, with the columns that version 0.1 knew."""
    said = make_explanation(examples)
    studies.store_example_set(db, CACHE, examples)
    row = asdict(said) | {"cache_id": CACHE, "settings": canonical_json(said.settings)}
    del row["detail"]
    insert(db, "explanations", **row, **USAGE._asdict())
    return said


def write_old(path):
    """A file of version 0.1: three latents, each judged on its own windows and on the others'."""
    connection = sqlite3.connect(path, isolation_level=None)
    db = Database(connection)
    db.execute("pragma foreign_keys = on")
    migrations.apply(db, stop_before=NEWER)
    db.execute(f"pragma application_id = {APPLICATION_ID}")
    db.execute("pragma user_version = 1")
    tiny_results.add_cache(db)
    examples = [make_examples(latent, (9.0, 3.0, 2.0, 0.0, 0.0)) for latent in range(3)]
    explanations = [explain(db, each) for each in examples]
    for said in explanations:
        for seen in examples:
            values = OWN[said.latent] if said.latent == seen.latent else CONTROL
            name = f"b2:{said.latent}{seen.latent}"
            judge(db, name, said, seen, values, engine_id=ENGINE)
    judge(db, "b2:cosine", explanations[0], examples[0], [0.0] * 4, embedder_id=EMBEDDER)
    insert(
        db, "scores", explanation_id=explanations[0].id, scorer="detection", settings="{}",
        model_id=ENGINE, variant="raw", statistic="auroc", value=0.75, n_active=2, n_silent=2,
        n_failed=0, n_controls=0,
    )  # fmt: skip
    assert db.execute("pragma foreign_key_check").fetchall() == []
    db.close()
    return examples, explanations


def everything(path, table, *columns):
    with sqlite3.connect(path) as connection:
        found = connection.execute(f"select {', '.join(columns)} from {table}").fetchall()
    connection.close()
    return sorted(found, key=repr)


TRIALS = (
    "id", "scorer", "settings", "explanation_id", "example_set_id", "control", "prompt_id",
    "engine_id", "embedder_id", "prompt_tokens", "output_tokens", "seconds",
)  # fmt: skip
VERDICTS = ("trial_id", "window_id", "active", "value", "failure")
KEPT = {
    "example_sets": "*", "example_set_windows": "*", "windows": "*", "engines": "*",
    "caches": "id, corpus_id, subject_id, coder_id, settings, n_counted, n_masked",
    "explanations": "id, latent, example_set_id, explainer, settings, text, raw, failure",
}  # fmt: skip


def test_trials_and_verdicts_of_an_old_file_are_kept(tmp_path):
    path = tmp_path / "old.db"
    write_old(path)
    before = [everything(path, "trials", *TRIALS), everything(path, "verdicts", *VERDICTS)]
    others = [everything(path, *each) for each in KEPT.items()]
    assert (len(before[0]), len(before[1])) == (10, 40)
    with open_results(path) as db:
        assert db.execute("pragma foreign_keys").fetchone()[0] == 1
        assert db.execute("pragma foreign_key_check").fetchall() == []
        assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
    assert [everything(path, "trials", *TRIALS), everything(path, "verdicts", *VERDICTS)] == before
    assert [everything(path, *each) for each in KEPT.items()] == others
    assert everything(path, "verdicts", "distinct item", "detail") == [("", None)]
    assert everything(path, "scores", "*") == [], "they follow from the verdicts"


def test_an_old_file_has_the_tables_of_a_new_one(tmp_path):
    path, new = tmp_path / "old.db", tmp_path / "new.db"
    write_old(path)
    with open_results(path), open_results(new, create=True) as db:
        tiny_results.add_cache(db)
    schema = "select type, name, sql from sqlite_master where name not like 'sqlite_%' order by 2"
    found = []
    for each in (path, new):
        with sqlite3.connect(each) as connection:
            found.append(connection.execute(schema).fetchall())
            assert connection.execute("pragma user_version").fetchone()[0] == SCHEMA_VERSION
        connection.close()
    assert found[0] == found[1]
    text = " ".join(sql for _, _, sql in found[0] if sql)
    assert "new_" not in text, "a foreign key names a table that was only there on the way"


def test_rows_of_an_old_file_still_point_at_each_other(tmp_path):
    path = tmp_path / "old.db"
    write_old(path)
    with open_results(path) as db:
        for table in ("trials", "windows", "explanations", "example_sets"):
            with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
                db.execute(f"delete from {table}")
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            insert(db, "verdicts", trial_id="b2:none", window_id="b2:none", item="", active=1,
                   value=1.0)  # fmt: skip


def test_scores_of_an_old_file_are_computed_from_its_verdicts(tmp_path):
    path = tmp_path / "old.db"
    examples, _ = write_old(path)
    with open_results(path) as db:
        (row,) = [
            row
            for row in trials.load_trials(
                db, examples[1].id, "detection", canonical_json(SETTINGS), ENGINE
            )
            if not row.control
        ]
        assert {(each.value, each.item, each.detail) for each in row.verdicts} == {
            (1.0, "", None), (None, "", None), (0.0, "", None),
        }  # fmt: skip
        assert row.usage == Usage(*USAGE)
        analysis.write_scores(db, CACHE)
        found = {
            row["latent"]: (row["value"], row["null_value"], row["n_failed"], row["n_controls"])
            for row in trials.load_scores(db, CACHE)
            if row["variant"] == "raw" and row["model_id"] == ENGINE
        }
    # Own: 3 of 4 pairs; without the failed window 2 of 2; none of 4. Controls: 0 < 1 and −2 < 0,
    # a tie of 0 and 0: ½ of 4, or of 2 when the window with −2 is left out.
    assert found == {0: (0.75, 0.125, 0, 2), 1: (1.0, 0.25, 1, 2), 2: (0.0, 0.125, 0, 2)}


def test_an_old_file_is_read_only_after_it_was_brought_up_to_date(tmp_path):
    path = tmp_path / "old.db"
    write_old(path)
    before = path.read_bytes()
    with (
        pytest.raises(ResultsError, match="written by an older version") as caught,
        read_results(path),
    ):
        pass
    assert "brings it up to date" in (caught.value.hint or "")
    assert path.read_bytes() == before
    with open_results(path):
        pass
    with read_results(path) as db:
        assert db.execute("select count(*) from trials").fetchone()[0] == 10


def test_a_migration_that_is_killed_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "old.db"
    write_old(path)
    before = everything(path, "verdicts", *VERDICTS)
    real = migrations._record_applied

    def stop(db, name):
        if name == NEWER:
            raise KeyboardInterrupt
        real(db, name)

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "_record_applied", lambda db, *names: stop(db, *names[:1]))
        with pytest.raises(KeyboardInterrupt), open_results(path):
            pass
    assert everything(path, "verdicts", *VERDICTS) == before
    assert everything(path, "scores", "value") == [(0.75,)]
    with open_results(path):
        pass
    assert everything(path, "verdicts", *VERDICTS) == before


def test_firings_of_an_old_file_are_found_by_their_new_keys(tmp_path):
    path = tmp_path / "old.db"
    write_old(path)
    places, values = np.array([3, 9]), np.array([4.0, 0.5], np.float32)
    with sqlite3.connect(path) as connection:
        db = Database(connection)
        tiny_results.store_corpus(db)
        for shard in range(3):
            insert(
                db, "cache_shards", cache_id=CACHE, shard=shard, n_firings=2, n_counted=16,
                n_masked="{}", seconds=0.5,
            )  # fmt: skip
            blob = pack_firings(places + shard, values)
            insert(db, "firings", cache_id=CACHE, shard=shard, latent=2, packed=blob)
    connection.close()
    with open_results(path) as db:
        (cache,) = caches.load_caches(db)
        found = cached.load_firings(db, cache, 2)
        assert cached.pending_shards(db, cache) == []
        assert dict(cached.iterate_firings(db, cache)).keys() == {2}
    # Two contexts of eight tokens in each shard.
    assert found.contexts.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.positions.tolist() == [3, 1, 4, 2, 5, 3]
    assert found.values.tolist() == [4.0, 0.5] * 3


def test_an_old_file_is_not_left_with_holes(tmp_path):
    path = tmp_path / "old.db"
    write_old(path)
    with sqlite3.connect(path) as connection:
        connection.execute("create table more as select zeroblob(4000000) as data")
        connection.execute("drop table more")
    connection.close()
    before = path.stat().st_size
    with open_results(path) as db:
        assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
    assert path.stat().st_size < before / 2
