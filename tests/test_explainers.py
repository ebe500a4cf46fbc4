"""Explainers that see more than marked excerpts, or that try what they write."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from lite_interp.engine import EngineFailure
from lite_interp.engine.scripted import ScriptedEngine
from lite_interp.errors import UsageError
from lite_interp.explain import (
    EXPLAINERS,
    Evidence,
    explain,
    explain_group,
    explanation_id,
    find_explainer,
    helper_prompts,
    refuse_unknown,
)
from lite_interp.explain.answers import read
from lite_interp.explain.asking import ask_engine
from lite_interp.explain.base import Means
from lite_interp.explain.trying import can_try, try_out
from lite_interp.explain.windows import about_windows, ask, marked_words
from lite_interp.prompts import Prompt, load_prompt
from lite_interp.records import ExampleSet, Placed, Steering, Window

REVISE, BEST_OF = EXPLAINERS["revise"], EXPLAINERS["best_of"]


def window(text: str, *values: float, number: int = 0) -> Window:
    """A window of tokens with `|` between them."""
    return Window(
        f"b2:{number}", 5, number, 0, tuple(text.split("|")), np.array(values, np.float32)
    )


def prompt(text: str, **keys) -> Prompt:
    messages = [{"role": "user", "text": text}]
    return Prompt.model_validate({"name": "t", "description": "d", "messages": messages, **keys})


SHOWN = (
    window("the| year| was", 0, 8, 0, number=0),
    window("two| years| later", 0, 4, 3, number=1),
)
ACTIVE = [window(f"it was the year|{n}", 5.0, 0.0, number=10 + n) for n in range(4)]
SILENT = [window(f"a green tree|{n}", 0.0, 0.0, number=20 + n) for n in range(4)]


def example_set(held_out=(), name="b2:set") -> ExampleSet:
    shown = tuple(Placed(each, "decile_0", 1.0) for each in SHOWN)
    held = tuple(
        Placed(each, "decile_1" if each.peak > 0 else "same_token", 1.0) for each in held_out
    )
    return ExampleSet(name, 5, "quantiles", {}, 0, shown, (), held)


TRIED = example_set([*ACTIVE, *SILENT])


def judge_by_words(text: str) -> dict[str, float]:
    """Yes, if a word of the meaning stands in the text that is judged."""
    found = re.findall(r"Meaning:\n(.*?)\nText:\n(.*?)\nAnswer:", text, re.DOTALL)
    meaning, excerpt = found[-1]
    return {"Yes": float(sum(word in excerpt for word in meaning.split()))}


class Script(ScriptedEngine):
    """Writes the next of several answers, judges by words, and keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.asked: list[str] = []
        self.n_tried = 0
        left = list(answers)

        def write(text: str) -> str:
            self.asked.append(text)
            return " " + (left.pop(0) if left else "nothing more")

        super().__init__(write, judge_by_words)

    def answers(self, prefix, suffixes, choices, root=0):
        self.n_tried += len(suffixes)
        return super().answers(prefix, suffixes, choices, root)


def means(engine, explainer) -> Means:
    return Means(engine, None, explainer.settings, helper_prompts(explainer))


# What is shown


def test_activations_are_told_on_the_papers_scale():
    """floor(10 x / 8): 8, 4 and 3 are 10, 5 and 3; 3 is above 0.3 of its window's 4."""
    (message,) = ask(TRIED, prompt("$excerpts_with_activations"), 9)
    assert message.text == (
        '1. the <<year>> was\nActivations: ("year", 10)\n'
        '2. two <<years later>>\nActivations: ("years", 5), ("later", 3)'
    )


def test_one_number_is_all_that_the_activations_add():
    (plain,) = ask(TRIED, prompt("$excerpts"), 9)
    (told,) = ask(TRIED, prompt("$excerpts_with_activations"), 9)
    kept = [line for line in told.text.splitlines() if not line.startswith("Activations")]
    assert kept == plain.text.splitlines()


def test_a_word_of_several_tokens_is_one_marked_word():
    assert marked_words(TRIED) == ["year", "years later"]


def test_the_contrast_shows_silent_windows_without_marks():
    asked = prompt("$excerpts\n--\n$silent_excerpts")
    engine = Script("years")
    found = explain(Evidence(TRIED), EXPLAINERS["contrastive"], asked, engine)
    assert (found.text, found.failure) == ("years", None)
    (text,) = engine.asked
    silent = text.partition("--\n")[2]
    assert silent.startswith("1. a green tree0\n2. a green tree1\n3. a green tree2")
    assert "it was the year" not in text, "an activating held-out window is no contrast"


