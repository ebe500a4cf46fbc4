"""Engines: local language models that explain and judge. Token ids in, numbers out.

    messages ─chat─▶ root + prefix + rest ─answers, digits, logprobs─▶ log-probabilities, nats
                                          ─generate─────────────────▶ text

The prefix is what many questions share; the root, the part of it that many prefixes share. An
engine evaluates each once and keeps them until other ones are asked for. The numbers of a call
follow from its arguments alone, never from what was asked before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lite_interp.errors import EngineError, one_line
from lite_interp.ids import content_id
from lite_interp.prompts import Message
from lite_interp.records import Generation, Sampling

ROUTINE_SETTINGS = frozenset({"n_threads", "n_gpu_layers"})
"""Settings that say where the work is done: they are recorded, but not part of an engine's id."""


class EngineFailure(Exception):  # noqa: N818 - not the user's mistake, so not named an error
    """The engine broke down during one unit of work, which is recorded as failed. It can go on."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How a GGUF model is run."""

    n_ctx: int = 4096
    """Longest sequence, tokens; lowered to what the model was trained on."""
    n_batch: int = 512
    """Tokens evaluated in one call, at most."""
    n_ubatch: int = 512
    """Tokens evaluated in one pass through the layers, at most."""
    n_parallel: int = 32
    """Sequences evaluated side by side, at most."""
    n_cells: int = 0
    """Tokens that all sequences hold together; 0 = twice `n_ctx` and one batch."""
    flash_attention: bool = False
    """Whether attention is computed without storing its whole matrix: no faster on a CPU, and
    there numbers then depend more on what is evaluated side by side."""
    kv_type: str = "f16"
    """Type in which keys and values are kept: `f16`, `f32`, or `q8_0` with flash attention."""
    n_threads: int = 0
    """Threads; 0 = one for each physical core."""
    n_gpu_layers: int = -1
    """Layers computed on a GPU, if llama.cpp was built for one; -1 = all of them."""

    def __post_init__(self) -> None:
        """Refuse what would end the process inside llama.cpp."""
        for name, value, low, high in (
            ("n_ctx", self.n_ctx, 16, 1 << 24),
            ("n_batch", self.n_batch, 1, 1 << 16),
            ("n_ubatch", self.n_ubatch, 1, 1 << 16),
            ("n_parallel", self.n_parallel, 1, 250),
            ("n_cells", self.n_cells, 0, 1 << 26),
            ("n_threads", self.n_threads, 0, 512),
        ):
            if not low <= value <= high:
                option = name.replace("_", "-")
                raise EngineError(
                    f"--{option} is out of range: {value}", f"choose between {low} and {high}"
                )
        if self.kv_type == "q4_0":
            raise EngineError(
                "keys and values of type q4_0 change the numbers too much: logits by about their "
                "own spread",
                "f16 is the default; q8_0 halves its memory",
            )
        if self.kv_type not in ("f16", "f32", "q8_0"):
            raise EngineError(
                f"unknown type of keys and values: {one_line(self.kv_type)}",
                "there is: f16, f32, q8_0",
            )
        if self.kv_type == "q8_0" and not self.flash_attention:
            raise EngineError("keys and values of type q8_0 need flash attention")

    def asked(self) -> dict[str, Any]:
        """The settings that change numbers, as they go into an engine's id."""
        return {name: value for name, value in asdict(self).items() if name not in ROUTINE_SETTINGS}


class ChatTokens(NamedTuple):
    """A prompt as token ids, cut where many prompts go different ways. `prefix + rest` is all."""

    prefix: list[int]
    """Everything up to the line in which the last untrusted piece begins."""
    rest: list[int]
    """Everything from that line on."""
    root: int
    """Tokens of `prefix` before the line in which the first untrusted piece begins."""


class Call(NamedTuple):
    """One evaluation by the model."""

    n_tokens: int
    """Tokens."""
    n_sequences: int
    """Sequences they belong to."""
    n_outputs: int
    """Positions whose logits are wanted."""


class Rehearsal(NamedTuple):
    """An engine that evaluates nothing."""

    engine: Engine
    """It has the id and the tokens of the model."""
    calls: list[Call]
    """What would have been evaluated, one after the other."""


