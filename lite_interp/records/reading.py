"""What is read: documents, contexts, firings, windows, example sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Side = Literal["input", "output", "normalized"]
Role = Literal["shown", "scored", "held_out"]


@dataclass(frozen=True, slots=True)
class Hookpoint:
    """Where a sparse coder reads or writes in the subject."""

    module: str
    """Dotted path of the module in the transformers model, e.g. `model.layers.9`."""
    side: Side
    """Whether the tensor is the module's input or output, or a norm's output before its gain."""

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
    n_windows: int | None = None
    """Windows of 32 tokens in which it fired, where only some are kept; None = all are."""


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
    """`decile_0` (strongest) … `decile_9`, or the kind of a silent window: `random`, `same_token`,
    `near`, `sibling`."""
    weight: float
    """Windows of this stratum in the cache that this one stands for."""


@dataclass(frozen=True, slots=True, eq=False)
class ExampleSet:
    """Windows shown to an explainer, held out for it, and kept for scoring; they share no token."""

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
    held_out: tuple[Placed, ...] = ()
    """Windows that are neither shown as they are nor scored, activating and silent: on these an
    explainer tries its own explanations, and finds look-alikes."""
