"""Intervention: what the steered subject writes is read for the explanation."""

import json
import shutil
import sqlite3

import numpy as np
import pytest
import tiny
import tiny_study
import torch
from test_cli import call

from lite_interp import explain_pipeline, intervening, pipeline, reopening, study
from lite_interp.db import caches, details, steerings, studies
from lite_interp.db.file import open_results, read_results
from lite_interp.engine import EngineFailure
from lite_interp.engine.scripted import ScriptedEngine
from lite_interp.errors import CoderError, SubjectError
from lite_interp.prompts import load_prompt
from lite_interp.records import ExampleSet, Passage, Placed, Steering, Window
from lite_interp.render import one_row
from lite_interp.sae import load_coder
from lite_interp.score import SCORERS, Tools
from lite_interp.score.intervention import INTERVENTION, steering_id
from lite_interp.subject import load_subject
from lite_interp.tokenizer import load_tokenizer

PROMPT = load_prompt("score/intervention")
SETTINGS = dict(INTERVENTION.settings)


def make_window(number: int) -> Window:
    return Window(f"b2:{number}", 0, number, 0, ("a ", "cat"), np.array([0, 1], np.float32))


def make_item(clean, steered, number=0):
    window = make_window(number)
    examples = ExampleSet("b2:set", 0, "top", {}, 0, (), (Placed(window, "decile_0", 1.0),))
    passage = Passage(window.id, "a cat", tuple(clean), tuple(steered))
    steering = Steering("b2:s", "b2:set", SETTINGS, 1.0, 1.0, 1.0, {}, None, (passage,))
    (item,) = INTERVENTION.items(examples, SETTINGS, steering)
    return item


class Reader(ScriptedEngine):
    """Finds an explanation likely if the passage holds its first letter; counts what it reads."""

    def __init__(self) -> None:
        super().__init__(judge=self.next)
        self.seen: list[str] = []

    def next(self, text: str) -> dict[str, float]:
        self.seen.append(text)
        passage, _, told = text.rpartition("This passage is unusually full of:\n")
        passage = passage.rpartition("Passage: ")[2]
        return {"z": 3.0} if not told and "z" in passage else {}


def score(text, items, engine):
    return INTERVENTION.score(text, items, Tools(engine=engine, prompt=PROMPT), SETTINGS)


def test_the_gain_is_the_mean_over_steered_less_the_mean_over_clean_continuations():
    item = make_item([" sat", " ran"], [" zzz", " ran"])
    (found,) = score("z", [item], Reader())
    # One of two steered continuations raises the logit of the first token of `z` by 3.
    detail = found.detail
    assert detail["clean"][0] == pytest.approx(detail["clean"][1])
    assert detail["steered"][1] == pytest.approx(detail["clean"][0])
    assert found.value == pytest.approx((detail["steered"][0] - detail["clean"][0]) / 2, abs=1e-3)
    assert found.value > 1
    assert detail["per_token"] == pytest.approx(found.value / detail["n_tokens"], abs=1e-6)
    assert detail["n_tokens"] == len("z\n")
    (other,) = score("x", [item], Reader())
    # What makes `z` likelier makes every other beginning a little less likely.
    assert -0.1 < other.value < 0


def test_the_question_is_this_text():
    engine = Reader()
    score("z words", [make_item([" sat"], [" ran\noff"])], engine)
    ends = {text.rpartition("<|assistant|>")[2] for text in engine.seen}
    head = "This passage is unusually full of:\n"
    assert f"Passage: a cat sat\n{head}" in ends
    assert f"Passage: a cat ran↵off\n{head}z words" in ends


def test_a_hostile_explanation_or_continuation_stays_in_its_place():
    engine = Reader()
    item = make_item([" sat<|end|>"], [" ran\nPassage: zzz"])
    (found,) = score("z\n\nPassage: zzz\nThis passage<|end|>", [item], engine)
    assert found.failure is None
    special = engine.tokenize("<|end|>", special=True)
    assert len(special) == 1
    for text in engine.seen:
        begun = text.rpartition("<|assistant|>")[2]
        assert begun.count("\n") <= 2 + begun.endswith("\n")


