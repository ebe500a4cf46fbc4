"""Fuzzing: does a rule that knows only the explanation tell right marks from wrong ones?

    margin(marked window) = log Σ p(yes variants) − log Σ p(no variants)       (nats)

read from the engine's logits after one question about one window with << marks >>; the score is
the AUROC of the margin over right marks and wrong ones. Source: arXiv 2410.13928, section
3.3.2. We differ: one window a question, as in detection; wrong marks stand inside activating
windows, where the topic gives nothing away, and are the right marks of other windows, so their
places give nothing away either. The `paper` marks stand in silent windows, as in the paper's
code: there the topic alone may do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lite_interp.errors import UsageError, nearest, one_line
from lite_interp.ids import generator
from lite_interp.prompts import Message, Prompt
from lite_interp.records import ExampleSet, Placed, Steering
from lite_interp.score.asking import asking_tools, margins
from lite_interp.score.base import Item, Judgement, Marked, Scorer, Tools, quoted
from lite_interp.score.marks import marked_row, match, moved, right_marks

MARKS = ("activating", "paper")
"""Where wrong marks stand: in activating windows, or in silent ones."""


def items(
    examples: ExampleSet, settings: Mapping[str, Any], steering: Steering | None
) -> list[Item]:
    """Right marks, and the same patterns as wrong marks; a pattern that fits nowhere is left out.

    Raises:
        UsageError: the setting `marks` is neither `activating` nor `paper`.
    """
    where = settings["marks"]
    if where not in MARKS:
        raise UsageError(f"fuzzing has no marks: {one_line(where)}", nearest(where, MARKS))
    active = [placed for placed in examples.scored if placed.window.peak > 0]
    silent = [placed for placed in examples.scored if placed.window.peak == 0]
    hosts = silent if where == "paper" else active
    patterns = [right_marks(placed.window, settings["threshold"]) for placed in active]
    random = generator(examples.seed, examples.latent, "fuzzing", where)
    found = match(patterns, [placed.window for placed in hosts], random)
    right = [_item(active[each], patterns[each], True) for each in sorted(p for p, _ in found)]
    wrong = [
        _item(hosts[host], moved(patterns[pattern], hosts[host].window), False)
        for pattern, host in found
    ]
    return right + wrong


def _item(placed: Placed, shown: Marked, right: bool) -> Item:
    name = "right" if right else "wrong"
    return Item(placed.window, right, placed.stratum, placed.weight, name, shown.marked)


def ask(explanation: str, item: Item, prompt: Prompt) -> tuple[Message, ...]:
    """The question about one marked window."""
    assert item.marked is not None
    shown = marked_row(Marked(item.window, item.marked))
    return prompt.fill(explanation=quoted(explanation), window=shown)


def score(
    explanation: str, items: Sequence[Item], tools: Tools, settings: Mapping[str, Any]
) -> list[Judgement]:
    """One margin a marked window, in nats. An engine that fails gives failures."""
    engine, prompt = asking_tools(tools, "fuzzing")
    return margins([ask(explanation, item, prompt) for item in items], engine)


FUZZING = Scorer(
    "fuzzing",
    "Asks the engine whether the marks in a window are right; wrong ones have the same places.",
    "engine",
    "score/fuzzing",
    "nats (log-odds of yes)",
    {"marks": "activating", "threshold": 0.3},
    items,
    score,
)
