"""Example set to explanation: what to ask, and how to read what comes back.

Each explainer is two pure functions, `ask` and `read`, joined by `explain_group`; one that needs
no engine is a single function. Several example sets are explained side by side, because an
engine writes many answers in little more time than one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from lite_interp.engine import Engine, EngineFailure
from lite_interp.errors import UsageError, nearest
from lite_interp.explain_output import ask_output, raised_words
from lite_interp.ids import content_id
from lite_interp.prompts import Message, Prompt
from lite_interp.records import ExampleSet, Explanation, Sampling, Steering, Usage
from lite_interp.render import marked_text, marked_tokens, one_row

LONGEST = 400
"""Characters of an explanation; a longer answer is a failure, kept raw."""

REFUSAL = re.compile(
    r"(i[’']?m|i am|we[’']re|we are) (very )?(sorry|afraid|unable|not able)\b|sorry, "
    r"|(i|we) (cannot|can not|can[’']?t) "
    r"(help|tell|say|see|find|determine|identify|provide|assist|answer|do)\b"
    r"|as an? (ai|artificial intelligence|(large )?language model)\b",
    re.IGNORECASE,
)
"""How an answer begins that refuses to be one."""

QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”"}
"""Quotation marks that engines put around an answer."""


class Answer(NamedTuple):
    """An explanation, or the reason why there is none."""

    text: str | None
    """The explanation."""
    raw: str
    """The whole answer."""
    failure: str | None
    """`no_windows`, `no_output`, `empty`, `too_long`, `refusal`, `repeats_prompt`, or
    `engine: …`."""
    usage: Usage = Usage(0, 0, 0.0)
    """What it cost, beside what it shared with others."""


class Evidence(NamedTuple):
    """What is known of one latent when it is explained."""

    examples: ExampleSet
    """Its windows; only the shown ones are looked at."""
    steering: Steering | None = None
    """What it does to the subject, for an explainer that reads that."""


@dataclass(frozen=True, slots=True)
class Explainer:
    """One way to explain."""

    name: str
    """Name in EXPLAINERS."""
    description: str
    """One sentence for the documentation."""
    prompt: str | None
    """Prompt file it uses unless another is named; None if it asks no engine."""
    settings: Mapping[str, Any]
    """Numbers that change the answer; they go into the explanation's id."""
    explain: Callable[
        [Sequence[Evidence], Engine | None, Prompt | None, Mapping[str, Any]], list[Answer]
    ]
    """From what is known of latents to answers, one for each."""
    reads: Literal["windows", "output"] = "windows"
    """Whether it reads where a latent fires, or what it does when the subject is steered."""


def token_shares(examples: ExampleSet) -> list[tuple[str, float]]:
    """Tokens of the shown windows by their share of all activation, greatest first.

    Spelling variants (case, space before) count as one and are written as the commonest.
    """
    totals: dict[str, float] = defaultdict(float)
    spellings: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for window, _, _ in examples.shown:
        for token, value in zip(window.tokens, window.values, strict=True):
            word = one_row(token).strip()
            if value > 0 and word:
                totals[word.lower()] += float(value)
                spellings[word.lower()][word] += float(value)
    whole = sum(totals.values()) or 1.0
    ranked = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    return [
        (max(spellings[word], key=spellings[word].__getitem__), total / whole)
        for word, total in ranked
    ]


def list_tokens(
    group: Sequence[Evidence],
    engine: Engine | None,
    prompt: Prompt | None,
    settings: Mapping[str, Any],
) -> list[Answer]:
    """The most telling tokens, no engine asked: the floor that an explainer has to beat."""
    return [_token_list(known.examples, settings) for known in group]


def _token_list(examples: ExampleSet, settings: Mapping[str, Any]) -> Answer:
    shares = token_shares(examples)
    if not shares:
        return Answer(None, "", "no_windows")
    words = [word for word, share in shares[: settings["n_tokens"]] if share >= 0.02]
    text = "fires on: " + ", ".join(words or [shares[0][0]])
    return Answer(text, text, None)


