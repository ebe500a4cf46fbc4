import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tiny_results
from tiny_results import CACHE, CORPUS

from lite_interp import firing_codec
from lite_interp.db import cached, file
from lite_interp.db.file import add, open_results, read_results
from lite_interp.db.runs import open_run
from lite_interp.errors import ResultsError, UsageError
from lite_interp.migrations import (
    APPLICATION_ID,
    FIRST_SCHEMA,
    SCHEMA_VERSION,
    TABLES,
    migrations,
)

SHM, WAL, JOURNAL = "-shm", "-wal", "-journal"


@pytest.fixture(autouse=True)
def own_locks(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def path(tmp_path):
    """Where a results file may be made; nothing else is in its folder."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / "results.db"


def write(path, name="b2:corpus"):
    """One committed row, in a file that is made if it is not there."""
    with open_results(path, create=True) as db:
        add(db, "corpora", {**asdict(CORPUS), "id": name})


def corpora(path):
    with read_results(path) as db:
        return [row[0] for row in db.execute("select id from corpora order by id")]


def beside(path):
    return sorted(os.listdir(path.parent))


@contextmanager
def refused(message, hint=True):
    """One printable line that says this, and a hint unless there is nothing to mend."""
    with pytest.raises(ResultsError, match=message) as caught:
        yield
    assert str(caught.value).isprintable()
    assert caught.value.exit_code == 4
    assert bool(caught.value.hint) or not hint


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# The file itself


def test_a_file_at_rest_is_one_file_in_no_special_mode(path):
    write(path)
    assert beside(path) == ["results.db"]
    # Bytes 18 and 19 of the header: 1 = rollback journal, 2 = write-ahead log.
    assert path.read_bytes()[18:20] == b"\x01\x01"


def test_a_file_says_whose_it_is_and_of_which_version(path):
    write(path)
    data = path.read_bytes()
    # SQLite's file format, section 1.3: application id at 68, user version at 60, page size at 16.
    assert data[68:72] == b"LITE" == APPLICATION_ID.to_bytes(4, "big")
    assert int.from_bytes(data[60:64], "big") == SCHEMA_VERSION == 8
    assert int.from_bytes(data[16:18], "big") == file.PAGE_SIZE
    assert len(migrations._migrations) == SCHEMA_VERSION


def test_while_it_is_written_it_is_in_wal_mode_and_safe_against_a_power_cut(path):
    with open_results(path, create=True) as db:
        found = {
            name: db.execute(f"pragma {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
        add(db, "corpora", asdict(CORPUS))
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}  # 2 = full


def test_reading_a_file_changes_no_byte_of_it(path):
    write(path)
    before = digest(path)
    assert corpora(path) == ["b2:corpus"]
    assert (digest(path), beside(path)) == (before, ["results.db"])


def test_what_was_committed_is_kept_when_a_bug_ends_the_run(path):
    with pytest.raises(ZeroDivisionError), open_results(path, create=True) as db:
        add(db, "corpora", asdict(CORPUS))
        with db.atomic():
            add(db, "corpora", {**asdict(CORPUS), "id": "b2:half"})
            raise ZeroDivisionError
    assert corpora(path) == ["b2:corpus"]
    assert beside(path) == ["results.db"]


@pytest.mark.parametrize("error", [UsageError("no"), KeyboardInterrupt(), ZeroDivisionError()])
def test_a_new_file_to_which_nothing_was_written_is_not_left_behind(path, error):
    with pytest.raises(type(error)), open_run(path, "cache", create=True):
        raise error
    assert beside(path) == []


def test_a_file_that_was_there_before_is_kept_though_nothing_is_in_it(path):
    path.touch()
    with pytest.raises(UsageError), open_results(path):
        raise UsageError("no")
    assert beside(path) == ["results.db"]


@pytest.mark.parametrize(
    "name",
    [
        "a?b#c%41.db", "with space.db", "ümlaut.db", "quote'\".db", "-dash.db", "line\nbreak.db",
        "file:x.db?mode=memory", ":memory:", "%00.db", os.fsdecode(b"\xff.db"), "\x1b[2J.db",
    ],
)  # fmt: skip
def test_files_with_odd_names_are_written_and_read(path, name, monkeypatch):
    path = path.with_name(name)
    write(path)
    assert corpora(path) == ["b2:corpus"]
    assert beside(path) == [name]
    # The same with a relative path, which is how people name it.
    monkeypatch.chdir(path.parent)
    write(Path(name), "b2:second")
    assert corpora(Path(name)) == ["b2:corpus", "b2:second"]
    assert beside(path) == [name]
    with refused("no such results file"), read_results(path.with_name(name + "x")):
        pass


def test_a_link_to_a_file_is_followed_and_locked_as_the_file(path):
    write(path)
    link = path.with_name("link.db")
    link.symlink_to(path)
    assert corpora(link) == ["b2:corpus"]
    with open_results(path), refused("another process is writing"), open_results(link):
        pass


# What is refused


def test_a_file_that_is_not_there_is_not_made_unless_wanted(path):
    for use in (open_results, read_results):
        with refused("no such results file: .*results.db"), use(path):
            pass
    assert beside(path) == []


def test_a_folder_that_is_not_there_is_not_made(path):
    missing = path.parent / "none" / "results.db"
    with refused("no such folder: .*none$"), open_results(missing, create=True):
        pass
    assert beside(path) == []


def test_a_folder_is_no_file(path):
    for use in (open_results, read_results):
        with refused("a folder, not a results file", hint=False), use(path.parent):
            pass


def test_a_name_that_is_too_long_is_refused_in_one_line(path):
    with refused("cannot be read"), open_results(path.with_name("x" * 5000), create=True):
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04",
        b"text\n" * 99,
        b"\x00",
        b"SQLite format 3",
        b"SQLite format 3\x01" + bytes(99),
    ],
)
def test_what_is_no_sqlite_file_is_refused_and_left_alone(path, data):
    path.write_bytes(data)
    for use in (open_results, read_results):
        with refused("not a results file of lite-interp", hint=False), use(path):
            pass
    assert path.read_bytes() == data
    assert beside(path) == ["results.db"]


@pytest.mark.parametrize(
    "statement", ["create table t (x)", "pragma application_id = 7", "pragma application_id = -1"]
)
def test_a_sqlite_file_of_another_program_is_refused_and_left_alone(path, statement):
    with sqlite3.connect(path) as other:
        other.execute(statement)
    other.close()
    before = digest(path)
    for use in (open_results, read_results):
        with refused("a SQLite file of another program"), use(path):
            pass
    assert digest(path) == before
    assert beside(path) == ["results.db"]


def test_a_file_of_a_newer_version_is_refused_and_left_alone(path):
    write(path)
    with sqlite3.connect(path) as newer:
        newer.execute(f"pragma user_version = {SCHEMA_VERSION + 1}")
    newer.close()
    before = digest(path)
    for use in (open_results, read_results):
        with (
            refused(f"has schema {SCHEMA_VERSION + 1}, this version knows {SCHEMA_VERSION}"),
            use(path),
        ):
            pass
    assert digest(path) == before
    assert beside(path) == ["results.db"]


def test_an_empty_file_can_be_written_but_has_nothing_to_read(path):
    path.touch()
    with refused("an empty file", hint=False), read_results(path):
        pass
    write(path)
    assert corpora(path) == ["b2:corpus"]


def test_a_damaged_file_is_one_line(path):
    with open_results(path, create=True) as db, db.atomic():
        for number in range(2000):
            add(db, "corpora", {**asdict(CORPUS), "id": f"b2:{number:05}"})
    data = bytearray(path.read_bytes())
    assert len(data) > 8 * file.PAGE_SIZE
    data[file.PAGE_SIZE :] = random.Random(0).randbytes(len(data) - file.PAGE_SIZE)
    path.write_bytes(data)
    with refused("the file is damaged"), read_results(path) as db:
        db.execute("select sum(length(name)) from corpora").fetchone()


def test_a_sqlite_without_strict_tables_is_too_old(path, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 9))
    with refused("SQLite is too old"), open_results(path, create=True):
        pass
    assert beside(path) == []


def test_a_bug_in_our_sql_is_not_dressed_up_as_the_users_mistake(path):
    write(path)
    with pytest.raises(sqlite3.OperationalError, match="no such table"), open_results(path) as db:
        db.execute("select * from latens")


def test_the_lock_needs_a_place(path, tmp_path, monkeypatch):
    (tmp_path / "occupied").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "occupied"))
    with refused("no place for a lock"), open_results(path, create=True):
        pass
    assert beside(path) == []


# Read-only files


def test_a_file_without_the_right_to_write_can_be_read_and_not_written(path, monkeypatch):
    # Root may write anything, so the right is taken away where it is asked for.
    write(path)
    before = digest(path)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with refused("the file is read-only"), open_results(path):
        pass
    assert corpora(path) == ["b2:corpus"]
    assert (digest(path), beside(path)) == (before, ["results.db"])


def test_sqlites_own_word_for_read_only_is_one_line(path):
    write(path)
    with refused("the file is read-only"), open_results(path) as db:
        db.execute("pragma query_only = on")
        add(db, "corpora", {**asdict(CORPUS), "id": "b2:second"})


def test_who_reads_cannot_write(path):
    write(path)
    with refused("the file is read-only"), read_results(path) as db:
        db.execute("delete from corpora")
    assert corpora(path) == ["b2:corpus"]


# Several processes

CHILD = """
import sys, time
from dataclasses import asdict
from pathlib import Path
from tiny_results import CORPUS
from lite_interp.db import file
from lite_interp.db.file import add, open_results

def stop():
    print("ready", flush=True)
    time.sleep(60)

def writing(path):
    with open_results(path, create=True) as db:
        add(db, "corpora", asdict(CORPUS))
        db.execute("pragma cache_size = 5")  # pages; what is not committed spills into the log
        with db.atomic():
            for number in range(2000):
                add(db, "corpora", {**asdict(CORPUS), "id": f"b2:half{number}"})
            stop()

def creating(path):
    record = file.migrations._record_applied
    file.migrations._record_applied = lambda *arguments: (record(*arguments), stop())
    with open_results(path, create=True):
        pass

globals()[sys.argv[1]](Path(sys.argv[2]))
"""


@contextmanager
def child(what, path):
    """Another process that has come as far as `stop` and stays there; killed in the end."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, what, path], stdout=subprocess.PIPE, env=environment
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_a_second_writer_is_refused_while_a_reader_reads_and_a_killed_writer_leaves_a_whole_file(
    path,
):
    with child("writing", path):
        started = time.monotonic()
        with refused("another process is writing to this file"), open_results(path):
            pass
        assert time.monotonic() - started < 5
        assert corpora(path) == ["b2:corpus"]
        assert path.with_name(path.name + WAL).stat().st_size > 100_000
    # Killed with 2,000 rows written to the log and not committed.
    assert corpora(path) == ["b2:corpus"]
    write(path, "b2:second")
    assert corpora(path) == ["b2:corpus", "b2:second"]
    assert beside(path) == ["results.db"]
    with read_results(path) as db:
        assert db.execute("pragma integrity_check").fetchone()[0] == "ok"


def test_a_file_whose_maker_was_killed_before_the_schema_was_whole_can_still_be_made(path):
    with child("creating", path):
        pass
    with refused("an empty file", hint=False), read_results(path):
        pass
    write(path)
    assert corpora(path) == ["b2:corpus"]
    assert beside(path) == ["results.db"]


def test_a_writer_does_not_wait_long_for_a_reader_when_it_is_done(path):
    for name in ("b2:0", "b2:1", "b2:2"):
        write(path, name)
    with read_results(path) as reader:
        with open_results(path) as db:
            rows = reader.execute("select id from corpora")
            rows.fetchone()
            add(db, "corpora", {**asdict(CORPUS), "id": "b2:second"})
            started = time.monotonic()
        assert time.monotonic() - started < 5
        rows.close()
        # What was written while it read is there for the next question.
        assert reader.execute("select count(*) from corpora").fetchone()[0] == 4
    write(path, "b2:third")
    assert beside(path) == ["results.db"]


def test_someone_elses_lock_is_one_line(path, monkeypatch):
    write(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin exclusive")
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *arguments, **named: connect(*arguments, timeout=0, **named)
    )
    with refused("another process is using this file"), read_results(path):
        pass
    other.close()


# A full disk


def fill(path, n_rows=900):
    """Rows of 10 kB, each committed by itself."""
    with open_results(path, create=True) as db:
        add(db, "corpora", asdict(CORPUS))
        yield db
        for number in range(n_rows):
            add(db, "prompts", {"id": f"b2:{number:05}", "name": "p", "text": "x" * 10_000})


def n_prompts(path):
    with read_results(path) as db:
        assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
        return db.execute("select count(*) from prompts").fetchone()[0]


def test_a_full_disk_is_one_line_and_keeps_what_was_committed(path):
    with refused("the disk is full"):
        for db in fill(path):
            pages = db.execute("pragma page_count").fetchone()[0]
            db.execute(f"pragma max_page_count = {pages + 20}")
    # 20 pages of 16 KiB, and a row of 10 kB takes one whole, if no two share one.
    n = n_prompts(path)
    assert 15 <= n <= 33
    assert beside(path) == ["results.db"]
    with open_results(path) as db:  # there is room again
        add(db, "prompts", {"id": "b2:more", "name": "p", "text": "x" * 10_000})
    assert n_prompts(path) == n + 1


def test_a_disk_that_is_full_before_the_schema_is_there_leaves_no_file(path, monkeypatch):
    def apply(db):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(migrations, "apply", apply)
    with refused("the disk is full"), open_results(path, create=True):
        pass
    assert beside(path) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB in memory; skipped where mounting one is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    with suppress(FileNotFoundError):
        if os.geteuid() == 0 and not subprocess.run(mount, capture_output=True).returncode:
            yield folder
            subprocess.run(["umount", "-l", str(folder)], check=True)
            return
    pytest.skip("mounting a small file system is not allowed here")


def test_a_real_disk_that_fills_up_is_one_line_and_keeps_what_was_committed(small_disk):
    path = small_disk / "results.db"
    with refused("the disk"):
        for _ in fill(path):
            pass
    n = n_prompts(path)
    assert n > 40
    with suppress(ResultsError):
        write(path, "b2:second")  # may or may not fit; the file stays whole
    assert n_prompts(path) == n


def test_a_real_disk_without_any_room_leaves_no_file(small_disk):
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)):
            pass
    with refused("the disk"), open_results(small_disk / "results.db", create=True) as db:
        add(db, "corpora", asdict(CORPUS))
    assert os.listdir(small_disk) == ["filler"]


