"""Whatever an engine wrote to an explanation, or to the reason why it is none."""

from __future__ import annotations

import re
from collections.abc import Collection

from lite_interp.explain.base import Answer
from lite_interp.prompts import Prompt
from lite_interp.render import one_row

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


def read(raw: str, told: Collection[str] = (), mark: str = "") -> Answer:
    """The explanation in an engine's answer: its first line with words in it, tidied.

    Args:
        raw: whatever the engine wrote. What is neither empty, nor too long, nor a refusal, nor
            told, is an explanation, however odd: scoring says what it is worth.
        told: lines of the prompt itself, as `told_lines` gives them; a small engine likes to
            repeat the answers of its examples.
        mark: the explanation stands behind the last of these; without one it is `unfinished`.
    """
    answer = raw
    if mark:
        _, found, answer = raw.rpartition(mark)
        if not found:
            return Answer(None, raw, "unfinished")
    line = next((line for line in answer.splitlines() if re.search(r"\w", line)), "")
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
