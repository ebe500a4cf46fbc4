"""Parts make the whole, in any order; nothing is lost, nothing of strangers is run."""

import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_results
import tiny_study
from test_migrations import write_old
from test_score_pipeline import Judge
from tiny_results import CACHE, USAGE, make_examples, make_trial, store_latent
from typer.testing import CliRunner

from lite_interp import reservoir, study
from lite_interp.cli import app
from lite_interp.db import caches, merging, studies, trials
from lite_interp.db.conditions import ConditionRow, load_conditions, store_condition
from lite_interp.db.file import add, open_results, read_results
from lite_interp.db.merging_caches import CacheState
from lite_interp.db.runs import open_run
from lite_interp.errors import LiteInterpError, ResultsError, UsageError
from lite_interp.explain_pipeline import ExplainJob, explain_latents
from lite_interp.firing_codec import pack_firings
from lite_interp.merge import CachePlan, merge_files, plan_cache
from lite_interp.migrations import SCHEMA_VERSION
from lite_interp.pipeline import cache_corpus
from lite_interp.score_pipeline import ScoreJob, score_explanations
from lite_interp.study import making

COSTS = ("prompt_tokens", "output_tokens", "tokens")


@pytest.fixture(autouse=True)
def own_locks(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def merged(results, *others, **settings):
    told = tiny_study.Told()
    outcome = merge_files(Path(results), [Path(each) for each in others], told, **settings)
    return outcome, told


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def everything(path, without=()):
    """All rows, with firings by the id of their cache instead of its number here."""
    rows = tiny_study.dump(path, without={"number", "key", "cache", *without})
    with closing(sqlite3.connect(path)) as db:
        rows["firings"] = sorted(
            db.execute(
                """select caches.id, firings.shard, latent, packed
                   from firings join caches on number = cache"""
            ).fetchall()
        )
        assert db.execute("select count(*) from firings").fetchone()[0] == len(rows["firings"])
        assert db.execute("pragma foreign_key_check").fetchall() == []
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
    return rows


def table(path, name, *columns):
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"select {', '.join(columns) or '*'} from {name}").fetchall()


def change(path, *statements):
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


# Caches


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return tiny_study.write_parts(tmp_path_factory.mktemp("parts"))


def make_small(patch):
    """Eight contexts a shard, and few windows in a reservoir."""
    patch.setattr(making, "SHARD_TOKENS", 8 * tiny_study.N_CTX)
    patch.setattr(reservoir, "N_TOP", 2)
    patch.setattr(reservoir, "N_SAMPLE", 3)
    patch.setattr(reservoir, "N_COMMON", 4)


@pytest.fixture
def small(monkeypatch):
    make_small(monkeypatch)


@pytest.fixture(scope="module")
def cut(parts, tmp_path_factory):
    """A corpus cached whole and in parts: (keep, index, n) → file."""
    folder, files = tmp_path_factory.mktemp("cut"), {}
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        for keep, n in itertools.product(("all", "reservoir"), (1, 2, 3)):
            for index in range(1, n + 1):
                path = files[keep, index, n] = folder / f"{keep}-{index}-{n}.db"
                job = tiny_study.cache_job(parts, keep=keep)
                cache_corpus(path, job, tiny_study.Told(), part=(index, n))
    return files


def finish(path, parts, keep):
    told = tiny_study.Told()
    cache_corpus(path, tiny_study.cache_job(parts, keep=keep), told)
    assert told.totals == {"caching": 0}


@pytest.mark.parametrize("keep", ["all", "reservoir"])
@pytest.mark.parametrize("order", [(1, 2), (2, 1), *itertools.permutations((1, 2, 3))])
def test_parts_in_any_order_are_the_whole(cut, parts, tmp_path, small, keep, order):
    path = tmp_path / "merged.db"
    files = [cut[keep, index, len(order)] for index in order]
    before = [digest(each) for each in files]
    outcome, told = merged(path, *files)
    assert [digest(each) for each in files] == before
    assert "all shards are here but not counted" in outcome.notes[0]
    assert outcome.notes[0] in told.lines
    finish(path, parts, keep)
    assert everything(path) == everything(cut[keep, 1, 1])
    # And one that is merged again adds nothing.
    outcome, _ = merged(path, *files)
    assert everything(path) == everything(cut[keep, 1, 1])
    assert not [each for each in outcome.files if any(rows.n_new for rows in each.tables.values())]
    assert outcome.notes == []


