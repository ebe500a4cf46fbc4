"""What engines are asked and write: generations and explanations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an engine writes."""

    max_tokens: int
    """Longest answer."""
    temperature: float = 0.0
    """0 = always the likeliest token."""
    seed: int = 0
    """Seed of the draw; without effect at temperature 0."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    schema: str = ""
    """JSON schema, as text, that the answer follows; empty = any text. An answer that is cut at
    `max_tokens` may be the beginning of one."""


class Usage(NamedTuple):
    """What a unit of work cost."""

    prompt_tokens: int
    """Tokens evaluated by the engine that it did not write itself."""
    output_tokens: int
    """Tokens written by the engine."""
    seconds: float
    """Wall time."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine wrote."""

    text: str
    """The answer, decoded."""
    token_ids: tuple[int, ...]
    """Its tokens."""
    logprob: float
    """Sum of the tokens' natural log-probabilities, nats."""
    stop: Literal["end", "stop", "length"]
    """Why it ended: the model's end token, a stop text, or `max_tokens`."""
    usage: Usage = field(default=Usage(0, 0, 0.0), compare=False)
    """What it cost: prompt tokens that were evaluated for it alone, tokens written, those behind a
    stop text too, and its share of the time, s: those of answers written side by side add up."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a latent means, in words, or why nobody could say."""

    id: str
    """Content id of example set, explainer, prompt, engine, settings and seed."""
    latent: int
    """Index of the latent."""
    example_set_id: str
    """The windows it was made from."""
    explainer: str
    """Name in EXPLAINERS."""
    prompt_id: str | None
    """None for an explainer that asks no engine."""
    engine_id: str | None
    """None for an explainer that asks no engine."""
    settings: Mapping[str, Any]
    """Settings of the explainer, as they went into the id."""
    text: str | None
    """The explanation; None if there is none."""
    raw: str
    """The engine's whole answer."""
    failure: str | None
    """Why there is no text: `no_windows`, `empty`, `too_long`, `refusal`, `repeats_prompt`,
    `engine: …`, and others that docs/methods.md lists."""
    detail: Mapping[str, Any] | None = None
    """How it came about, e.g. the drafts and how they fared; plain JSON."""