def test_a_read_only_disk_can_be_read_and_not_written(small_disk):
    path = small_disk / "results.db"
    write(path)
    with sqlite3.connect(path) as other:  # as a writer leaves it while others read
        other.execute("pragma journal_mode = wal")
    other.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with refused("the file is read-only"), open_results(path):
        pass
    with refused("cannot be opened|read-only"), open_results(small_disk / "new.db", create=True):
        pass
    assert corpora(path) == ["b2:corpus"]
    assert os.listdir(small_disk) == ["results.db"]


# The schema


def schema():
    return tiny_results.memory()


def test_every_table_has_a_sentence_and_every_sentence_a_table():
    # What a virtual table keeps its index in is no table of ours.
    found = schema().execute(
        "select name from pragma_table_list where type in ('table', 'virtual')"
    )
    tables = {name for (name,) in found if not name.startswith(("_", "sqlite_"))}
    assert tables == TABLES.keys()
    assert all(text.endswith(".") for text in TABLES.values())


def test_every_table_is_strict_and_has_a_key():
    db = schema()
    for table in TABLES:
        strict, kind = db.execute(
            "select strict, type from pragma_table_list where name = ?", [table]
        ).fetchone()
        assert strict == 1 or kind == "virtual", table
    assert "create table" in FIRST_SCHEMA