@pytest.mark.parametrize("keep", ["all", "reservoir"])
@pytest.mark.parametrize("whole_first", [True, False])
def test_a_complete_cache_beats_its_parts(cut, tmp_path, keep, whole_first):
    order = [cut[keep, 1, 1], cut[keep, 2, 3]]
    path = tmp_path / "merged.db"
    outcome, _ = merged(path, *(order if whole_first else order[::-1]))
    assert everything(path) == everything(cut[keep, 1, 1])
    assert outcome.notes == [] and table(path, "conflicts") == []


def test_a_part_that_is_missing_is_told(cut, tmp_path):
    outcome, _ = merged(tmp_path / "merged.db", cut["all", 1, 3], cut["all", 3, 3])
    n = len(table(cut["all", 1, 1], "cache_shards"))
    assert f"{len(range(1, n, 3))} of {n} shards are not in this file" in outcome.notes[0]


def test_caches_of_two_kinds_stay_apart_and_get_numbers_of_their_own(cut, tmp_path):
    whole, thin = cut["all", 1, 1], cut["reservoir", 1, 1]
    found = []
    for number, order in enumerate([(whole, thin), (thin, whole)]):
        path = tmp_path / f"{number}.db"
        merged(path, *order)
        found.append(everything(path))
        assert sorted(table(path, "caches", "number")) == [(1,), (2,)]
    assert found[0] == found[1]
    both = everything(whole)["firings"] + everything(thin)["firings"]
    assert found[0]["firings"] == sorted(both)
    with read_results(path) as db, pytest.raises(UsageError, match="several caches fit"):
        caches.the_cache(db)


def change_firing(path):
    """Another answer in the first shard."""
    blob = pack_firings(np.array([1]), np.array([9.0], np.float32)).hex()
    change(
        path,
        f"update firings set packed = x'{blob}' where key = (select min(key) from firings)",
    )


@pytest.mark.parametrize("turned", [False, True])
def test_a_shard_with_other_firings_is_a_conflict_and_its_statistics_are_not_mixed(
    cut, parts, tmp_path, small, turned
):
    part, whole = tmp_path / "part.db", tmp_path / "whole.db"
    shutil.copy(cut["all", 1, 2], part)
    shutil.copy(cut["all", 1, 1], whole)
    change_firing(whole)
    ((key, theirs),) = table(whole, "(select key, packed from firings order by key limit 1)")
    ours = table(part, f"firings where key = {key}", "packed")[0][0]
    target, other = (whole, part) if turned else (part, whole)
    outcome, _ = merged(target, other)
    ((name, question, answer),) = table(target, "conflicts", "table_name", "key", "other")
    assert name == "firings"
    assert json.loads(question) == {
        "cache_id": table(whole, "caches", "id")[0][0], "shard": 0, "latent": key & 0xFFFFFF,
    }  # fmt: skip
    assert bytes.fromhex(json.loads(answer)["packed"]) == (ours if turned else theirs)
    assert table(target, f"firings where key = {key}", "packed") == [(theirs if turned else ours,)]
    assert "disagree" in outcome.files[0].notes[0]
    if not turned:
        assert table(target, "latents") == [] and "not counted" in outcome.notes[0]
        finish(target, parts, "all")
        expected = everything(cut["all", 1, 1])
        assert {**everything(target), "conflicts": []} == {**expected, "conflicts": []}


def test_shards_that_disagree_with_a_reservoir_are_left(cut, tmp_path):
    path, thin = tmp_path / "part.db", tmp_path / "thin.db"
    shutil.copy(cut["reservoir", 1, 2], path)
    shutil.copy(cut["reservoir", 1, 1], thin)
    change(thin, "update cache_shards set n_firings = n_firings + 1 where shard = 0")
    before = everything(path)
    outcome, _ = merged(path, thin)
    assert "it is left out" in outcome.files[0].notes[0]
    assert {**everything(path), "conflicts": []} == before
    assert [row[0] for row in table(path, "conflicts")] == ["cache_shards"]


def test_a_cache_of_other_spans_or_another_cut_is_not_mixed(cut, tmp_path):
    path, other = tmp_path / "part.db", tmp_path / "other.db"
    for statement, word in (
        ("update caches set span = 2", "its shards hold 2"),
        ("update context_shards set n_contexts = n_contexts + 1 where shard = 0", "is cut into"),
    ):
        shutil.copy(cut["all", 1, 2], path)
        shutil.copy(cut["all", 2, 2], other)
        change(
            other,
            "delete from firings where shard > 1",
            "delete from cache_shards where shard > 1",
            "update firings set key = key - (1 << 24)",
            "update cache_shards set shard = 0",
            statement,
        )
        before = everything(path)
        outcome, _ = merged(path, other)
        assert word in outcome.files[0].notes[0]
        assert {**everything(path), "conflicts": []} == before


