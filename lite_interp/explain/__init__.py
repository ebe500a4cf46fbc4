"""Example set to explanation: explainers, one module each, one entry here.

An explainer that asks an engine is two pure functions, what to ask and how to read what comes
back, and `ask_engine` between them. Several latents are explained side by side, because an engine
writes many answers in little more time than one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lite_interp.choices import changed_settings
from lite_interp.engine import Engine
from lite_interp.errors import UsageError, nearest, one_line
from lite_interp.explain.base import Answer, Evidence, Explainer, Means
from lite_interp.explain.best_of import BEST_OF
from lite_interp.explain.contrastive import CONTRASTIVE
from lite_interp.explain.input_output import INPUT_OUTPUT
from lite_interp.explain.output import OUTPUT
from lite_interp.explain.revise import REVISE
from lite_interp.explain.token_list import TOKEN_LIST
from lite_interp.explain.windows import LLM
from lite_interp.ids import content_id
from lite_interp.prompts import Prompt, load_prompt
from lite_interp.records import Explanation, Usage

__all__ = [
    "ELSEWHERE",
    "EXPLAINERS",
    "Answer",
    "Evidence",
    "Explainer",
    "Means",
    "explain",
    "explain_group",
    "explanation_id",
    "find_explainer",
    "helper_prompts",
    "refuse_unknown",
    "way_of",
]

EXPLAINERS = {
    explainer.name: explainer
    for explainer in (
        TOKEN_LIST, LLM, CONTRASTIVE, OUTPUT, INPUT_OUTPUT, REVISE, BEST_OF,
    )
}  # fmt: skip

ELSEWHERE = ("import", "oracle")
"""Names in the place of an explainer's, of explanations that no explainer made."""

RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (1, 4096),
    "temperature": (0, 10),
    "n_words": (0, 1000),
    "n_tokens": (1, 1000),
    "n_silent": (1, 1000),
    "n_prompts": (1, 1000),
    "n_raised": (1, 1000),
    "n_excerpts": (1, 1000),
    "n_mistakes": (1, 1000),
    "n_rounds": (1, 20),
    "k": (1, 100),
}
"""Setting → least and greatest number it may be."""


def find_explainer(name: str, settings: Mapping[str, Any] | None = None) -> Explainer:
    """An explainer by name, with some of its settings changed.

    Raises:
        UsageError: no explainer or setting has such a name, or the value cannot be.
    """
    if name not in EXPLAINERS:
        raise UsageError(f"no explainer is named: {one_line(name)}", nearest(name, EXPLAINERS))
    explainer = EXPLAINERS[name]
    changed = changed_settings("explainer", name, explainer.settings, settings or {}, RANGES)
    return dataclasses.replace(explainer, settings=changed)


def refuse_unknown(name: str) -> None:
    """Refuse a name that no explanation can have."""
    if name not in ELSEWHERE:
        find_explainer(name)


def helper_prompts(explainer: Explainer) -> dict[str, Prompt]:
    """The further prompts of an explainer, by what they are for."""
    return {use: load_prompt(name) for use, name in explainer.helpers.items()}


def _asked(explainer: Explainer) -> dict[str, Any]:
    """Settings of an explainer, the names of its further prompts included."""
    helpers = {f"{use}_prompt": each.id for use, each in helper_prompts(explainer).items()}
    return {**explainer.settings, **helpers}


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
        _asked(explainer),
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
    means = Means(engine, prompt, explainer.settings, helper_prompts(explainer))
    answers = explainer.explain(group, means)
    settings = _asked(explainer)
    return [
        (
            Explanation(
                explanation_id(known, explainer, prompt, engine_id),
                known.examples.latent,
                known.examples.id,
                explainer.name,
                prompt.id if prompt else None,
                engine_id,
                settings,
                answer.text,
                answer.raw,
                answer.failure,
                answer.detail,
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