def ask(examples: ExampleSet, prompt: Prompt, n_words: int) -> tuple[Message, ...]:
    """The question put to an engine: numbered excerpts with marks, and the marked words."""
    excerpts = "\n".join(
        f"{number}. {marked_text(window).strip()}"
        for number, (window, _, _) in enumerate(examples.shown, 1)
    )
    words = ", ".join(marked_words(examples)[:n_words])
    values = {"excerpts": excerpts, "words": words}
    return prompt.fill(**{name: values[name] for name in prompt.variables})


def marked_words(examples: ExampleSet) -> list[str]:
    """The distinct marked stretches of the shown windows, by how much activation they carry."""
    totals: dict[str, float] = defaultdict(float)
    for window, _, _ in examples.shown:
        marked = marked_tokens(window.values, 0.3)
        run, total = "", 0.0
        for token, value, is_marked in zip(
            [*window.tokens, ""], [*window.values, 0.0], [*marked, False], strict=True
        ):
            if is_marked:
                run, total = run + token, total + float(value)
            elif run:
                totals[one_row(run).strip()] += total
                run, total = "", 0.0
    totals.pop("", None)
    return sorted(totals, key=lambda word: (-totals[word], word))


def read(raw: str, told: Collection[str] = ()) -> Answer:
    """The explanation in an engine's answer: its first line with words in it, tidied.

    Args:
        raw: whatever the engine wrote. What is neither empty, nor too long, nor a refusal, nor
            told, is an explanation, however odd: scoring says what it is worth.
        told: lines of the prompt itself, as `told_lines` gives them; a small engine likes to
            repeat the answers of its examples.
    """
    line = next((line for line in raw.splitlines() if re.search(r"\w", line)), "")
    text = _tidy(line)
    if not text:
        return Answer(None, raw, "empty")
    if len(text) > LONGEST:
        return Answer(None, raw, "too_long")
    if REFUSAL.match(text):
        return Answer(None, raw, "refusal")
    if text.lower() in told:
        return Answer(None, raw, "repeats_prompt")
    return Answer(text, raw, None)


def told_lines(prompt: Prompt) -> set[str]:
    """The lines of a prompt file, tidied like answers, and what stands behind a colon in them."""
    texts = [*(message.text for message in prompt.messages), prompt.begun_answer]
    lines = [line for text in texts for line in text.splitlines() if "$" not in line]
    ends = [line.rpartition(":")[2] for line in lines]
    return {tidy.lower() for line in (*lines, *ends) if (tidy := _tidy(line))}


def _tidy(line: str) -> str:
    return _bare(re.sub(r"\s+", " ", one_row(line)))


def _bare(text: str) -> str:
    """The text without stars, a full stop, and quotation marks around the whole of it.

    Marks within stay: `"major" or "main"` is two quoted words.
    """
    text = text.lstrip(" *").rstrip(" *.")
    for opening, closing in QUOTES.items():
        inner = text.removeprefix(opening).removesuffix(closing)
        if inner != text and opening not in inner and closing not in inner:
            return _bare(inner)
    return text


Question = Callable[[Evidence, Prompt, Mapping[str, Any]], tuple[Message, ...] | str]
"""What an engine is asked about a latent, or the failure that there is nothing to ask about."""


def _about_windows(
    known: Evidence, prompt: Prompt, settings: Mapping[str, Any]
) -> tuple[Message, ...] | str:
    examples = known.examples
    return ask(examples, prompt, settings["n_words"]) if examples.shown else "no_windows"


def _about_output(
    known: Evidence, prompt: Prompt, settings: Mapping[str, Any]
) -> tuple[Message, ...] | str:
    raised = raised_words(known.steering)
    return ask_output(raised, prompt, settings) if raised else "no_output"


