"""The records that cross module borders: frozen, numpy only, a docstring under each field.

An `id` is the content id (`ids.content_id`) of what was asked, never of what came back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Side = Literal["input", "output"]
Role = Literal["shown", "scored"]


@dataclass(frozen=True, slots=True)
class Hookpoint:
    """Where a sparse coder reads or writes in the subject."""

    module: str
    """Dotted path of the module in the transformers model, e.g. `model.layers.9`."""
    side: Side
    """Whether the tensor is the module's input or its output."""

    def __str__(self) -> str:
        """Path and side, as the file stores it."""
        return f"{self.module}.{self.side}"


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a corpus."""

    name: str
    """Where it came from: a file name, with a line or row number where there is one."""
    text: str
    """The text itself, valid Unicode."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Contexts of tokens cut from documents."""

    id: str
    """Content id of the documents' hash, the tokenizer's hash and the settings below."""
    name: str
    """What the user calls it."""
    source_hash: str
    """`sha256:` over the names and texts of the documents that were read, in order."""
    tokenizer_hash: str
    """Hash of the subject's tokenizer."""
    n_ctx: int
    """Longest context, tokens, a BOS token included."""
    add_bos: bool
    """Whether each context begins with the BOS token."""
    packed: bool
    """Whether several documents may stand in one context."""
    max_tokens: int
    """Limit on the tokens taken from the documents; 0 = none."""
    n_documents: int
    """Documents that gave at least one context."""
    n_skipped: int
    """Documents left out: binary, broken UTF-8 or empty."""
    n_contexts: int
    """Number of contexts."""
    n_tokens: int
    """Tokens over all contexts, BOS included."""


@dataclass(frozen=True, slots=True, eq=False)
class ContextShard:
    """A run of consecutive contexts: the unit in which tokens and firings are stored."""

    ordinal: int
    """Number of the shard in its corpus, from 0."""
    first: int
    """Ordinal of its first context in the corpus."""
    lengths: NDArray[np.int32]
    """(n,) tokens in each context."""
    token_ids: NDArray[np.int32]
    """(n, n_ctx) token ids; what lies behind a context's length is 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Firings:
    """Where one latent fired; only values > 0, sorted by context, then position."""

    contexts: NDArray[np.int32]
    """(n,) ordinals of contexts in the corpus."""
    positions: NDArray[np.int32]
    """(n,) positions in the context, from 0."""
    values: NDArray[np.float32]
    """(n,) activations."""


@dataclass(frozen=True, slots=True)
class LatentStats:
    """What a cache says about one latent, masked positions left out."""

    latent: int
    """Index in the sparse coder."""
    n_firings: int
    """Positions at which it fired."""
    n_contexts: int
    """Contexts in which it fired at least once."""
    density: float
    """Firings per position that was counted."""
    max_value: float
    """Greatest activation; 0 if it never fired."""
    mean_value: float
    """Mean activation over its firings; 0 if it never fired."""
    histogram: tuple[int, ...]
    """Firings in 20 equal bins from 0 to `max_value`."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A short stretch of a context: the example that people and engines see."""

    id: str
    """Content id of cache, latent, context, start and length."""
    latent: int
    """The latent whose activations stand in `values`."""
    context: int
    """Ordinal of the context in its corpus."""
    start: int
    """Position of the first token in the context."""
    tokens: tuple[str, ...]
    """(w,) texts of the tokens; joined they give the text of the window."""
    values: NDArray[np.float32]
    """(w,) activations, 0 where silent or masked."""

    @property
    def peak(self) -> float:
        """Greatest activation in the window; 0 for a silent one."""
        return float(self.values.max(initial=0.0))

    @property
    def text(self) -> str:
        """The window as plain text."""
        return "".join(self.tokens)


class Place(NamedTuple):
    """A window by its coordinates alone, before its text is read."""

    context: int
    """Ordinal of the context in its corpus."""
    start: int
    """Position of its first token."""
    length: int
    """Number of tokens."""


class Placed(NamedTuple):
    """A window with its part in an example set."""

    window: Window
    stratum: str
    """`decile_0` (strongest) … `decile_9`, or `random` for silent windows."""
    weight: float
    """Windows of this stratum in the cache that this one stands for."""


@dataclass(frozen=True, slots=True, eq=False)
class ExampleSet:
    """The windows shown to an explainer and those kept for scoring; they share no token."""

    id: str
    """Content id of cache, latent, sampler, settings and seed."""
    latent: int
    """Index of the latent."""
    sampler: str
    """Name of the sampler that chose the shown windows."""
    settings: Mapping[str, Any]
    """The sampler's settings, as they went into the id."""
    seed: int
    """Seed of the draw."""
    shown: tuple[Placed, ...]
    """Activating windows for the explainer, strongest first."""
    scored: tuple[Placed, ...]
    """Windows kept for scoring, activating and silent."""


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
    """Why there is no text: `empty`, `no_answer`, `too_long`, `engine`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One scorer's answer on one window."""

    window_id: str
    """The window."""
    active: bool
    """The truth: whether the latent fires in it."""
    value: float | None
    """The scorer's number, in the scorer's unit; None if it failed."""
    failure: str | None
    """Why there is no value."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One scorer, one explanation, one example set: the unit of work of scoring."""

    id: str
    """Content id of scorer, settings, explanation, example set, prompt and model."""
    scorer: str
    """Name in SCORERS."""
    settings: Mapping[str, Any]
    """Settings of the scorer, as they went into the id."""
    explanation_id: str
    """The explanation that was judged."""
    example_set_id: str
    """The windows it was judged on."""
    control: bool
    """Whether the explanation belongs to another latent (then the trial is part of a null)."""
    prompt_id: str | None
    """None for a scorer that asks no engine."""
    model_id: str
    """The engine or embedder that judged."""
    verdicts: tuple[Verdict, ...]
    """One for each scored window, in the order of the example set."""


class Estimate(NamedTuple):
    """A number with its 95 % interval; NaN where there is nothing to estimate from."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Score:
    """One scorer's number on one explanation, with its null."""

    explanation_id: str
    """The explanation."""
    scorer: str
    """Name in SCORERS."""
    variant: str
    """`raw`, or `relative` = less the mean of the controls on the same window."""
    statistic: str
    """What the number is: `auroc`."""
    estimate: Estimate
    """The score."""
    null: float
    """Mean of the same number over the controls: other latents' explanations, same windows."""
    difference: Estimate
    """Score less null, paired by window."""
    n_active: int
    """Activating windows with a verdict."""
    n_silent: int
    """Silent windows with a verdict."""
    n_failed: int
    """Windows without a verdict."""
    n_controls: int
    """Explanations of other latents in the null."""