def test_the_contrast_without_silent_windows_is_a_failure():
    asked = prompt("$excerpts $silent_excerpts")
    found = explain(Evidence(example_set(ACTIVE)), EXPLAINERS["contrastive"], asked, Script("x"))
    assert (found.text, found.failure) == (None, "no_silent_windows")


STEERED = Steering(
    "b2:s", "b2:set", {}, 1.0, 1.0, 1.0, {"shown": [["on a", [[" day", 0.3]]]]}, None, ()
)


def test_input_and_output_stand_in_one_question():
    asked = prompt("$excerpts|$words|$endings|$raised")
    engine = Script("time")
    found = explain(Evidence(TRIED, STEERED), EXPLAINERS["input+output"], asked, engine)
    assert found.text == "time"
    assert "2. two <<years later>>|year, years later|1. on a → day|day" in engine.asked[0]


@pytest.mark.parametrize("steering", [None, replace(STEERED, failure="no_prompts")])
def test_input_alone_is_no_input_and_output(steering):
    asked = prompt("$excerpts $endings")
    found = explain(Evidence(TRIED, steering), EXPLAINERS["input+output"], asked, Script("x"))
    assert found.failure == "no_output"


# Thinking aloud


def test_the_answer_stands_behind_the_last_mark():
    raw = "Meaning: first thought.\nBut no.\nMeaning: the last word.\nAnd more"
    assert read(raw, (), "Meaning:").text == "the last word"
    assert read(raw, (), "So:").failure == "unfinished"
    assert read("thoughts\nMeaning:", (), "Meaning:").failure == "empty"


def test_thoughts_may_have_many_lines_and_more_tokens():
    seen = []

    class Seen(ScriptedEngine):
        def generate(self, prompts, how, root=0):
            seen.append(how)
            return super().generate(prompts, how, root)

    thinking = prompt("$excerpts", answer_mark="Meaning:", max_tokens=200)
    engine = Seen({"": "one\ntwo\nMeaning: years"})
    assert explain(Evidence(TRIED), EXPLAINERS["llm"], thinking, engine).text == "years"
    assert (seen[0].max_tokens, seen[0].stop) == (200, ())
    explain(Evidence(TRIED), EXPLAINERS["llm"], prompt("$excerpts"), engine)
    assert (seen[1].max_tokens, seen[1].stop) == (48, ("\n",))


# Trying


def test_an_explanation_is_tried_on_held_out_windows_alone():
    engine = Script()
    found = try_out("year", TRIED, means(engine, REVISE))
    assert (found.auroc, found.missed, found.mistaken) == (1.0, (), ())
    assert engine.n_tried == 8
    assert found.usage.prompt_tokens > 0


def test_missed_and_mistaken_windows_are_those_on_the_wrong_half():
    wrong = try_out("green", TRIED, means(Script(), REVISE))
    assert wrong.auroc == 0.0
    assert set(wrong.missed) <= set(ACTIVE) and set(wrong.mistaken) <= set(SILENT)
    assert len(wrong.missed) == len(wrong.mistaken) == 4
    none = try_out("purple", TRIED, means(Script(), REVISE))
    assert (none.auroc, none.missed, none.mistaken) == (0.5, (), ())


def test_three_windows_of_each_kind_are_needed():
    assert can_try(example_set([*ACTIVE[:3], *SILENT[:3]]))
    assert not can_try(example_set([*ACTIVE[:2], *SILENT]))
    assert not can_try(example_set([*ACTIVE, *SILENT[:2]]))


@pytest.mark.parametrize("explainer", [REVISE, BEST_OF], ids=["revise", "best_of"])
def test_without_enough_held_out_windows_it_says_so_and_asks_nobody(explainer):
    engine = Script("x")
    few = Evidence(example_set([*ACTIVE, *SILENT[:2]], "b2:few"))
    group = [few, Evidence(TRIED)]
    (first, _), (second, _) = explain_group(group, explainer, load_prompt(explainer.prompt), engine)
    assert (first.text, first.failure, first.detail) == (None, "few_held_out", None)
    assert second.text is not None


def test_a_judge_that_fails_leaves_the_draft():
    class NoJudge(Script):
        def answers(self, prefix, suffixes, choices, root=0):
            raise EngineFailure("code -1")

    found = explain(Evidence(TRIED), REVISE, load_prompt("explain/revise"), NoJudge("green"))
    assert (found.text, found.failure) == ("green", None)
    assert found.detail["drafts"] == [{"text": "green", "failure": None, "held_out_auroc": None}]
    best = explain(Evidence(TRIED), BEST_OF, load_prompt("explain/small"), NoJudge("a", "b"))
    assert best.text == "a"


# Revising

ASKED = prompt("was: $draft\n$excerpts\nmissed:\n$missed\nmistaken:\n$mistaken")


