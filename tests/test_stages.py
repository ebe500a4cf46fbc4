"""Stages go on where they stopped, compute nothing twice, and end with the same bytes."""

import re
import shutil
import sqlite3

import pytest
import tiny_study

from lite_interp import explain_pipeline, pipeline, scoring, stages, study
from lite_interp.db import caches, studies
from lite_interp.db import trials as trial_rows
from lite_interp.db.file import open_results, read_results
from lite_interp.engine.scripted import ScriptedEngine
from lite_interp.explain import EXPLAINERS
from lite_interp.ids import content_id
from lite_interp.pipeline import ExplainJob, ScoreJob, cache_corpus, explain_latents
from lite_interp.prompts import load_prompt
from lite_interp.score import SCORERS, Tools
from lite_interp.scoring import Judging, Wanted

DETECTION = SCORERS["detection"]
PROMPT = load_prompt("score/detection")
EXAMPLES = study.ExamplesSection(width=8, n_shown=4, n_active=6, n_silent=6)


def fraction(text: str) -> float:
    return int(content_id(text)[3:9], 16) / 16**6


def write(prompt: str) -> str:
    """Something that depends on the excerpts; for some latents nothing."""
    (excerpts,) = re.findall(r"^1\. .*?(?=\n\n)", prompt, re.DOTALL | re.MULTILINE)
    return " words of kind " + content_id(excerpts)[3:8] if fraction(excerpts) > 0.4 else " …"


def judge(text: str) -> dict[str, float]:
    return {"Yes": 4 * fraction(text), "No": 4 * fraction("no" + text)}


class Counted(ScriptedEngine):
    """Counts finished calls, and is interrupted in the middle of the one after `stop_after`."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(write, judge)
        self.n_written_prompts = self.n_judged = 0
        self.stop_after = stop_after

    def _maybe_stop(self) -> None:
        if self.stop_after is not None and self.n_written_prompts + self.n_judged > self.stop_after:
            raise KeyboardInterrupt

    def generate(self, prompts, how, root=0):
        self.n_written_prompts += 1
        self._maybe_stop()
        return super().generate(prompts, how, root)

    def answers(self, prefix, suffixes, choices, root=0):
        self.n_judged += 1
        self._maybe_stop()
        return super().answers(prefix, suffixes, choices, root)


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A cache and nothing else."""
    folder = tmp_path_factory.mktemp("cached")
    parts = tiny_study.write_parts(folder)
    cache_corpus(folder / "cached.db", tiny_study.cache_job(parts), tiny_study.Told())
    return folder / "cached.db"


@pytest.fixture
def results(cached, tmp_path):
    """A copy of the cache to write to."""
    return shutil.copy(cached, tmp_path / "results.db")


@pytest.fixture
def use(monkeypatch, cached):
    """Makes the pipeline use an engine."""

    def put(engine: ScriptedEngine) -> ScriptedEngine:
        tiny_study.use_engine(monkeypatch, engine)
        return engine

    return put


def explain(results, cached, latents, told=None):
    job = ExplainJob(
        0,
        study.LatentsSection(indices=tuple(latents)),
        EXAMPLES,
        study.EngineSection(model=str(cached)),
        study.ExplainSection(explainers=("token_list", "llm")),
    )
    return explain_latents(results, "", job, told or tiny_study.Told()).latents


def score(results, cached, told=None, **section):
    told = told or tiny_study.Told()
    wanted = {"embedder": str(cached), "n_controls": 2, **section}
    job = ScoreJob(study.EngineSection(model=str(cached)), study.ScoreSection(**wanted))
    pipeline.score_explanations(results, "", job, told)
    return told


LATENTS = (0, 3, 5, 8, 11)


def test_a_study_that_is_interrupted_again_and_again_ends_as_if_it_never_was(
    results, cached, use, tmp_path
):
    whole = shutil.copy(cached, tmp_path / "whole.db")
    once = use(Counted())
    explain(whole, cached, LATENTS)
    score(whole, cached)
    n_stops = 0
    n_done = {"generate": 0, "answers": 0}
    while True:
        engine = use(Counted(stop_after=3))
        try:
            explain(results, cached, LATENTS)
            score(results, cached)
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
            n_stops += 1
        finished = engine.n_written_prompts + engine.n_judged - interrupted
        assert finished <= 3
        n_done["generate"] += engine.n_written_prompts
        n_done["answers"] += engine.n_judged
        if not interrupted:
            break
        assert n_stops < 50
    assert n_stops > 4
    assert sum(n_done.values()) - n_stops == once.n_written_prompts + once.n_judged
    assert tiny_study.dump(results) == tiny_study.dump(whole)


def test_an_interrupted_unit_leaves_nothing(results, cached, use):
    use(Counted())
    explain(results, cached, LATENTS)
    use(Counted(stop_after=0))
    with pytest.raises(KeyboardInterrupt):
        score(results, cached, scorers=("detection",))
    found = tiny_study.dump(results, "trials", "verdicts", "scores")
    assert found == {"trials": [], "verdicts": [], "scores": []}
    with sqlite3.connect(results) as db:
        outcome = db.execute("select outcome from runs order by id desc limit 1").fetchone()[0]
    assert outcome == "interrupted"