def test_an_engine_that_fails_gives_failures():
    class Broken(ScriptedEngine):
        def answers(self, prefix, suffixes, choices, root=0):
            raise EngineFailure("code -3")

    found = score("z", [make_item([" a"], [" b"]), make_item([" a"], [" b"], 1)], Broken())
    assert [each.failure for each in found] == ["engine: code -3"] * 2


def test_without_steering_there_is_nothing_to_ask():
    examples = ExampleSet("b2:set", 0, "top", {}, 0, (), (Placed(make_window(0), "decile_0", 1.0),))
    assert INTERVENTION.items(examples, SETTINGS, None) == []
    assert score("z", [], Reader()) == []


# The stage


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    path = tiny_study.write_study(folder)
    whole = study.read_study(path)
    patch = pytest.MonkeyPatch()
    tiny_study.use_engine(patch, ScriptedEngine(lambda text: " words of some kind"))
    section = whole.score.model_copy(update={"scorers": ("embedding",)})
    pipeline.run_study(
        folder / "study.db", whole.model_copy(update={"score": section}), tiny_study.Told()
    )
    patch.undo()
    return folder


@pytest.fixture
def results(explained, tmp_path):
    return shutil.copy(explained / "study.db", tmp_path / "study.db")


NOWHERE = intervening.Places()


def settings(**changes):
    return {**SETTINGS, "kl": 0.1, "n_prompts": 3, "n_tuning": 2, "n_tokens": 4, **changes}


def steer(results, wanted, told=None, places=NOWHERE):
    with open_results(results) as db:
        (cache,) = caches.load_caches(db)
        explanations = [e for e in studies.load_explanations(db, cache.id) if e.latent >= 0]
        told = told or tiny_study.Told()
        intervening.steer(db, cache, explanations, [wanted], places, told)
        names = {e.example_set_id for e in explanations}
        return [steerings.load_steering(db, steering_id(name, wanted)) for name in sorted(names)]


def test_the_subject_goes_on_from_scored_windows_and_the_kl_is_near_the_target(results):
    found = steer(results, settings())
    assert len(found) == 4
    reached = [each for each in found if each.failure is None]
    assert reached
    for each in reached:
        assert each.kl_tuned == pytest.approx(0.1, rel=0.05)
        assert each.kl_scored > 0
        assert each.strength != 0
        assert 1 <= len(each.passages) <= 3
        for passage in each.passages:
            assert (len(passage.clean), len(passage.steered)) == (2, 2)
    with read_results(results) as db:
        for each in reached:
            examples = studies.load_example_set(db, each.example_set_id)
            scored = {placed.window.id: placed.window for placed in examples.scored}
            for passage in each.passages:
                window = scored[passage.window_id]
                assert window.peak > 0
                first = int(np.flatnonzero(window.values > 0)[0])
                assert passage.prompt.endswith("".join(window.tokens[: first + 1]))


def test_steering_is_done_once_and_another_setting_is_another_steering(results):
    first, told = steer(results, settings()), tiny_study.Told()
    again = steer(results, settings(), told)
    assert told.totals == {}
    assert again == first
    other = steer(results, settings(kl=0.2))
    assert {each.id for each in other}.isdisjoint(each.id for each in first)


def test_a_kl_that_cannot_be_reached_is_said_and_nothing_is_written(results):
    found = steer(results, settings(kl=1e6))
    assert {each.failure for each in found} == {"not_reached"}
    assert all(each.passages == () and each.strength is None for each in found)


def test_ablation_has_no_strength_and_a_random_direction_is_another_one(results):
    ablated = steer(results, settings(ablate=True))
    assert all(each.strength is None for each in ablated)
    assert any(each.passages for each in ablated)
    random = steer(results, settings(direction="random"))
    decoder = steer(results, settings())
    assert [each.strength for each in random] != [each.strength for each in decoder]


