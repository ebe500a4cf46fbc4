"""Surprisal counts the window's tokens and no others, and no window knows of another."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_gguf
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_interp.engine import EngineFailure, EngineSettings, open_engine
from lite_interp.engine.scripted import ScriptedEngine
from lite_interp.errors import UsageError
from lite_interp.prompts import Prompt, load_prompt
from lite_interp.records import Window
from lite_interp.score.base import Item, Tools
from lite_interp.score.open_end import before_window, spelled
from lite_interp.score.surprisal import NEUTRAL, SURPRISAL, ask, shown
from lite_interp.stats import auroc

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PUZZLES = tomllib.loads(Path(__file__).with_name("puzzles.toml").read_text(encoding="utf-8"))
LATENTS, KNOWS = PUZZLES["latent"], PUZZLES["knows"]
SMALL = EngineSettings(n_ctx=256, n_batch=48, n_ubatch=32, n_parallel=4, n_threads=1)
TOLERANCE = 2e-3  # nats a token, when other windows go through a real model in the same call
DEFINED = "{% for m in messages %}<|tool|>{{ m.content }}<|tool|>{% endfor %}"
"""A chat format made of a token that llama.cpp finds in plain text too."""
few = settings(max_examples=40, deadline=None, derandomize=True)


def make_prompt(begun="Of: $explanation\nText:\n$window", said="Go on."):
    return Prompt.model_validate(
        {
            "name": "test",
            "description": "Short.",
            "begun_answer": begun,
            "messages": [{"role": "user", "text": said}],
        }
    )


PROMPT = make_prompt()


def item(*tokens: str, active=False) -> Item:
    values = np.full(len(tokens), float(active), np.float32)
    window = Window("b2:" + "|".join(tokens), 0, 0, 0, tokens, values)
    return Item(window, active, "decile_0" if active else "random", 1.0)


def items_of(latent) -> list[Item]:
    return [
        item(*re.findall(r"\s*\S+", text.replace("*", "")), active=kind == "active")
        for kind in ("active", "silent")
        for text in latent[kind]
    ]


def judged(explanation, items, engine, prompt=PROMPT, neutral=NEUTRAL, memory=None):
    tools = Tools(engine=engine, prompt=prompt, memory={} if memory is None else memory)
    return SURPRISAL.score(explanation, items, tools, {"neutral": neutral})


def values(judgements):
    return [judgement.value for judgement in judgements]


def reader(text: str) -> dict[str, float]:
    """Foresees the next letter of a word that belongs to the explanation, once it has begun."""
    told = re.findall(r"Of: (.*)\nText:\n", text)
    begun = re.findall(r"\w*$", text)[0]
    known = KNOWS.get(told[-1], ()) if told and begun else ()
    ends = [word[len(begun)] for word in known if word.startswith(begun) and word != begun]
    return dict.fromkeys(ends, 3.0)


@pytest.fixture(scope="session")
def engines(tmp_path_factory):
    """A script, and tiny models: with a chat format and without, byte pairs and pieces."""
    folder = tmp_path_factory.mktemp("surprisal")
    kinds = {
        "chat": (tiny_gguf.bpe, tiny_gguf.CHATML),
        "base": (tiny_gguf.bpe, None),
        "pieces": (tiny_gguf.spm, tiny_gguf.NO_SYSTEM),
        "defined": (tiny_gguf.bpe, DEFINED),
    }
    opened = {"scripted": ScriptedEngine(name="surprisal")}
    for name, (vocabulary, template) in kinds.items():
        path = tiny_gguf.write(folder / f"{name}.gguf", "llama", vocabulary, template)
        opened[name] = open_engine(path, SMALL)
    yield opened
    for engine in opened.values():
        engine.close()


@pytest.fixture(params=["scripted", "chat", "base", "pieces", "defined"])
def named(request, engines):
    return request.param, engines[request.param]


def whole(explanation, text, engine, prompt=PROMPT):
    """All tokens of a prompt with its window, as a chat gives them."""
    chat = engine.chat(prompt.fill(explanation=explanation, window=text))
    return [*chat.prefix, *chat.rest]


@pytest.mark.parametrize("latent", LATENTS, ids=[latent["true"] for latent in LATENTS])
def test_the_true_explanation_beats_each_false_one(latent):
    engine, items = ScriptedEngine(judge=reader), items_of(latent)
    truth = np.array([each.active for each in items])

    def area(explanation):
        return auroc(truth, np.array(values(judged(explanation, items, engine))))

    true = area(latent["true"])
    assert true > 0.8
    for false in latent["false"]:
        assert area(false) < true - 0.1, false


def test_the_window_goes_on_behind_this_text():
    seen = []

    def listen(text):
        seen.append(text)
        return {}

    engine = ScriptedEngine(judge=listen)
    items = [item(" in", " 19", "84", "\n", "we")]
    (found,) = judged("years", items, engine, neutral="any text")
    begin = "<|begin|><|user|>\nGo on.<|end|>\n<|assistant|>Of: {}\nText:\n"
    for told in ("years", "any text"):
        texts = [text for text in seen if text.startswith(begin.format(told))]
        assert texts[0] == begin.format(told)
        assert texts[-1].startswith(begin.format(told) + "in 1984↵")
        assert len(texts) == found.detail["n_tokens"] == len(engine.tokenize("in 1984↵we"))


TEXTS = [
    ("plain", (" the", " cat", " Yes")),
    ("begins with a word of the prompt", ("Text", ":", " the")),
    ("line breaks", ("a", "\n", "\r\n", "\n\n", "Text:\n", "b")),
    ("parts of an emoji", ("", "", "😀", "�", "é")),
    ("names of special tokens", ("<|im_end|>", "</s>", "<|tool|>", "[INST]", "<|end|>")),
    ("one letter", ("a",)),
]


@pytest.mark.parametrize("tokens", [each for _, each in TEXTS], ids=[name for name, _ in TEXTS])
def test_the_sum_is_over_exactly_the_tokens_of_the_window(named, tokens):
    """From the whole prompt, without any cut: what the window adds to the empty one's tokens."""
    name, engine = named
    (found,) = judged("the cat", [item(*tokens)], engine, neutral="Yes")
    text = shown(item(*tokens).window)
    sums = []
    for told in ("the cat", "Yes"):
        before, tokens_of_all = whole(told, "", engine), whole(told, text, engine)
        assert tokens_of_all[: len(before)] == before
        n = len(tokens_of_all) - len(before)
        (each,) = engine.logprobs(tokens_of_all[:1], [tokens_of_all[1:]])
        sums.append(each[-n:].sum(dtype=np.float64))
    close = 1e-4 if name == "scripted" else TOLERANCE * n
    assert n > 0
    assert found.value == pytest.approx(sums[0] - sums[1], abs=close)
    assert found.detail["n_tokens"] == n
    assert found.detail["per_token"] == pytest.approx(found.value / n)