class Engine(Protocol):
    """A local language model that explains and judges."""

    @property
    def id(self) -> str:
        """Content id of the model's bytes and the settings that change numbers."""
        ...

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def n_ctx(self) -> int:
        """Tokens that one sequence may hold."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What it is and how it is run; plain JSON."""
        ...

    @property
    def n_evaluated(self) -> int:
        """Tokens evaluated since it was opened that it did not write itself."""
        ...

    @property
    def n_written(self) -> int:
        """Tokens written since it was opened."""
        ...

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text that goes on from other text: no BOS, no space put in front.

        Args:
            text: any text.
            special: whether names of special tokens become those tokens; never for text from
                a corpus or a model.
        """
        ...

    def chat(self, messages: Sequence[Message]) -> ChatTokens:
        """A chat in the model's own format, open for the answer.

        A last message of the assistant is an answer that is begun: the engine goes on from it.
        No text of a message can become a special token.
        """
        ...

    def logprobs(
        self, prefix: Sequence[int], suffixes: Sequence[Sequence[int]], root: int = 0
    ) -> list[NDArray[np.float32]]:
        """Log-probability of each suffix token, given the prefix and the tokens before it.

        Args:
            prefix: token ids, at least one.
            suffixes: token ids; each stands behind the prefix alone.
            root: tokens of the prefix that the prefixes of other calls share: a hint for speed.

        Returns:
            One (len(suffix),) for each suffix, nats.
        """
        ...

    def answers(
        self,
        prefix: Sequence[int],
        suffixes: Sequence[Sequence[int]],
        choices: Sequence[Sequence[int]],
        root: int = 0,
    ) -> NDArray[np.float32]:
        """Log-probability of each choice after each suffix, summed over the choice's tokens.

        Args:
            prefix: token ids; may be empty if no suffix is.
            suffixes: token ids; each stands behind the prefix alone.
            choices: token ids, at least one in each; usually one token.
            root: as for `logprobs`.

        Returns:
            (n_suffixes, n_choices), nats.
        """
        ...

    def digits(
        self,
        prefix: Sequence[int],
        suffixes: Sequence[Sequence[int]],
        places: Sequence[Sequence[int]],
        highest: int = 10,
        root: int = 0,
    ) -> list[NDArray[np.float32]]:
        """Log-probability of each rating 0, 1, … `highest`, written in digits, at many places.

        Where 10 is two tokens, as for most models, a 1 counts as the rating 1 only if no 0
        follows, and the tokens up to each place are evaluated once more. Ratings up to 9 cost one
        evaluation of each suffix.

        Args:
            prefix: token ids; may be empty.
            suffixes: token ids; each stands behind the prefix alone.
            places: for each suffix, ascending, the indices of its tokens behind which a rating
                is read.
            highest: the greatest rating, 1 to 10.
            root: as for `logprobs`.

        Returns:
            One (n_places, highest + 1) for each suffix, nats; see `expected_digits`.
        """
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], how: Sampling, root: int = 0
    ) -> list[Generation]:
        """One answer for each prompt.

        Args:
            prompts: token ids, at least one in each.
            how: longest answer, temperature, seed, stop texts, schema. What is drawn depends on
                the seed, the prompt, and how often it stood before in this call, not on its
                neighbours.
            root: tokens that all prompts begin with: a hint for speed.
        """
        ...

    def close(self) -> None:
        """Free everything. A closed engine cannot be used again; closing twice is harmless."""
        ...

    def __enter__(self) -> Engine:
        """The engine itself."""
        ...

    def __exit__(self, *error: object) -> None:
        """Close it."""
        ...


def open_engine(path: Path, settings: EngineSettings | None = None) -> Engine:
    """Open a GGUF model; raises `EngineError` if it cannot be used."""
    # llama.cpp would start a debugger for a stack trace when it aborts; read while it is loaded.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    from lite_interp.engine.opening import open_llama

    return open_llama(path, settings or EngineSettings())


def rehearse_engine(path: Path, settings: EngineSettings | None = None) -> Rehearsal:
    """An engine with the id and the tokens of a GGUF model that evaluates nothing.

    It makes the same calls as the model itself would, and notes them; every token is as likely
    as every other, so its numbers mean nothing, and its answers are as long as they may be.
    """
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    from lite_interp.engine.opening import open_rehearsal

    return open_rehearsal(path, settings or EngineSettings())


def engine_id(sha256: str, settings: Mapping[str, Any]) -> str:
    """Content id of an engine: the model's bytes and the settings that change numbers."""
    return content_id({"kind": "engine", "model": sha256, "settings": dict(settings)})


def expected_digits(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected rating at each place, and how much probability the ratings have together.

    Args:
        values: (n_places, n_ratings) log-probabilities of the ratings 0, 1, …, from `digits`.

    Returns:
        (n_places,) Σ r p(r) / Σ p(r), and (n_places,) Σ p(r): where that is small, the engine
        would rather not have written a rating, and the expected one says little.
    """
    weights = np.exp(values.astype(np.float64))
    mass = weights.sum(axis=1)
    expected = np.full(len(values), np.nan)
    np.divide(weights @ np.arange(values.shape[1]), mass, out=expected, where=mass > 0)
    return expected, mass


def choice_tokens(engine: Engine, words: Sequence[str]) -> list[list[int]]:
    """The ways to say one of `words` in one token: as it is, lower, capital, upper; with a space.

    What is more than one token for this engine is left out. The result is a list of choices for
    `Engine.answers`, sorted; the log-probability of the meaning is the logsumexp over them.
    """
    written = {form for word in words for form in (word, word.lower(), word.title(), word.upper())}
    variants = (space + form for form in sorted(written) for space in ("", " "))
    tokens = (engine.tokenize(variant) for variant in variants)
    found = sorted({token[0] for token in tokens if len(token) == 1})
    if not found:
        raise EngineError(
            f"no single token of {one_line(engine.name)} says: {one_line(', '.join(words))}",
            "judge with another engine",
        )
    return [[token] for token in found]
