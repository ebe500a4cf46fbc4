"""Lists: several windows in one prompt and a list of 0 and 1 as the answer, the paper's way.

For comparison with one window a question. Source: arXiv 2410.13928, section 3.3.1 and appendix D.1,
five windows a prompt. We differ: the order of the windows follows from the item list alone, so that
it is the same under every explanation; and a list that cannot be read is a failure of its own
windows, kept with what the engine wrote, where the paper's code counts five wrong answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lite_interp.engine import EngineFailure
from lite_interp.ids import generator
from lite_interp.prompts import Message, Prompt
from lite_interp.records import Generation, Sampling
from lite_interp.render import one_row
from lite_interp.score.asking import asking_tools, failed
from lite_interp.score.base import Item, Judgement, Tools, quoted

TOKENS_PER_ANSWER = 4
"""An answer takes a digit, a comma and perhaps a space."""


def ask(explanation: str, texts: Sequence[str], prompt: Prompt) -> tuple[Message, ...]:
    """The question about several texts, numbered from 1, one a line."""
    lines = [f"{number}. {one_row(text).strip()}" for number, text in enumerate(texts, 1)]
    return prompt.fill(explanation=quoted(explanation), windows="\n".join(lines))


def score_lists(
    explanation: str,
    items: Sequence[Item],
    tools: Tools,
    settings: Mapping[str, Any],
    render: Callable[[Item], str],
) -> list[Judgement]:
    """One answer, 1.0 or 0.0, for each item.

    Args:
        explanation: what is judged.
        items: what is asked, in any order; they are shuffled before they are cut into groups.
        tools: an engine and a prompt with `$explanation` and `$windows`.
        settings: `list` = items in one prompt.
        render: an item as it is shown.

    Returns:
        One judgement an item, in the order of the items. A list that is none, or of another
        length, is a failure of all its items; what the engine wrote is in `detail`.
    """
    engine, prompt = asking_tools(tools, "a list")
    groups = grouped(items, int(settings["list"]))
    if not groups:
        return []
    try:
        chats = [
            engine.chat(ask(explanation, [render(items[number]) for number in group], prompt))
            for group in groups
        ]
        how = Sampling(TOKENS_PER_ANSWER * int(settings["list"]) + 4, stop=("]",))
        prompts = [[*chat.prefix, *chat.rest] for chat in chats]
        answers = engine.generate(prompts, how, min(chat.root for chat in chats))
    except EngineFailure as failure:
        return failed(failure, len(items))
    found: dict[int, Judgement] = {}
    for group, answer in zip(groups, answers, strict=True):
        found |= zip(group, read(answer, len(group)), strict=True)
    return [found[number] for number in range(len(items))]


def grouped(items: Sequence[Item], size: int) -> list[list[int]]:
    """Numbers of the items in groups of `size`, the last one perhaps smaller; shuffled.

    The order follows from the items alone: explanation and controls are asked the same lists.
    """
    if size < 1:
        raise ValueError(f"a list of {size} windows")
    names = [name for item in items for name in (item.window.id, item.name)]
    order = generator(0, "list", *names).permutation(len(items)).tolist()
    return [order[first : first + size] for first in range(0, len(order), size)]


def read(answer: Generation, n: int) -> list[Judgement]:
    """Judgements of n items from an answer that ended at its closing bracket, or n failures."""
    values = [part.strip() for part in answer.text.rpartition("[")[2].split(",")]
    if answer.stop != "stop" or not set(values) <= {"0", "1"}:
        failure = "not_a_list"
    elif len(values) != n:
        failure = "wrong_length"
    else:
        return [Judgement(float(value)) for value in values]
    return [Judgement(None, failure, {"answer": answer.text})] * n
