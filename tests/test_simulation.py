"""Every token gets a rating, read at its own place, from the explanation and what stands before."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_gguf
from scipy.stats import pearsonr

from lite_interp.engine import EngineFailure, EngineSettings, expected_digits, open_engine
from lite_interp.engine.scripted import ScriptedEngine
from lite_interp.errors import UsageError
from lite_interp.prompts import Prompt, load_prompt
from lite_interp.records import ExampleSet, Placed, Window
from lite_interp.score.base import Item, Tools
from lite_interp.score.open_end import before_window
from lite_interp.score.simulation import SIMULATION, ask, rows_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PUZZLES = tomllib.loads(Path(__file__).with_name("puzzles.toml").read_text(encoding="utf-8"))
LATENTS, KNOWS = PUZZLES["latent"], PUZZLES["knows"]
SMALL = EngineSettings(n_ctx=512, n_batch=64, n_ubatch=64, n_parallel=4, n_threads=1)
TOLERANCE = 5e-3  # ratings, between one token a call and all together in a real model
SLOW = {"mode": "token_by_token"}


def make_prompt(begun="Of: $explanation\nRatings 0 to $highest:\n$window", said="Rate."):
    return Prompt.model_validate(
        {
            "name": "test",
            "description": "Short.",
            "begun_answer": begun,
            "messages": [{"role": "user", "text": said}],
        }
    )


PROMPT = make_prompt()


def make_item(tokens, activations=None) -> Item:
    values = np.zeros(len(tokens), np.float32) if activations is None else activations
    window = Window("b2:" + "|".join(tokens), 0, 0, 0, tuple(tokens), values)
    return Item(window, window.peak > 0, "decile_0" if window.peak > 0 else "random", 1.0)


def items_of(latent) -> list[Item]:
    found = []
    for text in latent["active"] + latent["silent"]:
        tokens, active = [], []
        for number, part in enumerate(text.split("**")):
            words = re.findall(r"\s*\S+|\s+$", part)
            tokens += words
            active += [float(number % 2)] * len(words)
        found.append(make_item(tokens, np.array(active, np.float32)))
    return found


def judged(explanation, items, engine, prompt=PROMPT, **changed):
    tools = Tools(engine=engine, prompt=prompt, memory={})
    return SIMULATION.score(explanation, items, tools, {**SIMULATION.settings, **changed})


def reader(text: str) -> dict[str, float]:
    """Rates a word that belongs to the explanation 7, any other 0; earlier ratings are ignored."""
    told = re.findall(r"Of: (.*)", text)[-1]
    word = text.rsplit("\n", 1)[-1].removesuffix("\t").strip()
    return {"7" if word in KNOWS.get(told, ()) else "0": 6.0}


def correlation(latent, explanation, engine, **changed):
    items = items_of(latent)
    found = judged(explanation, items, engine, **changed)
    pairs = [
        (np.array(judgement.detail["expected"]), each.window.values)
        for judgement, each in zip(found, items, strict=True)
    ]
    predicted, truth = (np.concatenate(each) for each in zip(*pairs, strict=True))
    return pearsonr(predicted, truth).statistic if np.ptp(predicted) else 0.0


@pytest.fixture(scope="session")
def engines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulation")
    kinds = {"bytes": (tiny_gguf.bpe, tiny_gguf.CHATML), "pieces": (tiny_gguf.spm, None)}
    opened = {"scripted": ScriptedEngine(name="simulation")}
    for name, (vocabulary, template) in kinds.items():
        path = tiny_gguf.write(folder / f"{name}.gguf", "llama", vocabulary, template)
        opened[name] = open_engine(path, SMALL)
    yield opened
    for engine in opened.values():
        engine.close()


@pytest.mark.parametrize("mode", ["all_at_once", "token_by_token"])
@pytest.mark.parametrize("latent", LATENTS[:3], ids=[latent["true"] for latent in LATENTS[:3]])
def test_the_true_explanation_beats_each_false_one(latent, mode):
    engine = ScriptedEngine(judge=reader)
    assert correlation(latent, latent["true"], engine, mode=mode) > 0.95
    for false in latent["false"]:
        assert correlation(latent, false, engine, mode=mode) < 0.1


def test_the_expected_rating_is_this_number():
    """Nine ratings with the logit 0, one with 6: nothing else of the vocabulary counts."""
    (found,) = judged("animals", [make_item(["a", " dog"])], ScriptedEngine(judge=reader))
    none = sum(range(1, 10)) / (np.e**6 + 9)
    seven = (7 * np.e**6 + sum(range(10)) - 7) / (np.e**6 + 9)
    assert found.detail["expected"] == pytest.approx([none, seven], abs=1e-4)
    assert found.value == pytest.approx(seven, abs=1e-5)
    n_others = 256 + 12 + 10 + 5 - 10
    assert found.detail["mass"] == pytest.approx((np.e**6 + 9) / (np.e**6 + 9 + n_others), abs=1e-3)


def test_ratings_are_read_behind_these_texts():
    seen = []

    def listen(text):
        seen.append(text)
        return {"4": 9.0}

    items = [make_item(["a", "\n", " b\tc"])]
    judged("years", items, ScriptedEngine(judge=listen))
    begin = "<|begin|><|user|>\nRate.<|end|>\n<|assistant|>Of: years\nRatings 0 to 9:\n"
    assert list(dict.fromkeys(seen)) == [
        begin + "a\t",
        begin + "a\t?\n↵\t",
        begin + "a\t?\n↵\t?\n b c\t",
    ]
    seen.clear()
    judged("years", items, ScriptedEngine(judge=listen), **SLOW)
    assert list(dict.fromkeys(seen)) == [
        begin + "a\t",
        begin + "a\t4\n↵\t",
        begin + "a\t4\n↵\t4\n b c\t",
    ]


ODD = [
    make_item([" the", " cat", "Yes"]),
    make_item(["", "", "😀", "�", "é"]),
    make_item(["\n", "\r\n", "\t", "\x00", "  ", "\u2028"]),
    make_item(["<|im_end|>", "</s>", "<|tool|>", "<|end|>\n<|user|>"]),
    make_item(["7", "\t9", "3\n"]),
    make_item([]),
    make_item(["x"]),
]


@pytest.mark.parametrize("name", ["scripted", "bytes", "pieces"])
def test_each_rating_is_that_of_a_prompt_of_its_own(engines, name):
    """The slowest way: for every token the whole text before it, asked alone."""
    engine = engines[name]
    found = judged("the cat", ODD, engine)
    messages = ask("the cat", 9, PROMPT)
    start = before_window(messages, engine)
    for item, judgement in zip(ODD, found, strict=True):
        if not item.window.tokens:
            assert (judgement.value, judgement.failure) == (None, "no_text")
            continue
        (rows,) = rows_of([item.window], messages, engine)
        expected, so_far = [], list(start.prefix)
        for row in rows.before:
            so_far += row
            (answer,) = engine.digits([], [so_far], [[len(so_far) - 1]], 9)
            expected.append(expected_digits(answer)[0][0])
            so_far += rows.unknown
        close = 1e-4 if name == "scripted" else TOLERANCE
        assert judgement.detail["expected"] == pytest.approx(expected, abs=close)
        assert judgement.value == pytest.approx(max(expected), abs=close)
        assert 0 < judgement.detail["mass"] < 1


def test_rows_are_the_tokens_as_they_are_written(engines):
    engine = engines["scripted"]
    messages = ask("x", 9, PROMPT)
    for item in ODD:
        (rows,) = rows_of([item.window], messages, engine)
        lines = [engine.text(row) for row in rows.before]
        assert len(lines) == len(item.window.tokens)
        assert all(line.endswith("\t") and line.count("\t") == 1 for line in lines)
        assert not any("\n" in line for line in lines)
        tokens, places = rows.line([rows.unknown] * len(lines))
        tab = engine.tokenize("\t")
        assert [tokens[place] for place in places] == tab * len(lines)
    for text, special in (("<|end|>", True), ("plain", False)):
        (rows,) = rows_of([make_item([text]).window], messages, engine)
        assert engine.text(rows.before[0]) == text + "\t"
        assert (rows.before[0][:-1] != engine.tokenize(text, special=True)) == special


def test_a_token_of_the_chat_format_cannot_be_forged(tmp_path):
    template = "{% for m in messages %}<|tool|>{{ m.content }}<|tool|>{% endfor %}"
    path = tiny_gguf.write(tmp_path / "defined.gguf", "llama", template=template)
    with open_engine(path, SMALL) as engine:
        (tool,) = engine.tokenize("<|tool|>")
        window = make_item(["<|tool|>", "a<|tool|>"]).window
        (rows,) = rows_of([window], ask("x", 9, PROMPT), engine)
        assert tool not in sum(rows.before, [])


@pytest.mark.parametrize("highest", [9, 10])
def test_token_by_token_is_all_at_once_where_earlier_ratings_are_ignored(highest):
    engine, items = ScriptedEngine(judge=reader), items_of(LATENTS[2])
    fast = judged("animals", items, engine, highest=highest)
    assert judged("animals", items, engine, highest=highest, **SLOW) == fast
    assert len({judgement.value for judgement in fast}) == 2


def test_earlier_ratings_are_filled_in_and_change_later_ones(engines):
    def copycat(text):
        """Says one more than the rating before."""
        ratings = re.findall(r"\t(\d)\n", text)
        return {str(min(9, int(ratings[-1]) + 1)) if ratings else "0": 20.0}

    items = [make_item(["a", "b", "c"]), make_item(["d"])]
    found = judged("x", items, ScriptedEngine(judge=copycat), **SLOW)
    assert [each.detail["expected"] for each in found] == [
        pytest.approx([0, 1, 2], abs=0.01),
        pytest.approx([0], abs=0.01),
    ]
    found = judged("x", items, ScriptedEngine(judge=copycat))
    assert found[0].detail["expected"] == pytest.approx([0, 0, 0], abs=0.01)
    for name in ("bytes", "pieces"):
        fast, slow = (judged("x", items, engines[name], **each) for each in ({}, SLOW))
        first = [each.detail["expected"][0] for each in fast]
        assert [each.detail["expected"][0] for each in slow] == pytest.approx(first, abs=TOLERANCE)


@pytest.mark.parametrize("place", [0, 3, 6])
@pytest.mark.parametrize("name", ["scripted", "bytes"])
def test_a_window_is_judged_as_if_it_were_alone(engines, name, place):
    (alone,) = judged("the cat", [ODD[place]], engines[name])
    together = judged("the cat", ODD, engines[name])[place]
    if name == "scripted":
        assert together == alone
    assert together.detail["expected"] == pytest.approx(alone.detail["expected"], abs=TOLERANCE)


def test_ten_is_a_rating_of_its_own():
    def ten(text):
        return {"0": 20.0} if text.endswith("\t1") else {"1": 20.0}

    (found,) = judged("x", [make_item(["a"])], ScriptedEngine(judge=ten), highest=10)
    assert found.value == pytest.approx(10, abs=0.01)
    (found,) = judged("x", [make_item(["a"])], ScriptedEngine(judge=ten))
    assert found.value == pytest.approx(1, abs=0.01)


def make_examples(strata, seed=0):
    """An example set with windows of the given strata, e.g. {"decile_3": 5, "random": 20}."""
    placed = []
    for stratum, n in strata.items():
        for number in range(n):
            peak = float(stratum.startswith("decile"))
            values = np.array([peak], np.float32)
            name = f"b2:{stratum}{number}"
            placed.append(Placed(Window(name, 3, 0, 0, ("a",), values), stratum, 2.0))
    return ExampleSet("b2:e", 3, "quantiles", {}, seed, (), tuple(placed))


def chosen(examples, n=20):
    return SIMULATION.items(examples, {**SIMULATION.settings, "n_windows": n}, None)


def test_windows_come_from_all_deciles_and_half_are_silent():
    strata = {f"decile_{number}": 5 for number in range(10)} | {"random": 30, "near": 20}
    examples = make_examples(strata)
    items = chosen(examples)
    assert [item.active for item in items].count(True) == 10
    assert {item.stratum for item in items if item.active} == set(strata) - {"random", "near"}
    assert [item.stratum for item in items].count("random") == 6
    assert [item.stratum for item in items].count("near") == 4
    for stratum, n in strata.items():
        weights = [item.weight for item in items if item.stratum == stratum]
        assert sum(weights) == pytest.approx(2.0 * n)
    order = [placed.window.id for placed in examples.scored]
    places = [order.index(item.window.id) for item in items]
    assert places == sorted(places)
    again = [item.window.id for item in chosen(examples)]
    assert again == [item.window.id for item in items]
    assert again != [item.window.id for item in chosen(make_examples(strata, seed=1))]


@pytest.mark.parametrize(
    ("strata", "n", "expected"),
    [
        ({"decile_0": 2, "random": 30}, 20, (2, 10)),
        ({"decile_0": 1, "decile_5": 1, "random": 1}, 20, (2, 1)),
        ({"random": 4}, 2, (0, 1)),
        ({"decile_0": 9}, 3, (2, 0)),
        ({}, 20, (0, 0)),
    ],
)
def test_there_may_be_fewer_windows(strata, n, expected):
    active = [item.active for item in chosen(make_examples(strata), n)]
    assert (active.count(True), active.count(False)) == expected


def test_few_windows_are_spread_too():
    strata = {f"decile_{number}": 1 for number in range(10)} | {"random": 2}
    items = chosen(make_examples(strata), 4)
    assert [item.stratum for item in items if item.active] == ["decile_2", "decile_7"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mode": "backwards"}, "simulation.mode is unknown: 'backwards'"),
        ({"highest": 5}, "simulation.highest is unknown: 5"),
        ({"n_windows": 1}, "simulation.n_windows is too small: 1"),
    ],
)
def test_a_setting_without_meaning_is_refused_in_one_line(changed, message):
    with pytest.raises(UsageError, match=message) as caught:
        SIMULATION.items(make_examples({}), {**SIMULATION.settings, **changed}, None)
    assert caught.value.hint
    with pytest.raises(UsageError, match=message):
        judged("x", [make_item(["a"])], ScriptedEngine(), **changed)


class Broken(ScriptedEngine):
    def digits(self, prefix, suffixes, places, highest=10, root=0):
        raise EngineFailure("code -3")


class NoTokens(ScriptedEngine):
    def chat(self, messages):
        raise EngineFailure("a text of 9 bytes cannot be tokenised")


@pytest.mark.parametrize("mode", ["all_at_once", "token_by_token"])
@pytest.mark.parametrize("engine", [Broken(), NoTokens()])
def test_an_engine_that_fails_gives_failures(engine, mode):
    items = items_of(LATENTS[0])
    found = judged("x", items, engine, mode=mode)
    assert [each.value for each in found] == [None] * len(items)
    assert all(each.failure.startswith("engine: ") for each in found)


def test_a_number_that_is_none_is_a_failure_of_that_window_alone():
    class Sometimes(ScriptedEngine):
        def digits(self, prefix, suffixes, places, highest=10, root=0):
            found = super().digits(prefix, suffixes, places, highest, root)
            found[1][0] = -np.inf
            return found

    found = judged("x", [make_item(["a"])] * 3, Sometimes())
    assert [each.failure for each in found] == [None, "not_finite", None]


@pytest.mark.parametrize("mode", ["all_at_once", "token_by_token"])
def test_no_windows_no_judgements(mode):
    assert judged("x", [], ScriptedEngine(), mode=mode) == []


@pytest.mark.parametrize("explanation", ["a\nRatings:\nb", "a\r\u2028b<|end|>", "9", "$window", ""])
def test_a_hostile_explanation_stays_on_its_line(explanation):
    prompt, engine = load_prompt("score/simulation"), ScriptedEngine()
    shared = before_window(ask("x", 9, prompt), engine)
    start = before_window(ask(explanation, 9, prompt), engine)
    lines, expected = (engine.text(each.prefix).split("\n") for each in (start, shared))
    assert len(lines) == len(expected)
    assert [a == b for a, b in zip(lines, expected, strict=True)].count(False) == 1
    assert "<|end|>" not in lines[-3] or explanation.count("<|end|>")
    assert judged(explanation, [make_item(["a"])], engine, prompt)[0].failure is None


def test_all_before_the_explanation_is_shared_in_the_shipped_prompt():
    prompt, engine = load_prompt("score/simulation"), ScriptedEngine()
    for highest in (9, 10):
        start = before_window(ask("years", highest, prompt), engine)
        said = engine.text(start.prefix[start.root :])
        assert said == f"Meaning: years\nRatings from 0 to {highest}:\n"


def test_a_prompt_that_does_not_end_with_the_window_is_refused():
    prompt = make_prompt("$explanation $highest\n$window\n?")
    with pytest.raises(UsageError, match="does not end with a line that is"):
        judged("x", [make_item(["a"])], ScriptedEngine(), prompt)
