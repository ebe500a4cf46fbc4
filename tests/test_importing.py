"""Explanations of others in the file: on whose windows, of which coder, all or none, and scored."""

import json
import shutil
import sqlite3
from dataclasses import asdict, replace

import pytest
import tiny_study
from typer.testing import CliRunner

from lite_interp import pipeline, stages, study, tools
from lite_interp.cli import app
from lite_interp.db import caches, studies, trials
from lite_interp.db.file import open_results, read_results
from lite_interp.errors import LiteInterpError, UsageError
from lite_interp.loading import cache_tokenizer
from lite_interp.oracles import write_oracles
from lite_interp.outside.belonging import is_of_layer, names_coder
from lite_interp.outside.importing import (
    Draw,
    Imported,
    ImportJob,
    choose_draw,
    import_explanations,
)
from lite_interp.samplers import DrawSettings, example_set_id
from lite_interp.score_pipeline import ScoreJob, score_explanations

WIDE = DrawSettings(width=8, n_shown=3, n_active=6, n_silent=6)
NARROW = DrawSettings(width=4, n_shown=2, n_active=2, n_silent=2)
QUIET = 31
"""A latent that never fires."""


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A cache of 32 latents, the last of which never fires."""
    folder = tmp_path_factory.mktemp("cached")
    parts = tiny_study.write_parts(folder)
    pipeline.cache_corpus(folder / "cached.db", tiny_study.cache_job(parts), tiny_study.Told())
    with open_results(folder / "cached.db") as db:
        db.execute("delete from firings where latent = ?", [QUIET])
        db.execute("update latents set density = 0, n_firings = 0 where latent = ?", [QUIET])
    return folder


@pytest.fixture
def results(cached, tmp_path):
    return shutil.copy(cached / "cached.db", tmp_path / "results.db")


def the_cache(path):
    with read_results(path) as db:
        (cache,) = caches.load_caches(db)
    return cache


def draw(path, latents, settings, seed):
    with open_results(path) as db:
        cache = caches.the_cache(db)
        source = stages.open_source(db, cache, cache_tokenizer(cache, ""), settings.width)
        for _ in stages.write_examples(db, cache, source, latents, settings, seed):
            pass


def write(tmp_path, *rows, name="people.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def said(latent, text, **more):
    return {"latent": latent, "explanation": text, "source": "Anna", **more}


def bring_in(results, *paths, **changes):
    told = tiny_study.Told(changes.pop("stop_after", None))
    return import_explanations(results, "", ImportJob(paths, **changes), told), told


def explanations(path):
    with read_results(path) as db:
        (cache,) = caches.load_caches(db)
        return [each for each in studies.load_explanations(db, cache.id) if each.latent >= 0]


def settings_and_seed(db, seed):
    found = choose_draw(db, caches.the_cache(db), seed)
    return found.settings, found.seed


def test_they_are_put_to_the_windows_that_most_explanations_have(results, tmp_path):
    draw(results, [1, 2], NARROW, 0)
    draw(results, [3, 4, 5], WIDE, 7)
    drawn = tiny_study.dump(results, "example_sets")["example_sets"]
    path = write(tmp_path, said(3, " the\nyears\t"), said(1, "cats"), said(3, "dogs", source="Ben"))
    outcome, told = bring_in(results, path)
    assert outcome == [Imported("Anna", 2, 0), Imported("Ben", 1, 0)]
    assert told.totals == {"drawing windows": 1}
    cache = the_cache(results)
    found = explanations(results)
    assert [(each.latent, each.text, each.settings) for each in found] == [
        (1, "cats", {"source": "Anna"}),
        (3, "the↵years", {"source": "Anna"}),
        (3, "dogs", {"source": "Ben"}),
    ]
    for each in found:
        assert each.example_set_id == example_set_id(cache.id, each.latent, WIDE, 7)
        assert (each.explainer, each.prompt_id, each.engine_id) == ("import", None, None)
        assert each.failure is None
    assert found[1].raw == " the\nyears\t"
    after = tiny_study.dump(results, "example_sets")["example_sets"]
    assert set(drawn) < set(after)
    assert len(after) == len(drawn) + 1
    with read_results(results) as db:
        new = studies.load_example_set(db, found[0].example_set_id)
        assert db.execute(
            "select distinct prompt_tokens, output_tokens, seconds from explanations"
        ).fetchall() == [(0, 0, 0.0)]
    assert new is not None
    assert len(new.shown) == WIDE.n_shown


def test_importing_twice_adds_nothing_and_the_same_words_by_another_are_another(results, tmp_path):
    path = write(tmp_path, said(1, "cats"), said(1, "cats"), said(1, " cats "), said(2, "dogs"))
    assert bring_in(results, path)[0] == [Imported("Anna", 2, 0)]
    assert [each.raw for each in explanations(results)] == ["cats", "dogs"]
    before = tiny_study.dump(results)
    outcome, told = bring_in(results, path)
    assert outcome == [Imported("Anna", 0, 2)]
    assert told.totals == {}
    assert "Anna: 0 imported, 2 already there" in told.lines
    assert tiny_study.dump(results) == before
    assert bring_in(results, path, source="Ben")[0] == [Imported("Ben", 2, 0)]
    assert len(explanations(results)) == 4


def test_a_dry_run_says_what_would_be_done_and_does_nothing(results, tmp_path):
    path = write(tmp_path, said(1, "cats"), said(2, "dogs"))
    before = results.read_bytes()
    outcome, told = bring_in(results, path, dry_run=True)
    assert outcome == [Imported("Anna", 2, 0)]
    assert told.lines == [
        "latents that would get windows first: 2",
        "Anna: 2 to import, 0 already there",
    ]
    assert results.read_bytes() == before
    assert bring_in(results, path)[0] == outcome


def test_all_or_nothing_and_what_is_wrong_is_told_by_line(results, tmp_path):
    draw(results, [1], WIDE, 0)
    path = write(
        tmp_path, said(1, "cats"), said(32, "far"), said(2, ""), said(-1, "x"),
        said(3, "other", coder="layers.2"), said(4, "dogs", coder="layers.1"),
        said(40, "far"), said(41, "far"),
    )  # fmt: skip
    before = tiny_study.dump(results)
    with pytest.raises(LiteInterpError) as refused:
        bring_in(results, path)
    assert refused.value.exit_code == 1
    assert str(refused.value) == (
        f"6 of 8 cannot be imported: {path}:2: no such latent: 32, there are 0 to 31; "
        f"{path}:3: empty explanation; {path}:4: not the index of a latent: -1; "
        f"{path}:5: another coder: layers.2; {path}:7: no such latent: 40, there are 0 to 31; "
        "and 1 more"
    )
    assert "--skip-bad" in refused.value.hint
    assert "--layer" in refused.value.hint
    assert tiny_study.dump(results) == before
    outcome, told = bring_in(results, path, skip_bad=True)
    assert outcome == [Imported("Anna", 2, 0)]
    assert told.lines[0] == str(refused.value)
    assert [each.latent for each in explanations(results)] == [1, 4]
    with pytest.raises(LiteInterpError, match="nothing is left to import"):
        bring_in(results, write(tmp_path, said(32, "far")), skip_bad=True)
    with pytest.raises(LiteInterpError, match="neither JSON lines"):
        bring_in(results, write(tmp_path))


def test_an_import_that_is_interrupted_and_goes_on_ends_as_if_it_never_was(
    results, tmp_path, monkeypatch
):
    whole = shutil.copy(results, tmp_path / "whole.db")
    path = write(tmp_path, *(said(latent, f"meaning {latent}") for latent in range(5)))
    bring_in(whole, path)
    with pytest.raises(KeyboardInterrupt):
        bring_in(results, path, stop_after=2)
    assert explanations(results) == []

    add = studies.add

    def stop_at_3(db, table, row):
        if table == "explanations" and row["latent"] == 3:
            raise KeyboardInterrupt
        add(db, table, row)

    with monkeypatch.context() as patch:
        patch.setattr(studies, "add", stop_at_3)
        with pytest.raises(KeyboardInterrupt):
            bring_in(results, path)
    assert explanations(results) == []
    bring_in(results, path)
    assert tiny_study.dump(results) == tiny_study.dump(whole)


def test_the_seed_may_be_chosen_and_rule_made_latents_have_no_say(results):
    with open_results(results) as db:
        cache = caches.the_cache(db)
        write_oracles(db, cache, "", tiny_study.Told(), replace(NARROW, n_active=10))
        assert settings_and_seed(db, None) == (DrawSettings(), 0)
        assert settings_and_seed(db, 5) == (DrawSettings(), 5)
    draw(results, [1, 2], NARROW, 4)
    draw(results, [3], WIDE, 0)
    draw(results, [6], WIDE, 4)
    with read_results(results) as db:
        assert settings_and_seed(db, None) == (NARROW, 4)
        assert settings_and_seed(db, 0) == (WIDE, 0)
        assert choose_draw(db, cache, 9) == Draw(NARROW, 9, {})
        known = choose_draw(db, cache, None).known
    assert known == {latent: example_set_id(cache.id, latent, NARROW, 4) for latent in (1, 2)}


def test_example_sets_of_before_a_setting_was_added_are_known_too(results):
    draw(results, [1], NARROW, 0)
    cache = the_cache(results)
    with open_results(results) as db:
        db.execute(
            """insert into example_sets select 'b2:old', cache_id, 2, sampler,
               json_remove(settings, '$.n_near'), seed from example_sets"""
        )
        found = choose_draw(db, cache, None)
    assert found.known == {1: example_set_id(cache.id, 1, NARROW, 0), 2: "b2:old"}


def test_a_latent_that_never_fires_is_stored_and_said(results, tmp_path):
    outcome, told = bring_in(results, write(tmp_path, said(QUIET, "nothing"), said(1, "cats")))
    assert outcome == [Imported("Anna", 2, 0)]
    assert f"latents that never fire, and cannot be scored: {QUIET}" in told.lines
    (_, silent) = explanations(results)
    with read_results(results) as db:
        examples = studies.load_example_set(db, silent.example_set_id)
    assert examples is not None
    assert examples.shown == ()


def test_windows_that_are_near_need_no_embedder_if_they_are_in_the_file(results, tmp_path):
    embedder = tiny_study.BagOfWords()
    near = replace(WIDE, n_near=2, embedder_id=embedder.id)
    path = write(tmp_path, said(1, "cats"))
    with open_results(results) as db:
        cache = caches.the_cache(db)
        db.execute(
            "insert into example_sets values ('b2:x', ?, 2, 'quantiles', ?, 0)",
            [cache.id, json.dumps(asdict(near))],
        )  # fmt: skip
    with pytest.raises(UsageError, match="not all windows of the file are embedded") as refused:
        bring_in(results, path)
    assert "explain" in refused.value.hint
    assert explanations(results) == []
    with open_results(results) as db:
        row = {"id": embedder.id, "name": embedder.name, "provenance": "{}"}
        db["embedders"].insert(row)  # type: ignore[union-attr]
        source = stages.open_source(db, cache, cache_tokenizer(cache, ""), near.width, embedder.id)
        for _ in stages.write_vectors(db, cache, source, embedder):
            pass
    bring_in(results, path)
    (found,) = explanations(results)
    with read_results(results) as db:
        examples = studies.load_example_set(db, found.example_set_id)
    assert examples is not None
    assert [each.stratum for each in examples.scored].count("near") == 2


def test_a_subject_that_has_moved_is_named(results, cached, tmp_path):
    path = write(tmp_path, said(1, "cats"))
    with open_results(results) as db:
        db.execute("update subjects set provenance = json_set(provenance, '$.path', '/not/there')")
    with pytest.raises(LiteInterpError, match="/not/there"):
        bring_in(results, path)
    with pytest.raises(LiteInterpError):
        bring_in(results, path, subject=str(tmp_path))
    assert bring_in(results, path, subject=str(cached / "subject"))[0] == [Imported("Anna", 1, 0)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layers.1", True), ("model.layers.1", True), ("model.layers.1.output", True),
        ("layers.1.output", True), ("layers.1.input", False), ("layers.1.mlp", False),
        ("layers.11", False), ("1", False), (".1", False), ("output", False), ("", False),
        ("coder/layers.1", True), ("layers.2", False), ("ayers.1", False),
    ],
)  # fmt: skip
def test_a_name_means_the_coder_or_it_does_not(cached, name, expected):
    cache = the_cache(cached / "cached.db")
    assert (cache.hookpoint, cache.coder_name) == ("model.layers.1.output", "coder/layers.1")
    assert names_coder(name, cache) == expected
    assert names_coder(cache.coder_id, cache)
    assert names_coder(cache.coder_id.removeprefix("b2:"), cache)
    inner = replace(cache, hookpoint="model.layers.1.mlp.input")
    assert names_coder("layers.1.mlp", inner)
    assert not names_coder("layers.1", inner)
    assert not names_coder("mlp", inner)


def test_the_layer_of_a_source_id(cached):
    cache = the_cache(cached / "cached.db")
    found = [is_of_layer(name, cache) for name in ("1-res-16k", "11-res", "1", "res-1", "01-x")]
    assert found == [True, False, False, False, True]


def of_layer(latent, text, layer, model="gpt2"):
    return {"modelId": model, "layer": layer, "index": str(latent), "description": text,
            "typeName": "np", "explanationModelName": "gpt-4o"}  # fmt: skip


def test_a_source_of_neuronpedia_is_told_and_several_are_the_users_to_choose(results, tmp_path):
    one = write(tmp_path, of_layer(1, "cats", "1-res"), name="one.jsonl")
    assert bring_in(results, one)[1].lines[0] == "taken for the coder of this cache: gpt2/1-res"
    wrong = write(tmp_path, of_layer(1, "cats", "2-res"), name="wrong.jsonl")
    with pytest.raises(LiteInterpError, match=r"wrong.jsonl:1: another coder: gpt2/2-res") as told:
        bring_in(results, wrong)
    assert "--layer" in told.value.hint
    rows = of_layer(1, "a", "1-res"), of_layer(2, "b", "1-big"), of_layer(3, "c", "1-big", "gpt3")
    several = write(tmp_path, *rows, said(4, "no coder"), name="several.jsonl")
    with pytest.raises(UsageError, match="hold 3 sources") as refused:
        bring_in(results, several)
    assert "gpt2/1-big, gpt2/1-res, gpt3/1-big" in refused.value.hint
    with pytest.raises(UsageError, match="several subjects have the coder: 1-big"):
        bring_in(results, several, coder="1-big")
    with pytest.raises(UsageError, match="no line names the coder: 1-rez") as refused:
        bring_in(results, several, coder="1-rez")
    assert "gpt2/1-res" in refused.value.hint
    outcome, told = bring_in(results, several, coder="gpt2/1-big")
    assert outcome == [Imported("Anna", 1, 0), Imported("gpt-4o/np", 1, 0)]
    assert told.lines[0] == "left out: 2 explanations of other coders"
    assert bring_in(results, wrong, coder="2-res")[0] == [Imported("gpt-4o/np", 0, 1)]


def test_a_folder_of_delphi_is_checked_against_the_hookpoint(results, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "layers.1_latent3.txt").write_text('"cats"')
    assert bring_in(results, folder)[0] == [Imported("run", 1, 0)]
    (folder / "layers.2_latent3.txt").write_text('"dogs"')
    with pytest.raises(LiteInterpError, match=r"layers.2_latent3.txt: another coder: layers.2"):
        bring_in(results, folder)
    assert bring_in(results, folder, coder="layers.1")[0] == [Imported("run", 0, 1)]


def test_they_are_scored_against_others_by_the_same_source_and_shown(
    results, tmp_path, monkeypatch
):
    monkeypatch.setattr(tools, "open_embedder", tiny_study.BagOfWords)
    monkeypatch.setenv("COLUMNS", "120")
    draw(results, [1], WIDE, 0)
    (tmp_path / "embedder").mkdir()
    rows = [said(latent, f"the cat sat {latent}") for latent in range(4)]
    rows += [said(latent, f"a red mat {latent}", source="B\x1b[31men") for latent in range(3)]
    rows += [said(1, "two of them")]
    bring_in(results, write(tmp_path, *rows))
    section = study.ScoreSection(
        scorers=("embedding",), explainers=("import",), embedder=str(tmp_path / "embedder")
    )
    score_explanations(results, "", ScoreJob(study.EngineSection(), section), tiny_study.Told())
    source_of = {each.id: each.settings["source"] for each in explanations(results)}
    with read_results(results) as db:
        scores = trials.load_scores(db, caches.the_cache(db).id)
    assert {row["explanation_id"] for row in scores} == set(source_of)
    assert all(row["value"] is not None for row in scores)
    by_anna = [row for row in scores if source_of[row["explanation_id"]] == "Anna"]
    assert {row["n_controls"] for row in by_anna} == {3}
    # Of Ben's there are 2 more; with Anna's among them it would be 3.
    assert {row["n_controls"] for row in scores if row not in by_anna} == {2}
    for command in (["list"], ["show", "1"], ["agree"], ["list", "--json"]):
        shown = CliRunner().invoke(app, [command[0], str(results), *command[1:]])
        assert shown.exit_code == 0, shown.output
        assert "\x1b" not in shown.output
        if command[0] != "agree":
            assert "two of them" in shown.output


def test_the_command_imports_and_refuses_in_one_line(results, tmp_path):
    table = tmp_path / "anna.csv"
    table.write_text("latent,explanation\n1,cats\n99,far\n")
    refused = CliRunner().invoke(app, ["import", str(results), str(table)])
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[0] == (
        f"Error: 1 of 2 cannot be imported: {table}:3: no such latent: 99, there are 0 to 31"
    )
    done = CliRunner().invoke(
        app, ["import", str(results), str(table), "--skip-bad", "--source", "An\x1bna"]
    )
    assert done.exit_code == 0, done.stderr
    assert "An na: 1 imported, 0 already there" in done.stderr
    assert "\x1b" not in done.stderr
    with sqlite3.connect(results) as db:
        runs = db.execute("select command, outcome from runs order by id desc limit 2").fetchall()
    db.close()
    assert runs[0] == ("import", "done")
    assert runs[1][1].startswith("failed: 1 of 2 cannot be imported")