def ask_engine(
    group: Sequence[Evidence],
    engine: Engine | None,
    prompt: Prompt | None,
    settings: Mapping[str, Any],
    question: Question = _about_windows,
) -> list[Answer]:
    """An engine reads what is known of a latent and goes on from a begun answer."""
    if engine is None or prompt is None:
        raise ValueError("this explainer needs an engine and a prompt")
    how = Sampling(settings["max_tokens"], settings["temperature"], settings["seed"], ("\n",))
    questions = [question(known, prompt, settings) for known in group]
    asked = [messages for messages in questions if not isinstance(messages, str)]
    written = []
    try:
        chats = [engine.chat(messages) for messages in asked]
        if chats:
            root = min(tokens.root for tokens in chats)
            written = engine.generate([[*each.prefix, *each.rest] for each in chats], how, root)
    except EngineFailure as failure:
        if len(group) == 1:
            return [Answer(None, "", f"engine: {failure}")]
        return [ask_engine([known], engine, prompt, settings, question)[0] for known in group]
    told = told_lines(prompt)
    answers = iter([read(each.text, told)._replace(usage=each.usage) for each in written])
    return [
        Answer(None, "", each) if isinstance(each, str) else next(answers) for each in questions
    ]


EXPLAINERS = {
    explainer.name: explainer
    for explainer in (
        Explainer(
            "token_list",
            "The tokens that carry the most activation; asks no engine.",
            None,
            {"n_tokens": 8},
            list_tokens,
        ),
        Explainer(
            "llm",
            "An engine reads numbered excerpts with marks and says what the marks share.",
            "explain/small",
            {"max_tokens": 48, "temperature": 0.0, "seed": 0, "n_words": 24},
            ask_engine,
        ),
        Explainer(
            "output",
            "An engine reads which words steering along the latent makes likelier.",
            "explain/output",
            {"max_tokens": 48, "temperature": 0.0, "seed": 0, "n_prompts": 10, "n_words": 12},
            partial(ask_engine, question=_about_output),
            "output",
        ),
    )
}


def find_explainer(name: str) -> Explainer:
    """An explainer by name, or a one-line error with what was perhaps meant."""
    if name not in EXPLAINERS:
        raise UsageError(f"no explainer is named: {name}", nearest(name, EXPLAINERS))
    return EXPLAINERS[name]


def explanation_id(
    known: Evidence, explainer: Explainer, prompt: Prompt | None, engine_id: str | None
) -> str:
    """Name of an explanation: everything that was asked, nothing of the answer."""
    parts = [
        "explanation",
        known.examples.id,
        explainer.name,
        prompt.id if prompt else None,
        engine_id,
        dict(explainer.settings),
    ]
    if explainer.reads == "output":
        parts.append(known.steering.id if known.steering else None)
    return content_id(parts)


def explain(
    known: Evidence, explainer: Explainer, prompt: Prompt | None, engine: Engine | None
) -> Explanation:
    """Explain one latent."""
    return explain_group([known], explainer, prompt, engine)[0][0]


def explain_group(
    group: Sequence[Evidence],
    explainer: Explainer,
    prompt: Prompt | None,
    engine: Engine | None,
) -> list[tuple[Explanation, Usage]]:
    """Explain latents side by side; with each explanation what it alone cost."""
    engine_id = engine.id if engine and explainer.prompt else None
    answers = explainer.explain(group, engine, prompt, explainer.settings)
    return [
        (
            Explanation(
                explanation_id(known, explainer, prompt, engine_id),
                known.examples.latent,
                known.examples.id,
                explainer.name,
                prompt.id if prompt else None,
                engine_id,
                dict(explainer.settings),
                answer.text,
                answer.raw,
                answer.failure,
            ),
            answer.usage,
        )
        for known, answer in zip(group, answers, strict=True)
    ]


def way_of(explanation: Explanation) -> str:
    """How an explanation was made, latent and windows aside: what may be a control of another."""
    return content_id(
        [
            explanation.explainer,
            explanation.prompt_id,
            explanation.engine_id,
            dict(explanation.settings),
        ]
    )