def test_a_cache_that_was_only_begun_takes_the_spans_of_the_other(cut, tmp_path):
    path, other = tmp_path / "begun.db", tmp_path / "other.db"
    shutil.copy(cut["all", 1, 2], path)
    change(path, "delete from firings", "delete from cache_shards", "update caches set span = 2")
    shutil.copy(cut["all", 1, 1], other)
    outcome, _ = merged(path, other)
    assert outcome.files[0].notes == []
    assert everything(path) == everything(other)


def test_directions_of_windows_are_taken_if_the_corpus_is_cut_alike(cut, tmp_path):
    path, other = tmp_path / "part.db", tmp_path / "other.db"
    shutil.copy(cut["all", 2, 2], other)
    with open_results(other) as db:
        add(db, "embedders", {"id": "b2:e", "name": "e", "provenance": {}})
        corpus = db.execute("select id from corpora").fetchone()[0]
        for shard in (0, 1):
            row = {"corpus_id": corpus, "width": 8, "embedder_id": "b2:e", "shard": shard}
            add(db, "window_vectors", {**row, "vectors": b"v"})
    for statement, n in (
        ("select 1", 2),
        ("update context_shards set n_contexts = n_contexts + 1 where shard = 0", 0),
    ):
        shutil.copy(cut["all", 1, 2], path)
        change(other, statement)
        merged(path, other)
        assert len(table(path, "window_vectors")) == n


def test_a_copy_without_firings_gets_them_but_does_not_take_them_away(cut, tmp_path):
    whole, bare = cut["all", 1, 1], tmp_path / "bare.db"
    shutil.copy(whole, bare)
    change(bare, "delete from firings")
    one = tmp_path / "one.db"
    merged(one, bare)
    assert table(one, "firings") == [] and len(table(one, "latents")) == 32
    merged(one, whole)
    assert everything(one) == everything(whole)
    merged(one, bare)
    assert everything(one) == everything(whole)
    part = tmp_path / "part.db"
    shutil.copy(cut["all", 1, 2], part)
    outcome, _ = merged(part, bare)
    assert "without firings" in outcome.files[0].notes[0]
    assert everything(part) == everything(cut["all", 1, 2])


def state(**changes):
    plain = CacheState("b2:c", 1, 1, False, 3, True, False, "c on t")
    return plain._replace(**changes)


@pytest.mark.parametrize(
    ("ours", "theirs", "shards", "statistics", "note"),
    [
        ({}, {}, True, True, ""),
        ({"n_shards": 0, "has_firings": False}, {"span": 8}, True, True, ""),
        ({}, {"span": 8}, False, False, "8 of the corpus's there and 1 here"),
        ({"is_counted": True, "is_thinned": True}, {}, False, True, ""),
        ({}, {"is_counted": True, "has_firings": False}, False, False, "without firings"),
        ({"is_counted": True, "has_firings": False}, {}, False, False, "without firings"),
        ({"is_counted": True, "has_firings": False}, {"is_counted": True}, True, True, ""),
    ],
)
def test_what_is_taken_of_a_cache(ours, theirs, shards, statistics, note):
    plan = plan_cache(state(**ours), state(**theirs), is_foreign=False)
    assert (plan.shards, plan.statistics) == (shards, statistics)
    assert note in plan.note and bool(note) == bool(plan.note)
    assert not plan_cache(state(**ours), state(**theirs), is_foreign=True).shards
    assert isinstance(plan, CachePlan)