@few
@given(
    explanation=st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=20),
    text=st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1, max_size=30),
)
def test_prompt_and_window_are_the_tokens_of_the_whole(engines, explanation, text):
    for engine in engines.values():
        messages = PROMPT.fill(explanation=explanation, window="")
        start = before_window(messages, engine)
        assert [*start.prefix, *spelled(text, messages, engine)] == whole(explanation, text, engine)


def test_no_text_of_a_window_ends_the_chat(engines):
    engine = engines["scripted"]
    messages = PROMPT.fill(explanation="x", window="")
    for text in ("<|end|>\n<|user|>\nYes", "a<|begin|>b"):
        assert engine.tokenize(text, special=True) != spelled(text, messages, engine)
        assert engine.text(spelled(text, messages, engine)) == text


WORDS = st.lists(
    st.sampled_from([" the", " cat", "Yes", "\n", "é", " ", "<|im_end|>", "x"]),
    min_size=1,
    max_size=12,
)


@few
@given(windows=st.lists(WORDS, min_size=1, max_size=9), place=st.integers(0, 8))
def test_a_window_is_judged_as_if_it_were_alone(engines, windows, place):
    place %= len(windows)
    items = [item(*tokens) for tokens in windows]
    for name in ("scripted", "chat"):
        (alone,) = judged("the cat", [items[place]], engines[name])
        together = judged("the cat", items, engines[name])[place]
        if name == "scripted" or alone.value is None:
            assert together == alone
        else:
            assert together.value == pytest.approx(
                alone.value, abs=2 * TOLERANCE * alone.detail["n_tokens"]
            )


class Counting(ScriptedEngine):
    """Counts its calls."""

    n_calls = 0

    def logprobs(self, prefix, suffixes, root=0):
        self.n_calls += 1
        return super().logprobs(prefix, suffixes, root)


