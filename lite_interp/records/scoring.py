"""What scorers say, and what follows: verdicts, trials, steering, scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lite_interp.records.asking import Usage


@dataclass(frozen=True, slots=True)
class Verdict:
    """One scorer's answer on one item: a window, or a window as it was shown."""

    window_id: str
    """The window."""
    active: bool
    """The right answer: whether the latent fires in it, or whether its marks are right."""
    value: float | None
    """The scorer's number, in the scorer's unit; None if it failed."""
    failure: str | None
    """Why there is no value."""
    item: str = ""
    """What tells items of one window apart: `right`, `wrong`, the number of a question."""
    detail: Mapping[str, Any] | None = None
    """What else the scorer says of it; plain JSON."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One scorer, one explanation, one example set: the unit of work of scoring."""

    id: str
    """Content id of scorer, settings, explanation, example set, prompt and model."""
    scorer: str
    """Name in SCORERS."""
    settings: Mapping[str, Any]
    """Settings of the scorer, as they went into the id."""
    explanation_id: str | None
    """The explanation that was judged; None for a scorer that judges the latent without one."""
    example_set_id: str
    """The windows it was judged on."""
    control: bool
    """Whether the explanation belongs to another latent (then the trial is part of a null)."""
    prompt_id: str | None
    """None for a scorer that asks no engine."""
    model_id: str
    """The engine or embedder that judged."""
    verdicts: tuple[Verdict, ...]
    """One for each item, in the scorer's order."""


class Estimate(NamedTuple):
    """A number with its 95 % interval; NaN where there is nothing to estimate from."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Steering:
    """How the subject was steered along one latent, and what it wrote."""

    id: str
    """Content id of example set, direction, settings and seed."""
    example_set_id: str
    """Its scored activating windows, cut behind their first activating token, are the prompts."""
    settings: Mapping[str, Any]
    """Target KL or ablation, direction, counts, seed; they went into the id."""
    strength: float | None
    """Activation that is added to the latent, in the coder's unit; None when it is ablated, or no
    strength was found."""
    kl_tuned: float | None
    """Mean KL(clean || steered) of the next token on the prompts for tuning, nats."""
    kl_scored: float | None
    """The same on the prompts that are scored."""
    promoted: Mapping[str, Any]
    """Tokens that steering makes likelier: `tokens` over the scored prompts, `shown` behind each
    prompt for tuning; and the share of the latent's logit-lens tokens in what was written,
    `lens_steered` and `lens_clean`; plain JSON."""
    failure: str | None
    """Why there are no continuations: `no_prompts`, `not_reached`, …"""
    passages: tuple[Passage, ...]
    """One for each scored prompt."""


class Passage(NamedTuple):
    """A prompt, and how the subject went on from it."""

    window_id: str
    """The scored window whose beginning the prompt is."""
    prompt: str
    """Text up to the first activating token."""
    clean: tuple[str, ...]
    """Continuations without steering."""
    steered: tuple[str, ...]
    """Continuations with it, as many."""


@dataclass(frozen=True, slots=True)
class Score:
    """One scorer's number on one explanation, with its null."""

    example_set_id: str
    """The windows it is from."""
    explanation_id: str | None
    """The explanation; None if the latent was judged without one."""
    scorer: str
    """Name in SCORERS."""
    variant: str
    """`raw`, or `relative` = less the mean of the controls on the same item; or another reading of
    the same verdicts, e.g. `per_token`."""
    statistic: str
    """What the number is: `auroc`, `pearson`, `nats`, `accuracy`."""
    estimate: Estimate
    """The score."""
    null: float
    """Mean of the same number over the controls: other latents' explanations, same windows."""
    difference: Estimate
    """Score less null, paired by window."""
    p_value: float
    """Chance of such a difference, or a greater one, if the explanation were no better than its
    null; one-sided. NaN where there is no test."""
    n_active: int
    """Activating windows (items whose right answer is yes) with a verdict."""
    n_silent: int
    """Silent windows (items whose right answer is no) with a verdict."""
    n_failed: int
    """Items without a verdict."""
    n_controls: int
    """Explanations of other latents in the null."""
    metrics: Mapping[str, Any]
    """What else follows from the verdicts, by name; plain JSON, see docs/methods.md."""
    reason: str | None
    """Why there is no number; None if there is one."""
    usage: Usage
    """Engine tokens and seconds of the trials it is from, controls included."""
