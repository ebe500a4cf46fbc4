"""Intervention: can the explanation be read off what the subject writes when it is steered?

    value(prompt) = mean over k of [log p(z | prompt + steered_k) − log p(z | prompt + clean_k)]

in nats, where z is the explanation, summed over its tokens, and p is the engine's after a passage
and the words "This passage is unusually full of:". The score is the mean over prompts. Source:
arXiv 2410.13928, section 3.3.5 and appendix G. We differ: the strength is tuned on prompts that
are not scored, steering goes on in every generated token, there are several continuations of a
prompt, and the same continuations are read under other latents' explanations, which takes away
what any text that was steered does to any explanation. The value for each token of z stands in
the detail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lite_interp.engine import Engine, EngineFailure
from lite_interp.ids import content_id
from lite_interp.prompts import Prompt
from lite_interp.records import ExampleSet, Passage, Steering
from lite_interp.render import one_row
from lite_interp.score.asking import asking_tools
from lite_interp.score.base import Item, Judgement, Scorer, Tools, quoted
from lite_interp.score.open_end import spelled

END = "\n"
"""What stands behind an explanation, and is part of what is asked: without it a short explanation
is the beginning of a longer one."""


def steering_id(example_set_id: str, settings: Mapping[str, Any]) -> str:
    """Name of what the steered subject wrote: example set and settings."""
    return content_id(["steering", example_set_id, dict(settings)])


def passages(
    examples: ExampleSet, settings: Mapping[str, Any], steering: Steering | None
) -> list[Item]:
    """Every prompt behind which the subject wrote: the beginning of a scored activating window."""
    by_window = {passage.window_id: passage for passage in steering.passages} if steering else {}
    return [
        Item(window, True, stratum, weight, passage=by_window[window.id])
        for window, stratum, weight in examples.scored
        if window.id in by_window
    ]


def score(
    explanation: str, items: Sequence[Item], tools: Tools, settings: Mapping[str, Any]
) -> list[Judgement]:
    """One gain in log-probability of the explanation for each prompt, nats."""
    engine, prompt = asking_tools(tools, "intervention")
    empty = prompt.fill(passage="")
    told = [*spelled(quoted(explanation), empty, engine), *engine.tokenize(END)]
    try:
        return [_gain(item.passage, told, engine, prompt) for item in items if item.passage]
    except EngineFailure as failure:
        return [Judgement(None, f"engine: {failure}")] * len(items)


def _gain(passage: Passage, told: list[int], engine: Engine, prompt: Prompt) -> Judgement:
    """How much likelier the explanation is behind the steered continuations than the clean ones."""
    texts = [*passage.clean, *passage.steered]
    chats = [
        engine.chat(prompt.fill(passage=one_row(passage.prompt + text).strip())) for text in texts
    ]
    whole = [[*chat.prefix, *chat.rest] for chat in chats]
    n_shared = _n_shared(whole)
    rests = [tokens[n_shared:] for tokens in whole]
    root = min(n_shared, *(chat.root for chat in chats))
    found = engine.answers(whole[0][:n_shared], rests, [told], root)[:, 0]
    clean, steered = np.split(found.astype(np.float64), [len(passage.clean)])
    gain = float(steered.mean() - clean.mean())
    if not np.isfinite(gain):
        return Judgement(None, "not_finite")
    detail = {
        "per_token": round(gain / len(told), 6),
        "n_tokens": len(told),
        "clean": [round(float(value), 4) for value in clean],
        "steered": [round(float(value), 4) for value in steered],
    }
    return Judgement(gain, None, detail)


def _n_shared(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens that all begin with, at least one left to each."""
    shortest = min(map(len, sequences)) - 1
    n = 0
    while n < shortest and len({tokens[n] for tokens in sequences}) == 1:
        n += 1
    return n


INTERVENTION = Scorer(
    "intervention",
    "Steers the subject along the latent; does what it then writes make the explanation likelier?",
    "engine",
    "score/intervention",
    "nats",
    {
        "kl": 1.0,
        "ablate": False,
        "direction": "decoder",
        "n_prompts": 10,
        "n_tuning": 12,
        "n_continuations": 2,
        "n_tokens": 8,
        "temperature": 1.0,
    },
    passages,
    score,
    "nats",
    steers=True,
)