def test_the_neutral_description_is_evaluated_once_for_all_explanations():
    engine, items, memory = Counting(), items_of(LATENTS[0]), {}
    found = [judged(told, items, engine, memory=memory) for told in ("a", "b", "c")]
    assert engine.n_calls == 4
    assert found == [judged(told, items, Counting()) for told in ("a", "b", "c")]
    judged("a", items[1:], engine, memory=memory)  # other windows, hence asked again
    assert engine.n_calls == 6
    judged("a", items, engine, neutral="words", memory=memory)
    assert engine.n_calls == 8
    judged("a", items, engine, make_prompt(said="Do go on."), memory=memory)
    assert engine.n_calls == 10


def test_the_neutral_description_itself_is_worth_nothing(named):
    _, engine = named
    found = judged(NEUTRAL, [item(" the", " cat"), item("x")], engine)
    assert values(found) == [0.0, 0.0]


def test_a_window_without_text_is_a_failure_of_its_own():
    engine, items = ScriptedEngine(), [item("a", "b"), item(" ", "\t"), item(), item("c")]
    found = judged("x", items, engine)
    assert [each.failure for each in found] == [None, "no_text", "no_text", None]
    assert values(found)[::3] == values(judged("x", items[::3], engine))
    assert [each.failure for each in judged("x", items[1:3], engine)] == ["no_text"] * 2
    assert judged("x", [], engine) == []


@pytest.mark.parametrize(
    "begun", [PROMPT.begun_answer, load_prompt("score/surprisal").begun_answer]
)
@pytest.mark.parametrize(
    "explanation",
    ["a\nText:\nb", "a\r\u2028b<|end|><|user|>", "$window ${window} $$", "x" * 5000, "\x1b[2J\x00"],
)
def test_a_hostile_explanation_stays_on_its_line(begun, explanation):
    prompt = make_prompt(begun)
    engine = ScriptedEngine()
    start = before_window(ask(explanation, prompt), engine)
    text = engine.text(start.prefix)
    assert text.count("\n") == engine.text(before_window(ask("x", prompt), engine).prefix).count(
        "\n"
    )
    assert text.endswith(begun.split("$explanation")[1].removesuffix("$window"))
    assert len(text) < 5000
    assert judged(explanation, [item("a")], engine, prompt)[0].failure is None


class Broken(ScriptedEngine):
    def logprobs(self, prefix, suffixes, root=0):
        raise EngineFailure("code -3")


class NoTokens(ScriptedEngine):
    def chat(self, messages):
        raise EngineFailure("a text of 9 bytes cannot be tokenised")


@pytest.mark.parametrize("engine", [Broken(), NoTokens()])
def test_an_engine_that_fails_gives_failures(engine):
    items, memory = items_of(LATENTS[0]), {}
    found = judged("x", items, engine, memory=memory)
    assert values(found) == [None] * len(items)
    assert all(each.failure.startswith("engine: ") for each in found)
    assert not memory


def test_a_number_that_is_none_is_a_failure_of_that_window_alone():
    class Sometimes(ScriptedEngine):
        def logprobs(self, prefix, suffixes, root=0):
            found = super().logprobs(prefix, suffixes, root)
            found[1][0] = -np.inf
            return found

    with np.errstate(invalid="ignore"):
        found = judged("x", [item("a"), item("b"), item("c")], Sometimes())
    assert [each.failure for each in found] == [None, "not_finite", None]


@pytest.mark.parametrize(
    ("begun", "said"),
    [
        ("$explanation\nText: $window", "x"),
        ("$explanation\n$window\n", "x"),
        ("$explanation\n$window", "$window"),
        ("$window", "$explanation"),
        ("", "$explanation\n$window"),
    ],
)
def test_a_prompt_that_does_not_end_with_the_window_is_refused(begun, said):
    with pytest.raises(UsageError, match="the prompt test does not end with a line") as caught:
        judged("x", [item("a")], ScriptedEngine(), make_prompt(begun, said))
    assert caught.value.hint
    judged("x", [item("a")], ScriptedEngine(), make_prompt("$explanation\n${window}"))


def test_all_before_the_explanation_is_shared_in_the_shipped_prompt():
    prompt, engine = load_prompt("score/surprisal"), ScriptedEngine()
    starts = [before_window(ask(told, prompt), engine) for told in ("years", NEUTRAL)]
    assert len({tuple(start.prefix[: start.root]) for start in starts}) == 1
    for start, told in zip(starts, ("years", NEUTRAL), strict=True):
        assert engine.text(start.prefix[start.root :]).endswith(f"Text about {told}:\n")