def test_a_text_in_a_column_of_numbers_is_refused():
    with pytest.raises(sqlite3.IntegrityError, match="cannot store TEXT"):
        add(schema(), "corpora", {**asdict(CORPUS), "id": "b2:x", "n_ctx": "many"})


def test_every_foreign_key_names_a_table_and_its_key():
    db = schema()
    assert db.execute("pragma foreign_key_check").fetchall() == []
    assert db.execute("pragma integrity_check").fetchone()[0] == "ok"


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("caches", {"id": "x", "corpus_id": "none", "subject_id": "b2:subject",
                    "coder_id": "b2:coder", "settings": {}}),
        ("example_sets", {"id": "x", "cache_id": "none", "latent": 0, "sampler": "top",
                          "settings": {}, "seed": 0}),
        ("cache_shards", {"cache_id": "none", "shard": 0, "n_firings": 0, "n_counted": 0,
                          "n_masked": {}, "seconds": 0.5}),
        ("verdicts", {"trial_id": "none", "window_id": "none", "item": "", "active": 1,
                      "value": 0.5}),
    ],
)  # fmt: skip
def test_a_row_whose_parent_is_missing_is_refused(table, row):
    db = schema()
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        db.execute(
            f"insert into {table} ({', '.join(row)}) values ({', '.join(':' + k for k in row)})",
            {k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()},
        )
    assert db.execute(f"select count(*) from {table}").fetchone()[0] == (table == "caches")