# A study


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A study; and files in which four latents are cached, explained and scored in one go."""
    folder = tmp_path_factory.mktemp("study")
    whole = study.read_study(tiny_study.write_study(folder))
    files = {name: folder / f"{name}.db" for name in ("cached", "explained", "scored")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "locks"))
        tiny_study.use_engine(patch, Judge())
        job = tiny_study.cache_job(
            tiny_study.Parts(
                folder / "subject", folder / "coder" / "layers.1", folder / "corpus.jsonl"
            )
        )
        cache_corpus(files["cached"], job, tiny_study.Told())
        shutil.copy(files["cached"], files["explained"])
        latents = explain(files["explained"], whole)
        shutil.copy(files["explained"], files["scored"])
        score(files["scored"], whole)
    return files, whole, latents


def explain(path, whole, indices=()):
    section = whole.latents.model_copy(update={"indices": tuple(indices)})
    job = ExplainJob(
        whole.seed, section, whole.examples, whole.engine, whole.explain, whole.subject.model,
        whole.coder.path,
    )  # fmt: skip
    return explain_latents(path, "", job, tiny_study.Told()).latents


def score(path, whole, latents=()):
    section = whole.score.model_copy(update={"scorers": ("all",), "kl": (0.1,), "oracles": True})
    score_explanations(path, "", ScoreJob(whole.engine, section, latents), tiny_study.Told())


@pytest.mark.parametrize("turned", [False, True])
def test_a_study_that_is_split_by_latents_has_the_scores_of_the_whole(
    studied, tmp_path, monkeypatch, turned
):
    files, whole, latents = studied
    tiny_study.use_engine(monkeypatch, Judge())
    halves = [tmp_path / "one.db", tmp_path / "two.db"]
    for path, some in zip(halves, (latents[:1], latents[1:]), strict=True):
        shutil.copy(files["cached"], path)
        explain(path, whole, some)
    explained = tmp_path / "explained.db"
    merged(explained, *(halves[::-1] if turned else halves))
    assert everything(explained, COSTS) == everything(files["explained"], COSTS)
    for path, some in zip(halves, (latents[:1], latents[1:]), strict=True):
        shutil.copy(explained, path)
        score(path, whole, some)
    assert everything(halves[0], COSTS)["scores"] != everything(files["scored"], COSTS)["scores"]
    scored = tmp_path / "scored.db"
    outcome, told = merged(scored, *(halves[::-1] if turned else halves))
    assert everything(scored, COSTS) == everything(files["scored"], COSTS)
    assert len(everything(scored)["scores"]) > 40
    assert [each.conflicts.n for each in outcome.files] == [0, 0]
    assert "computing the scores from all verdicts" in told.lines
    before = everything(scored)
    _, told = merged(scored, *halves)
    assert everything(scored) == before
    assert "computing the scores from all verdicts" not in told.lines


# Rows by hand


def write(path, *latents, **changes):
    """A file in which these latents have an explanation and a trial."""
    with open_run(path, "explain", create=True) as db:
        tiny_results.add_cache(db)
        for latent in latents:
            examples = make_examples(latent)
            said = store_latent(db, examples, **changes)
            trial = make_trial(said, examples, [1.0, 0.0, None])
            trials.store_trials(db, [(trial, USAGE)], "engine")
    return path


@pytest.fixture
def files(tmp_path):
    return write(tmp_path / "a.db", 0, 1), write(tmp_path / "b.db", 1, 2)


def test_what_is_in_one_file_alone_is_added_and_all_is_said(files, tmp_path):
    one, two = files
    for path in files:
        change(path, "update runs set started_utc = '2000', ended_utc = '2000'")
    before = one.stat().st_size
    outcome, told = merged(one, two)
    assert len(table(one, "explanations")) == 3
    (each,) = outcome.files
    assert each.tables["explanations"] == (1, 1, 0)
    assert each.tables["verdicts"] == (3, 3, 0)
    assert each.tables["windows"] == (4, 4, 0)
    assert each.tables["engines"] == (0, 1, 0)
    assert each.tables["runs"].n_new == 0, "the very same run"
    assert (outcome.bytes_before, outcome.bytes_after) == (before, one.stat().st_size)
    assert re.search(r"b\.db \([\d.]+ MB\): \d+ rows new, \d+ already there, 0 conflicts; "
                     r"[\d.]+ s, [\d,]+ rows/s", told.lines[0])  # fmt: skip
    assert re.search(r"a\.db: [\d.]+ MB → [\d.]+ MB in 0 s", told.lines[-1])
    assert sorted(os.listdir(tmp_path)) == ["a.db", "b.db"]


def test_runs_are_added_once(files):
    one, two = files
    change(two, "update runs set started_utc = '2001'")
    with open_results(two) as db:
        db.execute(
            """insert into runs (command, argv, versions, machine, started_utc)
               values ('a', '[]', '{}', '{}', '2000')"""
        )
    merged(one, two)
    merged(one, two)
    commands = [row[0] for row in table(one, "runs order by id", "command")]
    assert commands == ["explain", "merge", "explain", "a", "merge"]


def test_costs_and_places_of_the_same_answer_are_no_conflict(files):
    one, two = files
    change(
        two,
        "update explanations set seconds = 99, prompt_tokens = 7",
        "update trials set output_tokens = 7",
        """update subjects set provenance = '{"path":"/elsewhere"}', name = 'other'""",
        "update coders set fit = '{}'",
    )
    before = table(one, "subjects")
    outcome, _ = merged(one, two)
    assert outcome.files[0].conflicts == (0, 0, [])
    assert table(one, "subjects") == before
    assert dict(table(one, "explanations", "id", "seconds")) == {
        "b2:x0": 0.5, "b2:x1": 0.5, "b2:x2": 99.0,
    }  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
def test_another_answer_is_listed_and_both_are_kept(files, turned):
    one, two = files[::-1] if turned else files
    change(
        two,
        "update explanations set text = 'écho', raw = ' écho' where latent = 1",
        """update verdicts set value = 0.1 + 0.2 where value = 1.0
           and trial_id in (select id from trials where explanation_id = 'b2:x1')""",
    )
    said = dict(table(one, "explanations", "id", "text"))["b2:x1"]
    outcome, told = merged(one, two)
    assert [(each.table, each.file) for each in outcome.files[0].conflicts.listed] == [
        ("explanations", two.name), ("verdicts", two.name),
    ]  # fmt: skip
    assert outcome.files[0].tables["verdicts"].n_conflicts == 1
    assert dict(table(one, "explanations", "id", "text"))["b2:x1"] == said == "meaning 1"
    rows = {row[0]: row for row in table(one, "conflicts")}
    assert json.loads(rows["explanations"][1]) == {"id": "b2:x1"}
    other = json.loads(rows["explanations"][2])
    assert (other["text"], other["latent"]) == ("écho", 1)
    assert json.loads(rows["verdicts"][2])["value"] == 0.1 + 0.2, "to the last digit"
    assert rows["verdicts"][3] == two.name and rows["verdicts"][4].endswith("+00:00")
    assert any("another answer: explanations" in line for line in told.lines)
    # Merged again, under another name, it is the same conflict.
    outcome, _ = merged(one, shutil.copy(two, two.with_name("again.db")))
    assert outcome.files[0].conflicts[:2] == (2, 0)
    assert len(table(one, "conflicts")) == 2
    # Conflicts go on to the next file.
    third = one.with_name("third.db")
    merged(third, one)
    assert sorted(table(third, "conflicts")) == sorted(table(one, "conflicts"))


def test_verdicts_of_one_trial_are_never_mixed(files):
    one, two = files
    mine = "trial_id in (select id from trials where explanation_id = 'b2:x1')"
    change(one, f"delete from verdicts where {mine} and value = 0.0")
    change(two, f"delete from verdicts where {mine} and value is null")
    before = table(one, f"verdicts where {mine}")
    outcome, _ = merged(one, two)
    assert table(one, f"verdicts where {mine}") == before
    found = sorted(other for _, _, other, *_ in table(one, "conflicts"))
    assert len(found) == 2 and found[0] == "null" and json.loads(found[1])["value"] == 0.0
    assert outcome.files[0].tables["verdicts"] == (3, 1, 1)


def test_verdicts_about_other_words_are_not_taken_for_verdicts_about_ours(tmp_path):
    """The same question, another answer, and only the other file judged its answer."""
    one, two = write(tmp_path / "a.db", 0, 1), write(tmp_path / "b.db", 0, 1)
    change(
        one,
        """delete from verdicts where trial_id in
           (select id from trials where explanation_id = 'b2:x1')""",
        "delete from trials where explanation_id = 'b2:x1'",
    )
    change(two, "update explanations set text = 'other words' where id = 'b2:x1'")
    outcome, _ = merged(one, two)
    assert table(one, "trials", "explanation_id") == [("b2:x0",)]
    assert len(table(one, "verdicts")) == 3
    assert sorted(row[0] for row in table(one, "conflicts")) == [
        "explanations", "trials", *["verdicts"] * 3,
    ]  # fmt: skip
    assert outcome.files[0].tables["verdicts"] == (0, 3, 3)
    merged(one, two)
    assert len(table(one, "conflicts")) == 5
    # With the same words they are taken.
    change(two, "update explanations set text = 'meaning 1' where id = 'b2:x1'")
    merged(one, two)
    assert len(table(one, "verdicts")) == 6


def test_two_studies_stay_apart(tmp_path):
    one = write(tmp_path / "a.db", 0)
    two = tmp_path / "b.db"
    other = replace(tiny_results.CORPUS, id="b2:other", name="other")
    with open_results(two, create=True) as db:
        tiny_results.add_cache(db, "b2:second", other)
        examples = make_examples(0, seed=1)
        studies.store_example_set(db, "b2:second", examples)
    outcome, _ = merged(one, two)
    assert sorted(table(one, "caches", "id", "corpus_id", "number")) == [
        (CACHE, "b2:corpus", 1), ("b2:second", "b2:other", 2),
    ]  # fmt: skip
    with read_results(one) as db, pytest.raises(UsageError, match="several caches fit"):
        caches.the_cache(db)
    assert len(outcome.notes) == 2


def condition(name, **changes):
    plain = ConditionRow("paper", name, 0, "p", "l", [], {"seed": 0}, CACHE, "b2:engine", ["b2:x0"])
    return plain._replace(**changes)


def grid(path, *rows):
    write(path, 0)
    with open_results(path) as db:
        for row in rows:
            store_condition(db, row)
    return path


def names(path):
    with read_results(path) as db:
        return sorted(row.name for row in load_conditions(db, "paper"))


def test_conditions_of_one_base_come_together(tmp_path):
    one = grid(tmp_path / "a.db", condition("base"), condition("top"))
    two = grid(tmp_path / "b.db", condition("base", settings={"at": "/b"}), condition("mix"))
    outcome, _ = merged(one, two)
    assert names(one) == ["base", "mix", "top"]
    assert outcome.files[0].tables["conditions"] == (1, 1, 0)
    assert outcome.files[0].conflicts == (0, 0, [])


def test_conditions_of_another_base_are_not_mixed(tmp_path):
    one = grid(tmp_path / "a.db", condition("base"), condition("top"))
    two = grid(
        tmp_path / "b.db", condition("base", explanation_ids=["b2:y0"]), condition("mix"),
        condition("top"), condition("base", grid="own"),
    )  # fmt: skip
    outcome, _ = merged(one, two)
    assert names(one) == ["base", "top"]
    with read_results(one) as db:
        assert len(load_conditions(db, "own")) == 1
    assert [json.loads(each.key)["name"] for each in outcome.files[0].conflicts.listed] == [
        "base",
        "mix",
    ]
    assert outcome.files[0].tables["conditions"] == (1, 1, 2)


# What cannot be merged


def refused(results, *others, match):
    """One line, and every file stays as it was."""
    paths = [Path(each) for each in (results, *others)]
    before = [everything(path) if path == paths[0] else digest(path) for path in paths]
    with pytest.raises(LiteInterpError, match=match) as caught:
        merged(*paths)
    assert str(caught.value).isprintable() and caught.value.hint.isprintable()
    assert before == [everything(path) if path == paths[0] else digest(path) for path in paths]


def test_a_file_is_not_merged_into_itself_or_twice(files, tmp_path):
    one, two = files
    link = tmp_path / "link.db"
    link.symlink_to(one)
    hard = tmp_path / "hard.db"
    os.link(two, hard)
    for others, what in (
        ((one,), "into itself"), ((link,), "into itself"), ((two, two), "twice"),
        ((two, hard), "twice"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=f"cannot be merged {what}"):
            merged(one, *others)
    with pytest.raises(UsageError, match="into itself"):
        merged(tmp_path / "new.db", tmp_path / "x" / ".." / "new.db")
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"text", "not a results file"), (b"", "an empty file"), (None, "no such file")],
)
def test_what_is_no_results_file_is_refused_before_anything_is_merged(
    files, tmp_path, content, what
):
    bad = tmp_path / "bad\x1b[2J.db"
    if content is not None:
        bad.write_bytes(content)
    one, two = files
    before = digest(one)
    with pytest.raises(ResultsError, match=f"bad .2J.db: {what}"):
        merged(one, two, bad)
    assert digest(one) == before
    with pytest.raises(ResultsError):
        merged(tmp_path / "new.db", bad)
    assert not (tmp_path / "new.db").exists()


def test_a_new_file_is_not_left_behind_if_the_first_cannot_be_merged(files, tmp_path):
    change(files[0], "alter table runs add column x text")
    with pytest.raises(ResultsError, match="tables are not those"):
        merged(tmp_path / "new.db", files[0])
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    ("statements", "what"),
    [
        (["pragma application_id = 7"], "another program"),
        ([f"pragma user_version = {SCHEMA_VERSION + 1}"], "newer version, with schema"),
        (["pragma user_version = 0"], "another program"),
        (["pragma user_version = -3"], "another program"),
        (["pragma user_version = 2"], "tables are not those"),
        (["drop table runs", "create view runs as select 1 as id"], "tables are not those"),
        (["alter table engines rename to e", "create table engines (id, name, provenance)"],
         "tables are not those"),
        (["create index spy on windows(abs(start))"], "tables are not those"),
        (["delete from engines"], "rows of explanations refer"),
        (["delete from trials"], "rows of verdicts refer"),
        (["insert into firings (key, packed) values (1, x'00')"], "no shard or no latent"),
        (["insert into firings (key, packed) values (-1, x'00')"], "no shard or no latent"),
        (["insert into cache_shards values ('b2:cache', 0, 0, 0, '{}', 0, 1)",
          "insert into firings (key, packed) values ((1 << 44) | 4, x'00')"],
         "no shard or no latent"),
        (["insert into firings (key, packed) values ((1 << 44) | (1048575 << 24), x'00')"],
         "no shard or no latent"),
        (["insert into cache_shards values ('b2:cache', -1, 0, 0, '{}', 0, 1)"], "a shard of a"),
        (["update caches set number = 1 << 19"], "a cache without a number"),
        (["update caches set number = null"], "a cache without a number"),
        (["update windows set acts = '[1'"], "windows.acts is no JSON"),
        (["update explanations set text = cast(x'ff41' as text)"], "Could not decode"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_it_should_be_is_refused(files, statements, what):
    one, two = files
    change(two, "pragma legacy_alter_table = on", *statements)
    refused(one, two, match=rf"^cannot be merged: .*b\.db: .*{what}")


@pytest.mark.parametrize("seed", range(4))
def test_a_file_with_broken_pages_is_refused(files, tmp_path, seed):
    one, two = files
    data = bytearray(two.read_bytes())
    draw = np.random.default_rng(seed)
    page = 16384
    for begin in range(page, len(data), page):
        data[begin : begin + 64] = draw.bytes(64)
    two.write_bytes(data)
    refused(one, two, match=r"^cannot be merged: .*b\.db: ")
    two.write_bytes(data[: len(data) // 2])
    refused(one, two, match=r"^cannot be merged: .*b\.db: ")


def test_a_file_that_breaks_rules_of_its_own_tables_is_refused(files):
    one, two = files
    change(
        two, "pragma ignore_check_constraints = on",
        "update verdicts set failure = 'x', value = 1.0",
    )  # fmt: skip
    refused(one, two, match="CHECK constraint failed")


def test_what_others_wrote_to_be_run_is_not_run(files, tmp_path):
    one, two = files
    change(
        two,
        "create view spy as select load_extension('/tmp/x') from windows",
        "create trigger bad after insert on windows begin delete from explanations; end",
        "create table mine (x)",
    )
    merged(one, two)
    assert len(table(one, "explanations")) == 3
    assert not [
        row for row in table(one, "sqlite_master", "name") if row[0] in {"spy", "bad", "mine"}
    ]


def test_files_that_are_good_stay_merged_before_one_that_is_not(files, tmp_path):
    one, two = files
    bad = write(tmp_path / "c.db", 3)
    change(bad, "delete from trials")
    with pytest.raises(ResultsError, match="c.db: rows of verdicts"):
        merged(one, two, bad)
    assert len(table(one, "explanations")) == 3


STOPPED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import tiny_study
from lite_interp import merge
from lite_interp.db import merging

real = merging.merge_rows

def killing(db, table, *more):
    found = real(db, table, *more)
    if table.name == "verdicts":
        os.kill(os.getpid(), signal.SIGKILL)
    return found

merging.merge_rows = killing
merge.merge_files(Path({one!r}), [Path({two!r})], tiny_study.Told())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_merge_that_is_killed_leaves_the_file_as_it_was(files):
    one, two = files
    before = everything(one)
    code = STOPPED.format(tests=str(Path(__file__).parent), one=str(one), two=str(two))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert everything(one) == before
    merged(one, two)
    assert len(table(one, "explanations")) == 3


def test_a_bug_or_a_stop_in_the_middle_leaves_the_file_as_it_was(files, monkeypatch):
    one, two = files
    before = everything(one)

    def stop(db, *more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merging, "merge_runs", stop)
        with pytest.raises(KeyboardInterrupt):
            merged(one, two)
    assert everything(one) == before
    merged(one, two)
    assert len(table(one, "explanations")) == 3


def test_a_file_that_is_being_written_is_read_as_it_was(files):
    one, two = files
    with open_results(two) as db:
        add(db, "prompts", {"id": "b2:new", "name": "p", "text": "t"})
        with db.atomic():
            add(db, "prompts", {"id": "b2:half", "name": "p", "text": "t"})
            merged(one, two)
    assert {row[0] for row in table(one, "prompts", "id")} == {"b2:prompt", "b2:new"}


def test_a_file_whose_writer_was_stopped_in_the_middle_is_mended_first(files, tmp_path):
    one, two = files
    stopped = tmp_path / "stopped.db"
    with closing(sqlite3.connect(two, isolation_level=None)) as db:
        db.execute("pragma cache_size = 1")
        db.execute("begin")
        rows = ((f"b2:{number}", "p", "x" * 9000) for number in range(100))
        db.executemany("insert into prompts values (?, ?, ?)", rows)
        shutil.copy(two, stopped)
        shutil.copy(f"{two}-journal", f"{stopped}-journal")
        db.execute("rollback")
    with pytest.raises(ResultsError, match="stopped in the middle") as caught:
        merged(one, stopped)
    assert "lite-interp info" in caught.value.hint
    assert CliRunner().invoke(app, ["info", str(stopped)]).exit_code == 0
    merged(one, stopped)
    assert len(table(one, "explanations")) == 3 and len(table(one, "prompts")) == 1


def test_one_writer_at_a_time(files):
    one, two = files
    with open_results(one), pytest.raises(ResultsError, match="another process is writing"):
        merged(one, two)


# Older files, dry runs, the command


def test_an_older_file_is_brought_up_to_date_in_a_copy(files, tmp_path):
    old = tmp_path / "old.db"
    write_old(old)
    change(old, "create trigger bad after update on caches begin delete from trials; end")
    change(old, 'create view "a""b" as select * from no_such_table')
    before = digest(old)
    merged(tmp_path / "new.db", old)
    assert digest(old) == before
    assert len(table(tmp_path / "new.db", "trials")) == 10
    assert len(table(tmp_path / "new.db", "scores")) > 0, "they are computed from the verdicts"
    assert table(tmp_path / "new.db", "caches", "number") == [(1,)]


def test_an_older_file_that_is_not_whole_is_refused(files, tmp_path):
    old = tmp_path / "old.db"
    write_old(old)
    change(old, "alter table trials add column x text")
    refused(files[0], old, match="tables are not those")
    write_old(tmp_path / "other.db")
    change(tmp_path / "other.db", "delete from windows")
    refused(files[0], tmp_path / "other.db", match="refer to rows that are not there")


@pytest.mark.parametrize("exists", [True, False])
def test_a_dry_run_says_what_would_be_done_and_does_nothing(files, tmp_path, exists):
    one, two = files
    target = one if exists else tmp_path / "new.db"
    before = [digest(one), digest(two)]
    outcome, told = merged(target, two, dry_run=True)
    assert outcome.files[0].tables["explanations"].n_new == (1 if exists else 2)
    assert [digest(one), digest(two)] == before
    assert sorted(os.listdir(tmp_path)) == ["a.db", "b.db"]
    assert "nothing was changed" in told.lines[-1]
    again, _ = merged(target, two)
    assert again.files[0].tables == outcome.files[0].tables
    assert again.bytes_after == pytest.approx(outcome.bytes_after, abs=4 * 16384)


def test_the_command_prints_a_line_of_json_for_each_record(files):
    one, two = files
    change(two, "update explanations set text = 'other' where latent = 1")
    done = CliRunner().invoke(app, ["merge", str(one), str(two), "--json"])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["kind"] for line in lines] == ["file", "conflict", "results"]
    assert lines[0]["tables"]["explanations"] == {"n_new": 1, "n_known": 0, "n_conflicts": 1}
    assert lines[1]["key"] == '{"id":"b2:x1"}'
    assert lines[0]["n_conflicts"] == lines[2]["n_conflicts"] == 1
    assert {"seconds", "bytes_before", "bytes_after"} <= lines[2].keys()


def test_the_command_refuses_in_one_line(files):
    one, _ = files
    done = CliRunner().invoke(app, ["merge", str(one), str(one)])
    assert done.exit_code == 2
    assert "Error: a file cannot be merged into itself" in done.stderr
