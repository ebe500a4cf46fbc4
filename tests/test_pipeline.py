"""What the three commands that write do with one file, and with more than one of a kind."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import tiny
import tiny_study

from lite_interp import scoring, study
from lite_interp.cache import cache_id
from lite_interp.choosing import choose_latents
from lite_interp.db import cached, caches, trials
from lite_interp.db.file import read_results
from lite_interp.demo import print_results
from lite_interp.engine.scripted import ScriptedEngine
from lite_interp.errors import LiteInterpError, ResultsError, SubjectError, UsageError
from lite_interp.ids import content_id
from lite_interp.pipeline import (
    ExplainJob,
    ScoreJob,
    explain_latents,
    run_study,
    score_explanations,
)
from lite_interp.prompts import load_prompt
from lite_interp.study import read_study

EXAMPLES = study.ExamplesSection(width=8, n_shown=4, n_active=6, n_silent=6)


def judge(text: str) -> dict[str, float]:
    return {"Yes": int(content_id(text)[3:9], 16) / 16**5}


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    """The pipeline uses a scripted engine and an embedder that counts words."""
    engine = ScriptedEngine(lambda prompt: " kind " + content_id(prompt)[3:8], judge)
    tiny_study.use_engine(monkeypatch, engine)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    tiny_study.write_study(folder)
    return folder


@pytest.fixture
def moved(folder, tmp_path):
    """A copy of the study that may be changed."""
    return Path(shutil.copytree(folder, tmp_path / "moved"))


def run(folder, **changes):
    """Run a study with tables changed: `latents={"n": 8}`."""
    whole = read_study(folder / "study.toml")
    parts = {
        name: getattr(whole, name).model_copy(update=values) for name, values in changes.items()
    }
    told = tiny_study.Told()
    name, latents = run_study(folder / "study.db", whole.model_copy(update=parts), told)
    return name, latents, told


def count(folder, question):
    with sqlite3.connect(folder / "study.db") as db:
        return db.execute(question).fetchone()[0]


def test_a_study_whose_subject_has_moved_goes_on(moved):
    run(moved, latents={"n": 2})
    (moved / "subject").rename(moved / "elsewhere")
    _, latents, told = run(moved, subject={"model": str(moved / "elsewhere")})
    assert len(latents) == 4
    assert told.totals["caching"] == 0
    assert told.totals["drawing windows"] == 2


def test_more_latents_of_the_same_seed_keep_the_first(moved):
    _, few, _ = run(moved, latents={"n": 2})
    before = tiny_study.dump(moved / "study.db", "explanations", "trials", "verdicts")
    _, more, told = run(moved, latents={"n": 5})
    after = tiny_study.dump(moved / "study.db", "explanations", "trials", "verdicts")
    assert more[:2] == few
    assert told.totals["explaining (llm)"] == 3
    assert all(set(before[table]) < set(after[table]) for table in before)


def test_another_seed_draws_other_windows_and_answers_anew(moved):
    run(moved)
    whole = read_study(moved / "study.toml").model_copy(update={"seed": 1})
    told = tiny_study.Told()
    run_study(moved / "study.db", whole, told)
    assert told.totals["drawing windows"] == told.totals["explaining (llm)"] == 4


def test_two_caches_in_one_file_are_told_apart(moved, capsys):
    one, latents, _ = run(moved)
    two, _, _ = run(moved, corpus={"n_ctx": 16}, latents={"indices": (0, 1, 3)})
    assert one != two
    again, latents_again, told = run(moved)
    assert (again, latents_again) == (one, latents)
    assert not any(told.totals.values())
    with pytest.raises(UsageError, match="several caches fit: any"):
        explain_latents(
            moved / "study.db",
            "",
            ExplainJob(
                0,
                study.LatentsSection(),
                EXAMPLES,
                study.EngineSection(),
                study.ExplainSection(explainers=("token_list",)),
            ),
            tiny_study.Told(),
        )
    with read_results(moved / "study.db") as db:
        densities = [caches.load_latent(db, one, latent).density for latent in sorted(latents)]
    print_results(moved / "study.db", one, latents)
    out = capsys.readouterr().out
    for density in densities:
        assert f"{100 * density:.2f}%" in out, "the table is that of the cache that was run"


def test_a_coder_whose_config_was_edited_is_another_coder(moved):
    one, _, _ = run(moved)
    config = moved / "coder" / "layers.1" / "cfg.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "k": 6}), encoding="utf-8")
    two, _, told = run(moved)
    assert one != two
    assert told.totals["caching"] == 1
    assert count(moved, "select count(*) from coders") == 2
    ks = "select count(distinct k) from coders"
    assert count(moved, ks) == 2


def test_a_corpus_that_was_edited_is_another_corpus(moved):
    one, _, _ = run(moved)
    path = moved / "corpus.jsonl"
    path.write_text(path.read_text() + '{"text": "one more line of words"}\n', encoding="utf-8")
    two, _, _ = run(moved)
    assert one != two
    assert count(moved, "select count(*) from corpora") == 2


def test_nothing_is_written_if_loading_fails(moved):
    (moved / "coder" / "layers.1" / "sae.safetensors").unlink()
    with pytest.raises(LiteInterpError):
        run(moved)
    assert not list(moved.glob("study.db*"))


def test_a_run_that_is_interrupted_before_anything_is_stored_leaves_no_file(moved, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(caches, "store_corpus", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(moved)
    assert not list(moved.glob("study.db*"))


def test_a_failed_run_says_so_in_the_file(moved, monkeypatch):
    run(moved)

    def fail(*_):
        raise ValueError("a bug\nwith two lines")

    monkeypatch.setattr(scoring, "pending_trials", fail)
    with pytest.raises(ValueError, match="a bug"):
        run(moved)
    outcome = count(moved, "select outcome from runs order by id desc limit 1")
    assert outcome == "failed: ValueError: a bug with two lines"


def test_every_row_points_at_what_made_it(moved):
    run(moved)
    with sqlite3.connect(moved / "study.db") as db:
        assert db.execute("pragma foreign_key_check").fetchall() == []
        prompts = dict(db.execute("select name, text from prompts"))
        provenance = json.loads(db.execute("select provenance from engines").fetchone()[0])
        explained = db.execute(
            "select prompt_tokens, output_tokens, seconds from explanations where explainer = 'llm'"
        ).fetchall()
    assert set(prompts) == {"explain/small", "score/detection"}
    for name, text in prompts.items():
        assert json.loads(text) == json.loads(json.dumps(load_prompt(name).content()))
    assert provenance["name"] == "scripted"
    assert all(prompt > 100 and output > 5 and s > 0 for prompt, output, s in explained)


def test_latents_are_drawn_by_seed_from_a_range_of_density(moved):
    name, _, _ = run(moved)
    with read_results(moved / "study.db") as db:
        cache = caches.the_cache(db, name)
        dense = {n: caches.load_latent(db, name, n).density for n in range(cache.n_latents)}

        def drawn(seed=0, **section):
            return choose_latents(db, cache, study.LatentsSection(**section), seed)

        narrow = drawn(n=99, min_density=0.1, max_density=0.2)
        assert set(narrow) == {n for n, density in dense.items() if 0.1 <= density <= 0.2}
        ten = drawn(n=10, min_density=0.0, max_density=1.0)
        assert drawn(n=4, min_density=0.0, max_density=1.0) == ten[:4]
        assert drawn(1, n=10, min_density=0.0, max_density=1.0) != ten
        assert drawn(indices=(9, 3, 3)) == [3, 9]
        assert len(set(ten)) == 10


def test_scoring_can_be_cut_down_and_goes_on(moved):
    name, latents, _ = run(moved, score={"n_controls": 0})
    assert count(moved, "select count(*) from trials where control = 1") == 0
    assert count(moved, "select count(*) from scores where null_value is not null") == 0
    job = ScoreJob(
        study.EngineSection(model=str(moved / "engine.gguf")),
        study.ScoreSection(embedder=str(moved / "embedder"), n_controls=3),
        latents,
    )
    told = tiny_study.Told()
    score_explanations(moved / "study.db", name, job, told)
    assert told.totals == {"scoring (detection)": 2 * 4 * 3, "scoring (embedding)": 2 * 4 * 3}
    assert count(moved, "select count(*) from scores where null_value is null") == 0
    assert count(moved, "select min(n_controls) from scores") == 3


def test_few_windows_are_said_and_stored_as_data(moved):
    """With windows as wide as contexts there are few: what is there is shared out or missing."""
    _, _, told = run(moved, examples={"width": 80, "n_shown": 3})
    assert any(line.startswith("fewer than 3 windows to show") for line in told.lines)
    failures = "select count(*) from explanations where failure = 'no_windows' and raw = ''"
    assert count(moved, failures) == count(moved, "select count(*) from explanations") == 8
    assert count(moved, "select count(*) from trials") == 0


def test_the_tokenizer_is_asked_for_only_to_draw(moved):
    name, latents, _ = run(moved)
    shutil.rmtree(moved / "subject")
    job = ExplainJob(
        0,
        study.LatentsSection(indices=tuple(latents)),
        EXAMPLES.model_copy(update={"n_shown": 5}),
        study.EngineSection(model=str(moved / "engine.gguf")),
        study.ExplainSection(explainers=("llm",)),
    )
    explain_latents(moved / "study.db", name, job, tiny_study.Told())
    with pytest.raises(SubjectError, match="no such folder or file"):
        explain_latents(moved / "study.db", name, job._replace(seed=3), tiny_study.Told())


def test_another_subject_under_the_old_name_is_another_cache(moved):
    one, _, _ = run(moved)
    shutil.rmtree(moved / "subject")
    tiny.write_subject(moved / "subject", seed=1)
    two, _, told = run(moved)
    assert one != two
    assert told.totals["caching"] == 1


def test_the_name_of_a_cache_holds_all_that_changes_firings():
    settings = study.cache_settings(study.CacheSection())
    other = study.cache_settings(study.CacheSection(mask_special=False))
    names = {
        cache_id("corpus", "subject", "coder", settings, "float32"),
        cache_id("corpus", "subject", "coder", settings, "bfloat16"),
        cache_id("corpus", "subject", "coder", other, "float32"),
        cache_id("corpus", "subject", "coder 2", settings, "float32"),
        cache_id("corpus", "subject 2", "coder", settings, "float32"),
        cache_id("corpus 2", "subject", "coder", settings, "float32"),
    }
    assert len(names) == 6


def test_one_latent_is_scored_against_the_explanations_of_those_that_are_not(moved):
    name, latents, _ = run(moved, score={"scorers": ("embedding",)})
    with sqlite3.connect(moved / "study.db") as db:
        for table in ("scores", "verdicts", "trials"):
            db.execute(f"delete from {table}")
    job = ScoreJob(
        study.EngineSection(),
        study.ScoreSection(scorers=("embedding",), embedder=str(moved / "embedder"), n_controls=3),
        latents[:1],
    )
    score_explanations(moved / "study.db", name, job, tiny_study.Told())
    assert count(moved, "select count(distinct explanation_id) from scores") == 2
    assert count(moved, "select min(n_controls) from scores") == 3


def test_scores_of_two_detection_prompts_stand_side_by_side(moved, tmp_path):
    name, latents, _ = run(moved, score={"scorers": ("detection",)})
    before = count(moved, "select count(*) from scores")
    prompt = tmp_path / "other.toml"
    prompt.write_text(
        'description = "x"\n[[messages]]\nrole = "user"\ntext = "$explanation?\\n$window"\n'
    )
    whole = read_study(moved / "study.toml")
    section = whole.score.model_copy(update={"scorers": ("detection",), "prompt": str(prompt)})
    job = ScoreJob(whole.engine, section, latents)
    score_explanations(moved / "study.db", name, job, tiny_study.Told())
    assert count(moved, "select count(*) from scores") == 2 * before
    assert count(moved, "select count(distinct settings) from scores") == 2
    # No null holds a control that was judged with the other prompt.
    assert count(moved, "select max(n_controls) from scores") == whole.score.n_controls


def test_a_damaged_blob_is_one_line(moved):
    name, latents, _ = run(moved)
    with sqlite3.connect(moved / "study.db") as db:
        db.execute("update firings set packed = x'00'")
    with read_results(moved / "study.db") as db, pytest.raises(ResultsError, match="damaged"):
        cached.load_firings(db, caches.load_caches(db)[0], latents[0])


def test_a_cache_without_details_gets_them_when_it_is_asked_for_again(moved):
    run(moved)
    question = "select count(*), sum(promoted is null) from latent_details"
    with sqlite3.connect(moved / "study.db") as db:
        n, missing = db.execute(question).fetchone()
        assert n == db.execute("select n_latents from coders").fetchone()[0]
        assert missing == 0
        before = db.execute("select * from latent_details order by latent").fetchall()
        db.execute("delete from latent_details")
    _, _, told = run(moved)
    assert any("looking at each latent" in line for line in told.lines)
    with sqlite3.connect(moved / "study.db") as db:
        assert db.execute("select * from latent_details order by latent").fetchall() == before


def test_harder_silent_windows_are_drawn_with_their_strata_and_weights(moved):
    harder = {"n_same_token": 2, "n_sibling": 2, "n_near": 2, "embedder": str(moved / "embedder")}
    _, _, told = run(moved, examples=harder, explain={"explainers": ("token_list",)})
    assert "embedding windows" in told.totals
    strata = """select stratum, count(*), min(weight) from example_set_windows
                where role = 'scored' and stratum not like 'decile%' group by stratum"""
    with sqlite3.connect(moved / "study.db") as db:
        found = {row[0]: row[1:] for row in db.execute(strata)}
        silent = db.execute(
            """select count(*) from example_set_windows join windows on windows.id = window_id
               where stratum not like 'decile%' and role = 'scored' and max_value > 0"""
        ).fetchone()[0]
    assert {"random", "near"} <= set(found) <= {"random", "near", "sibling", "same_token"}
    assert all(weight >= 1 for _, weight in found.values())
    assert silent == 0
    _, _, again = run(moved, examples=harder, explain={"explainers": ("token_list",)})
    assert "embedding windows" not in again.totals
    with read_results(moved / "study.db") as db:
        (cache,) = caches.load_caches(db)
        metrics = [row["metrics"] for row in trials.load_scores(db, cache.id)]
    assert any("near" in each["strata"] for each in metrics)
    assert any(0 < each.get("base_rate", 0) < 1 for each in metrics)