def test_a_row_that_is_there_is_not_written_again():
    db = schema()
    add(db, "engines", {"id": tiny_results.ENGINE, "name": "another", "provenance": {}})
    assert db.execute("select name from engines").fetchall() == [("e",)]


def test_a_row_that_breaks_another_rule_is_not_silently_left_out():
    with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
        add(schema(), "engines", {"id": "b2:new", "name": None, "provenance": {}})


def test_settings_are_stored_in_their_canonical_form():
    db = schema()
    add(db, "engines", {"id": "b2:new", "name": "é", "provenance": {"b": [1, 2], "a": "é"}})
    row = db.execute("select provenance from engines where id = 'b2:new'").fetchone()
    assert row[0] == '{"a":"é","b":[1,2]}'


def test_a_firing_costs_less_than_three_bytes_and_a_half_in_the_file(path):
    # 400 latents on one shard of 256 contexts of 128 tokens: what stands around a blob counts too.
    draw = np.random.default_rng(0)
    packed, n_firings = [], 0
    for latent in range(400):
        places = np.flatnonzero(draw.random(32768) < draw.uniform(0.005, 0.01))
        values = draw.lognormal(0, 1, len(places)).astype(np.float32)
        packed.append((latent, firing_codec.pack_firings(places, values)))
        n_firings += len(places)
    with open_results(path, create=True) as db:
        tiny_results.add_cache(db)
    before = path.stat().st_size
    row = {"cache_id": CACHE, "shard": 0, "n_firings": n_firings, "n_counted": 32768}
    with open_results(path) as db:
        cached.store_cache_shard(db, {**row, "n_masked": {}, "seconds": 1.0}, packed)
    assert (path.stat().st_size - before) / n_firings < 3.5