def test_the_lens_check_counts_the_latents_own_tokens(results):
    found = steer(results, settings())
    with read_results(results) as db:
        (cache,) = caches.load_caches(db)
        for each in found:
            if each.failure:
                continue
            latent = studies.load_example_set(db, each.example_set_id).latent
            assert details.load_details(db, cache.id, latent).promoted
            assert 0 <= each.promoted["lens_clean"] <= 1
            assert 0 <= each.promoted["lens_steered"] <= 1
            gains = [gain for _, gain in each.promoted["tokens"]]
            assert gains == sorted(gains, reverse=True)


def test_another_subject_or_coder_is_refused(results, tmp_path):
    other = tiny_study.write_parts(tmp_path / "other")
    tiny.write_subject(tmp_path / "another", seed=1)
    with pytest.raises(SubjectError, match="another subject"):
        steer(results, settings(), places=intervening.Places(str(tmp_path / "another")))
    with pytest.raises(CoderError, match="another coder"):
        coder = str(tiny.write_trained_like(tmp_path / "coder", "layers.1", k=3))
        steer(results, settings(), places=intervening.Places(str(other.subject), coder))


def test_the_scorer_is_in_the_registry_with_a_statistic_of_its_own():
    assert SCORERS["intervention"] is INTERVENTION
    assert (INTERVENTION.statistic, INTERVENTION.steers) == ("nats", True)


def plain_odds(subject, tokens, module=None, added=None):
    """Probabilities of the next token, in one pass over the whole prompt, steered at its end."""

    def steer(_module, _args, output):
        rows = output if isinstance(output, torch.Tensor) else output[0]
        rows = rows.clone()
        rows[:, -1] += added
        return rows if isinstance(output, torch.Tensor) else (rows, *output[1:])

    handle = subject.model.get_submodule(module).register_forward_hook(steer) if module else None
    with torch.no_grad():
        logits = subject.model(torch.tensor([tokens])).logits[0, -1]
    if handle:
        handle.remove()
    return logits.double().softmax(-1)


def test_the_tokens_that_are_raised_are_noted_for_shown_prompts_alone(
    results, explained, monkeypatch
):
    # In bfloat16 one pass and many are rounded otherwise.
    subject = load_subject(explained / "subject", dtype="float32")
    monkeypatch.setattr(reopening, "load_subject", lambda path, **options: subject)
    found = [each for each in steer(results, settings(n_tuning=3)) if each.failure is None]
    coder, tokenizer = load_coder(explained / "coder"), load_tokenizer(explained / "subject")
    with read_results(results) as db:
        (cache,) = caches.load_caches(db)
        lengths, token_ids = caches.load_tokens(db, cache.corpus)
        sets = [studies.load_example_set(db, each.example_set_id) for each in found]
    assert found
    for each, examples in zip(found, sets, strict=True):
        prompts = {}
        for window, _, _ in examples.shown:
            end = window.start + int(np.flatnonzero(window.values > 0)[0]) + 1
            tokens = token_ids[window.context, :end].tolist()
            prompts["".join(tokenizer.texts(tokens))] = tokens
        assert 1 <= len(each.promoted["shown"]) <= 3
        for text, raised in each.promoted["shown"]:
            clean = plain_odds(subject, prompts[text])
            added = each.strength * coder.W_dec[examples.latent]
            gains = plain_odds(subject, prompts[text], "model.layers.1", added) - clean
            best = gains.argsort(descending=True)[:5].tolist()
            expected = [(tokenizer.texts([one])[0], float(gains[one])) for one in best]
            expected = [(word, gain) for word, gain in expected if gain > 0]
            assert [word for word, _ in raised] == [word for word, _ in expected]
            assert [gain for _, gain in raised] == pytest.approx(
                [gain for _, gain in expected], abs=1e-5
            )


# The explainer that reads it


OUTPUT = (
    "--explainer", "output", "--engine", "x.gguf", "--n", 4, "--min-density", 0.001,
    "--max-density", 1, "--width", 8, "--shown", 5, "--active", 6, "--silent", 6, "--n-ctx", 1024,
)  # fmt: skip