def test_a_revision_that_is_better_on_held_out_windows_is_kept():
    engine = Script("green", "the year")
    found = explain(Evidence(TRIED), REVISE, ASKED, engine)
    assert (found.text, found.raw) == ("the year", " the year")
    assert found.detail == {
        "drafts": [
            {"text": "green", "failure": None, "held_out_auroc": 0.0},
            {"text": "the year", "failure": None, "held_out_auroc": 1.0},
        ],
        "kept": 1,
    }
    first, second = engine.asked
    assert "green" not in first
    assert "was: green" in second
    assert "missed:\n1. <<it was the year>>" in second and "mistaken:\n1. a green tree" in second
    assert engine.n_tried == 16


def test_a_revision_that_is_no_better_is_thrown_away():
    found = explain(Evidence(TRIED), REVISE, ASKED, Script("was green", "green"))
    assert (found.text, found.detail["kept"]) == ("was green", 0)
    same = explain(Evidence(TRIED), REVISE, ASKED, Script("purple tree", "purple tree"))
    assert (same.text, same.detail["kept"]) == ("purple tree", 0)


def test_what_was_tried_before_is_not_tried_again():
    engine = Script("green", "green")
    explain(Evidence(TRIED), REVISE, ASKED, engine)
    assert engine.n_tried == 8


def test_where_nothing_is_wrong_nothing_is_revised():
    engine = Script("year", "tree")
    found = explain(Evidence(TRIED), REVISE, ASKED, engine)
    assert (found.text, len(engine.asked), len(found.detail["drafts"])) == ("year", 1, 1)


def test_a_revision_that_is_no_explanation_leaves_the_draft():
    found = explain(Evidence(TRIED), REVISE, ASKED, Script("green", "I cannot say that"))
    assert (found.text, found.failure) == ("green", None)
    assert found.detail["drafts"][1]["failure"] == "refusal"


def test_a_draft_that_is_no_explanation_is_the_failure():
    found = explain(Evidence(TRIED), REVISE, ASKED, Script("…"))
    assert (found.text, found.failure) == (None, "empty")


def test_rounds_go_on_while_it_gets_better():
    # 0, then 0.5, then 1: a word on each half of the windows.
    engine = Script("green", "purple", "year", "never asked")
    explainer = find_explainer("revise", {"n_rounds": 5})
    found = explain(Evidence(TRIED), explainer, ASKED, engine)
    # With "purple" all margins are equal: nothing is on the wrong half, so there it ends.
    assert (found.text, len(engine.asked)) == ("purple", 2)


def test_the_mistakes_of_a_kind_that_is_not_there_are_called_none():
    shown = prompt("$draft [$missed] [$mistaken]")
    part = example_set([*ACTIVE, window("year in a green tree", 0.0, number=30), *SILENT])
    engine = Script("green year", "x")
    explain(Evidence(part), REVISE, shown, engine)
    assert re.search(r"\[\(none\)\]", engine.asked[1])


def test_latents_are_revised_side_by_side_as_one_by_one():
    other = replace(TRIED, id="b2:other", latent=6)
    group = [Evidence(TRIED), Evidence(other)]
    together = explain_group(
        group, REVISE, ASKED, ScriptedEngine({"was: ": " year", "": " green"}, judge_by_words)
    )
    apart = [
        explain(
            each, REVISE, ASKED, ScriptedEngine({"was: ": " year", "": " green"}, judge_by_words)
        )
        for each in group
    ]
    assert [each for each, _ in together] == apart
    assert all(usage.prompt_tokens > 0 for _, usage in together)


# The best of several


def test_the_best_draft_on_held_out_windows_is_kept():
    explainer = find_explainer("best_of", {"k": 3})
    engine = Script("green", "year", "green")
    found = explain(Evidence(TRIED), explainer, prompt("$excerpts"), engine)
    assert (found.text, found.detail["kept"]) == ("year", 1)
    assert [row["held_out_auroc"] for row in found.detail["drafts"]] == [0.0, 1.0, 0.0]
    assert engine.n_tried == 16, "the same text is tried once"


def test_drafts_that_are_no_explanation_do_not_count():
    explainer = find_explainer("best_of", {"k": 2})
    found = explain(Evidence(TRIED), explainer, prompt("$excerpts"), Script("…", "green"))
    assert (found.text, found.detail["kept"]) == ("green", 1)
    nothing = explain(Evidence(TRIED), explainer, prompt("$excerpts"), Script("…", "!"))
    assert (nothing.text, nothing.failure) == (None, "empty")