def test_a_trial_is_stored_whole_or_not_at_all(results, cached, use, monkeypatch):
    use(Counted())
    explain(results, cached, LATENTS)
    real, n_left = trial_rows.add, [5]

    def add(db, table, row):
        n_left[0] -= table == "verdicts"
        if not n_left[0]:
            raise KeyboardInterrupt
        real(db, table, row)

    monkeypatch.setattr(trial_rows, "add", add)
    with pytest.raises(KeyboardInterrupt):
        score(results, cached)
    assert tiny_study.dump(results, "trials", "verdicts") == {"trials": [], "verdicts": []}


def test_a_second_run_does_nothing(results, cached, use):
    use(Counted())
    explain(results, cached, LATENTS)
    score(results, cached)
    before = tiny_study.dump(results)
    engine, told = use(Counted()), tiny_study.Told()
    explain(results, cached, LATENTS, told)
    score(results, cached, told)
    assert (engine.n_written_prompts, engine.n_judged) == (0, 0)
    assert set(told.totals.values()) <= {0}
    assert tiny_study.dump(results) == before


def test_an_explanation_without_text_gets_no_trial(results, cached, use):
    use(Counted())
    explain(results, cached, LATENTS)
    score(results, cached)
    with sqlite3.connect(results) as db:
        failed = db.execute("select id, failure from explanations where text is null").fetchall()
        judged = {row[0] for row in db.execute("select explanation_id from trials")}
        n_trials = db.execute(
            """select count(*) from trials join explanations on explanations.id = explanation_id
               where scorer = 'detection' and explainer = 'llm' and control = 0"""
        ).fetchone()[0]
    assert [failure for _, failure in failed] == ["empty"] * len(failed)
    assert 0 < len(failed) < 5
    assert not judged & {row[0] for row in failed}
    assert n_trials == len(LATENTS) - len(failed)


def trials(path):
    """(explanation's latent, windows' latent, explainer, scorer, control) of each trial."""
    with sqlite3.connect(path) as db:
        return {
            row[:5]: row[5]
            for row in db.execute(
                """select explanations.latent, example_sets.latent, explainer, scorer, control,
                          trials.id from trials
                   join explanations on explanations.id = explanation_id
                   join example_sets on example_sets.id = trials.example_set_id"""
            )
        }


def test_each_latent_is_judged_on_its_windows_under_its_own_and_other_explanations(
    results, cached, use
):
    use(Counted())
    explain(results, cached, LATENTS)
    score(results, cached)
    found = trials(results)
    for told, windows, _, _, control in found:
        assert (told != windows) == bool(control)
    own = {key[1:4] for key in found if not key[4]}
    assert {key[0] for key in own} == set(LATENTS)
    for windows, explainer, scorer in own:
        controls = [key for key in found if key[4] and key[1:4] == (windows, explainer, scorer)]
        n_others = len([key for key in own if key[1:] == (explainer, scorer)]) - 1
        assert len(controls) == min(2, n_others)


def pending(path, explanations, engine, n_controls=2):
    with open_results(path) as db:
        tools = Tools(engine=engine, prompt=PROMPT)
        wanted = Wanted(explanations, explanations, DETECTION, tools, Judging(n_controls))
        return [work.id for (work,) in scoring.pending_trials(db, wanted)]


def load(path):
    with read_results(path) as db:
        return studies.load_explanations(db, caches.load_caches(db)[0].id)


def test_controls_follow_from_names_and_the_order_of_latents_does_not_matter(results, cached, use):
    engine = use(Counted())
    explain(results, cached, LATENTS)
    explanations = [each for each in load(results) if each.explainer == "token_list"]
    one = pending(results, explanations, engine)
    other = pending(results, explanations[::-1], engine)
    assert len(one) == 5 * 3
    assert set(one) == set(other)
    every = set(pending(results, explanations, engine, n_controls=4))
    assert set(one) < every and len(every) == 5 * 5


def test_latents_added_later_keep_the_controls_that_were_judged(results, cached, use):
    use(Counted())
    explain(results, cached, LATENTS[:3])
    score(results, cached, explainers=("token_list",))
    before = trials(results)
    verdicts = tiny_study.dump(results, "verdicts")["verdicts"]
    assert len(before) == 2 * 3 * 3
    explain(results, cached, LATENTS)
    told = score(results, cached, explainers=("token_list",))
    after = trials(results)
    assert before.items() <= after.items()
    assert {key for key in after if key[1] in LATENTS[:3]} == set(before)
    assert told.totals == {"scoring (detection)": 2 * 3, "scoring (embedding)": 2 * 3}
    assert set(verdicts) <= set(tiny_study.dump(results, "verdicts")["verdicts"])


def test_the_unit_of_work_is_what_is_yielded(results, cached):
    with open_results(results) as db:
        (cache,) = caches.load_caches(db)
        settings = study.draw_settings(EXAMPLES)
        explain_pipeline.draw_examples(
            db,
            cache,
            [0, 3],
            EXAMPLES,
            ExplainJob(
                0, study.LatentsSection(), EXAMPLES, study.EngineSection(), study.ExplainSection()
            ),
            tiny_study.Told(),
        )
        examples = stages.load_examples(db, cache, [0, 3], settings, 0)
        work = stages.pending_explanations(db, examples, EXPLAINERS["token_list"], None, None)
        assert (work.n, len(work.groups)) == (2, 1)
        for _ in stages.write_explanations(db, cache, work, None):
            assert studies.count(db, "explanations") == 2