# Runs


def runs(path):
    with read_results(path) as db:
        return list(db.query("select * from runs order by id"))


def run(path, error=None):
    with open_run(path, "cache", create=True) as db:
        tiny_results.add_cache(db)
        if error is not None:
            raise error


def test_a_run_says_who_wrote_with_what_and_when(path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lite-interp", "cache", "ü?.db", os.fsdecode(b"\xff")])
    run(path)
    (row,) = runs(path)
    assert (row["command"], row["outcome"]) == ("cache", "done")
    assert json.loads(row["argv"]) == ["cache", "ü?.db", "\\xff"]
    assert {"python", "sqlite", "lite-interp", "torch", "numpy"} <= json.loads(
        row["versions"]
    ).keys()
    assert {"system", "processor", "cores"} == json.loads(row["machine"]).keys()
    assert row["started_utc"] <= row["ended_utc"]
    assert row["ended_utc"].endswith("+00:00")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (UsageError("no engine is named"), "failed: no engine is named"),
        (ZeroDivisionError("by\nzero\x1b"), "failed: ZeroDivisionError: by zero"),
        (ValueError("x" * 999), "failed: ValueError: " + "x" * 300),
    ],
)
def test_a_run_says_how_it_ended_and_the_error_goes_on(path, error, outcome):
    with pytest.raises(type(error)):
        run(path, error)
    assert [row["outcome"] for row in runs(path)] == [outcome]
    assert runs(path)[0]["ended_utc"]


def test_a_run_that_ends_on_a_full_disk_is_reported_as_that(path):
    run(path)
    with refused("the disk is full"), open_run(path, "score") as db:
        pages = db.execute("pragma page_count").fetchone()[0]
        db.execute(f"pragma max_page_count = {pages}")
        for number in range(99):
            add(db, "prompts", {"id": f"b2:{number}", "name": "p", "text": "x" * 1000})
    assert [row["command"] for row in runs(path)] == ["cache", "score"]


def test_the_reason_why_a_run_failed_is_not_hidden_by_a_file_that_cannot_be_written(path):
    run(path)
    with pytest.raises(UsageError, match="the reason"), open_run(path, "score") as db:
        db.execute("pragma query_only = on")
        raise UsageError("the reason")
    with refused("the file is read-only"), open_run(path, "score") as db:
        db.execute("pragma query_only = on")
    assert [row["outcome"] for row in runs(path)] == ["done", None, None]