def test_drafts_of_one_prompt_differ_and_are_the_same_again():
    explainer = find_explainer("best_of", {"k": 4, "max_tokens": 12})
    found = [
        explain(Evidence(TRIED), explainer, prompt("$excerpts"), ScriptedEngine()) for _ in range(2)
    ]
    assert found[0] == found[1]
    texts = [row["text"] for row in found[0].detail["drafts"]]
    assert len(set(texts)) > 1


def test_a_prompt_that_is_answered_several_times_is_read_once():
    roots = []

    class Rooted(ScriptedEngine):
        def generate(self, prompts, how, root=0):
            roots.append([root, *map(len, prompts)])
            return super().generate(prompts, how, root)

    other = replace(TRIED, id="b2:other", latent=6)
    explainer = find_explainer("best_of", {"k": 3})
    group = [Evidence(TRIED), Evidence(other)]
    found = explain_group(group, explainer, prompt("$excerpts"), Rooted({"": " year"}))
    assert [len(set(each)) for each in roots] == [1, 1], "the root is the whole prompt"
    assert found[0][1].prompt_tokens == found[1][1].prompt_tokens > 0


def test_drafts_differ_also_when_the_engine_broke_down_over_several_latents():
    class Small(ScriptedEngine):
        def generate(self, prompts, how, root=0):
            if len(prompts) > 3:
                raise EngineFailure("no memory")
            return super().generate(prompts, how, root)

    group = [Evidence(replace(TRIED, id=name)) for name in ("b2:a", "b2:b") for _ in range(3)]
    drawing = find_explainer("llm", {"temperature": 1.0, "max_tokens": 12})
    able = Means(Small(), prompt("$excerpts"), drawing.settings)
    raw = [answer.raw for answer in ask_engine(group, able, about_windows)]
    assert len(set(raw[:3])) == 3
    assert raw[:3] == raw[3:]
    broken = Means(Small(), able.prompt, drawing.settings)
    found = ask_engine([group[0]] * 4, broken, about_windows)
    assert [answer.failure for answer in found] == ["engine: no memory"] * 4


def test_rounding_is_no_improvement(monkeypatch):
    areas = iter([0.58, 0.58 + 1e-16, 0.58, 0.58 + 1e-16])
    monkeypatch.setattr("lite_interp.stats.auroc", lambda active, values: next(areas))
    found = explain(Evidence(TRIED), REVISE, ASKED, Script("green", "tree"))
    assert (found.text, [row["held_out_auroc"] for row in found.detail["drafts"]]) == (
        "green",
        [0.58, 0.58],
    )
    asked, two = prompt("$excerpts"), find_explainer("best_of", {"k": 2})
    assert explain(Evidence(TRIED), two, asked, Script("green", "tree")).text == "green"


# Names and settings


def test_every_setting_changes_the_name_of_an_explanation():
    for name, explainer in EXPLAINERS.items():
        asked = load_prompt(explainer.prompt) if explainer.prompt else None
        names = {explanation_id(Evidence(TRIED), explainer, asked, "engine")}
        for key, value in explainer.settings.items():
            changed = find_explainer(name, {key: value + 1})
            names.add(explanation_id(Evidence(TRIED), changed, asked, "engine"))
        assert len(names) == 1 + len(explainer.settings), name


def test_the_prompts_of_draft_and_judge_are_in_the_settings():
    found = explain(Evidence(TRIED), REVISE, ASKED, Script("year"))
    assert found.settings["draft_prompt"] == load_prompt("explain/small").id
    assert found.settings["judge_prompt"] == load_prompt("score/detection").id


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kk": 2}, "the explainer best_of has no setting: kk"),
        ({"k": "two"}, "wrong value of best_of.k: two"),
        ({"k": 0}, "best_of.k is out of range: 0"),
        ({"temperature": -1}, "best_of.temperature is out of range"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        find_explainer("best_of", settings)
    assert caught.value.hint


def test_what_was_made_elsewhere_has_a_name_too():
    refuse_unknown("import")
    refuse_unknown("llm")
    with pytest.raises(UsageError, match="no explainer is named: imprt"):
        refuse_unknown("imprt")


@pytest.mark.parametrize("explainer", EXPLAINERS.values(), ids=list(EXPLAINERS))
def test_every_shipped_prompt_fits_its_explainer(explainer):
    for name in filter(None, (explainer.prompt, *explainer.helpers.values())):
        load_prompt(name)
    if explainer.takes:
        own = load_prompt(explainer.prompt)
        assert own.variables <= explainer.takes.known
        assert all(some & own.variables for some in explainer.takes.needed)


def test_numbers_of_a_failed_judge_are_no_numbers():
    class NoJudge(Script):
        def answers(self, prefix, suffixes, choices, root=0):
            raise EngineFailure("code -1")

    assert math.isnan(try_out("year", TRIED, means(NoJudge(), REVISE)).auroc)
