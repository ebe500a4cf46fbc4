"""All scorers in one command: what they store, what they refuse, and that nothing is done twice."""

import shutil
from collections import Counter

import pytest
import tiny_study

from lite_interp import pipeline, planning, study
from lite_interp.db import caches, trials
from lite_interp.db.file import read_results
from lite_interp.engine.scripted import ScriptedEngine
from lite_interp.errors import UsageError
from lite_interp.ids import content_id
from lite_interp.oracles import ceilings
from lite_interp.score import SCORERS
from lite_interp.score_pipeline import ScoreJob, check_scorers, score_explanations

N_LATENTS = 4
EXPLAINERS = ("token_list", "llm")


def fraction(text: str) -> float:
    return int(content_id(text)[3:9], 16) / 16**6


class Judge(ScriptedEngine):
    """Says something that depends on the whole text; counts its calls, and may be interrupted."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(
            lambda text: " words of kind " + content_id(text)[3:8],
            lambda text: {"Yes": 4 * fraction(text), "No": 4 * fraction("no" + text)},
        )
        self.n_calls = 0
        self.stop_after = stop_after

    def _count(self) -> None:
        if self.stop_after is not None and self.n_calls == self.stop_after:
            raise KeyboardInterrupt
        self.n_calls += 1

    def answers(self, prefix, suffixes, choices, root=0):
        self._count()
        return super().answers(prefix, suffixes, choices, root)

    def logprobs(self, prefix, suffixes, root=0):
        self._count()
        return super().logprobs(prefix, suffixes, root)

    def digits(self, prefix, suffixes, places, highest=10, root=0):
        self._count()
        return super().digits(prefix, suffixes, places, highest, root)


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """A study of four latents, cached and explained; and what it was told."""
    folder = tmp_path_factory.mktemp("explained")
    whole = study.read_study(tiny_study.write_study(folder))
    patch = pytest.MonkeyPatch()
    tiny_study.use_engine(patch, Judge())
    section = whole.score.model_copy(update={"scorers": ("embedding",), "n_controls": 0})
    pipeline.run_study(
        folder / "study.db", whole.model_copy(update={"score": section}), tiny_study.Told()
    )
    patch.undo()
    return folder, whole


@pytest.fixture
def results(explained, tmp_path):
    return shutil.copy(explained[0] / "study.db", tmp_path / "study.db")


def job(explained, **section) -> ScoreJob:
    _, whole = explained
    changes = {"scorers": ("all",), "kl": (0.1, 0.5), "oracles": True, **section}
    return ScoreJob(whole.engine, whole.score.model_copy(update=changes))


def score(results, wanted, monkeypatch, engine=None):
    told = tiny_study.Told()
    tiny_study.use_engine(monkeypatch, engine or Judge())
    score_explanations(results, "", wanted, told)
    return told


def rows(path):
    with read_results(path) as db:
        (cache,) = caches.load_caches(db)
        return trials.load_scores(db, cache.id)


def test_every_scorer_scores_every_explanation_and_says_why_where_it_cannot(
    results, explained, monkeypatch
):
    told = score(results, job(explained), monkeypatch)
    found = [row for row in rows(results) if row["latent"] >= 0 and row["variant"] == "raw"]
    n = Counter(row["scorer"] for row in found)
    both = N_LATENTS * len(EXPLAINERS)
    assert n == {
        "detection": both, "fuzzing": both, "surprisal": both, "embedding": both,
        "intervention": 2 * both, "simulation": both, "intruder": N_LATENTS,
    }  # fmt: skip
    for row in found:
        assert (row["value"] is None) == (row["reason"] is not None), row
        if row["value"] is not None:
            assert row["low"] <= row["value"] <= row["high"]
            assert row["n_controls"] == (0 if row["scorer"] == "intruder" else 2)
            assert row["tokens"] > 0 or row["scorer"] == "embedding"
    said = [row for row in found if row["scorer"] == "detection" and row["value"] is not None]
    assert said
    for row in said:
        metrics = row["metrics"]
        assert {"balanced_accuracy", "f1", "average_precision", "brier", "ece"} <= metrics.keys()
        assert 0 < metrics["base_rate"] < 1
        assert row["q_value"] >= row["p_value"]
    assert any("steering (KL 0.1)" in label for label in told.totals)


def test_a_finished_command_does_nothing_and_a_file_that_is_scored_twice_is_the_same(
    results, explained, monkeypatch
):
    score(results, job(explained), monkeypatch)
    before, engine = tiny_study.dump(results), Judge()
    told = score(results, job(explained), monkeypatch, engine)
    assert engine.n_calls == 0
    assert set(told.totals.values()) <= {0}
    assert tiny_study.dump(results) == before


def test_scoring_that_is_interrupted_again_and_again_ends_as_if_it_never_was(
    results, explained, monkeypatch, tmp_path
):
    wanted = job(explained, oracles=False, kl=(0.1,))
    whole = shutil.copy(results, tmp_path / "whole.db")
    score(whole, wanted, monkeypatch)
    n_stops = 0
    while True:
        try:
            score(results, wanted, monkeypatch, Judge(stop_after=25))
            break
        except KeyboardInterrupt:
            n_stops += 1
            assert n_stops < 60
    assert n_stops > 3
    # What the scorers remember from one trial to the next is evaluated again: only costs differ.
    costs = ("prompt_tokens", "tokens")
    assert tiny_study.dump(results, without=costs) == tiny_study.dump(whole, without=costs)


def test_oracles_have_a_ceiling_for_each_scorer_but_no_latent_of_their_own(
    results, explained, monkeypatch
):
    score(results, job(explained), monkeypatch)
    found = ceilings(rows(results))
    assert {each.scorer for each in found} <= set(SCORERS) - {"intervention"}
    assert "detection" in {each.scorer for each in found}
    assert not [
        row for row in rows(results) if row["latent"] < 0 and row["scorer"] == "intervention"
    ]


def test_lists_and_windows_alone_stand_side_by_side(results, explained, monkeypatch):
    wanted = {"scorers": ("detection",), "oracles": False}
    score(results, job(explained, **wanted), monkeypatch)
    score(results, job(explained, list=5, **wanted), monkeypatch)
    settings = {row["settings"] for row in rows(results) if row["scorer"] == "detection"}
    assert len(settings) == 2


def test_one_way_that_is_named_twice_is_one_way(explained, monkeypatch):
    tiny_study.use_engine(monkeypatch, Judge())
    wanted = {"scorers": ("intervention", "all"), "kl": (1.0, 1.0, 0.1)}
    found = check_scorers(job(explained, **wanted))
    assert [scorer.settings["kl"] for scorer in found if scorer.steers] == [1.0, 0.1]
    assert len(found) == len(SCORERS) + 1


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"scorers": ("detecton",)}, "no scorer is named: detecton"),
        ({"settings": {"detection": {"lists": 5}}}, "detection has no setting: lists"),
        ({"settings": {"simulation": {"highest": 5}}}, "wrong value of simulation.highest: 5"),
        ({"settings": {"simulation": {"highest": "ten"}}}, "wrong value of simulation.highest"),
        ({"marks": "everywhere"}, "wrong value of fuzzing.marks: everywhere"),
        ({"settings": {"intervention": {"kl": -1.0}}}, "intervention.kl is out of range: -1.0"),
        ({"kl": (0.0,)}, "intervention.kl is out of range: 0.0"),
        ({"kl": (float("nan"),)}, "intervention.kl is out of range: nan"),
        ({"settings": {"intervention": {"n_continuations": 0}}}, "n_continuations is out of range"),
        ({"settings": {"intruder": {"n_choices": 1}}}, "intruder.n_choices is out of range: 1"),
        ({"settings": {"simulaton": {"highest": 9}}}, "no scorer is named: simulaton"),
        ({"settings": {"intervention": {"ablate": 1}}}, "wrong value of intervention.ablate"),
    ],
)
def test_what_cannot_work_is_refused_before_the_file_is_opened(
    explained, monkeypatch, section, message
):
    tiny_study.use_engine(monkeypatch, Judge())
    with pytest.raises(UsageError, match=message):
        check_scorers(job(explained, **section))


def test_a_plan_names_each_scorer_that_asks_the_engine(results, explained, monkeypatch):
    tiny_study.use_engine(monkeypatch, Judge())
    units = planning.plan_scores(
        results, "", job(explained, oracles=False, kl=(0.1,)), tiny_study.Told()
    )
    # What the steered subject would write is not there yet, so nothing can be planned of it.
    asked = {unit.unit for unit in units}
    assert asked == set(SCORERS) - {"embedding", "intervention"}