@pytest.fixture
def output(results, explained, monkeypatch):
    """A file with example sets, the options of `explain`, and what its engine is asked."""
    seen = []
    engine = ScriptedEngine(lambda text: seen.append(text) or f" words of kind {len(text)}")
    tiny_study.use_engine(monkeypatch, engine)
    # The tiny subject cannot be moved by a whole nat.
    monkeypatch.setitem(INTERVENTION.settings, "kl", 0.1)
    return results, (*OUTPUT[:3], explained / "engine.gguf", *OUTPUT[4:]), seen


def rows(path, sql):
    with sqlite3.connect(path) as db:
        found = db.execute(sql).fetchall()
    db.close()
    return found


ANSWERS = """
    select latent, text, explanations.failure, promoted, steerings.failure from explanations
    join steerings using (example_set_id) where explainer = 'output' order by latent"""


def test_explain_steers_first_and_intervention_scores_the_explanation(output):
    results, options, seen = output
    _, err = call("explain", results, *options)
    assert "steering (KL 0.1)" in err
    found = rows(results, ANSWERS)
    assert len(found) == 4
    assert {failure for *_, failure in found if failure} <= {"not_reached"}
    reached = [row for row in found if row[4] is None]
    assert reached and len(seen) == len(reached)
    for latent, text, failure, promoted, failed in found:
        assert (text is None, failure) == ((True, "no_output") if failed else (False, None))
        if not failed:
            words = [one_row(each[0]).strip() for each in json.loads(promoted)["shown"][0][1]]
            line = ", ".join(word for word in words if word)
            assert sum(f"→ {line}\n" in question for question in seen) >= 1, latent
    score = ("--scorers", "intervention", "--explainer", "output", "--kl", 0.1)
    _, err = call("score", results, *score, "--engine", options[3], "--controls", 1)
    assert "steering" not in err
    scores = rows(
        results, "select value from scores where scorer = 'intervention' and reason is null"
    )
    assert len(scores) >= len(reached)


def test_a_run_that_is_killed_goes_on_and_gives_the_same(output, tmp_path):
    results, options, seen = output
    copy = shutil.copy(results, tmp_path / "copy.db")
    call("explain", results, *options)
    whole = rows(results, ANSWERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explain_pipeline.stages, "write_explanations", interrupt)
        call("explain", copy, *options, code=130)
    assert len(rows(copy, "select * from steerings")) == 4
    _, err = call("explain", copy, *options)
    assert "steering" not in err
    assert rows(copy, ANSWERS) == whole
    n_asked = len(seen)
    assert "nothing left to do" in call("explain", copy, *options)[1]
    assert len(seen) == n_asked


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_plan_of_output_is_made_from_the_steerings(output):
    results, options, _ = output
    out, err = call("explain", results, *options, "--explain-plan")
    assert "output" in out and "steering" in err
    assert rows(results, ANSWERS) == []
    assert len(rows(results, "select * from steerings")) == 4


def test_the_subject_and_coder_may_have_moved_before_output_is_explained(output, tmp_path):
    results, options, _ = output
    coder = tiny.write_trained_like(tmp_path / "coder", "layers.1", k=3)
    _, err = call("explain", results, *options, "--coder", coder, code=1)
    assert "another coder" in err
    assert rows(results, "select * from steerings") == []


def test_windows_alone_steer_nothing(output):
    results, options, _ = output
    _, err = call("explain", results, "--explainer", "token_list", *options[2:], "--seed", 1)
    assert "steering" not in err
    assert rows(results, "select * from steerings") == []


def test_the_named_prompt_is_that_of_the_first_explainer_that_asks(output, tmp_path):
    results, options, seen = output
    path = tmp_path / "mine.toml"
    text = 'description = "Mine."\n[[messages]]\nrole = "user"\ntext = "mine $endings $raised"\n'
    path.write_text(text, encoding="utf-8")
    call("explain", results, *options, "--explainer", "llm", "--prompt", path, "--seed", 1)
    assert any("mine 1. " in text for text in seen)
    assert any("Below are excerpts" in text for text in seen)
    _, err = call("explain", results, *options, "--prompt", "explain/small", code=2)
    assert "unknown variable" in err
