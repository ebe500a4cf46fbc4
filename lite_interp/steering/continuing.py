"""What the subject writes, steered and not, and which tokens steering makes likelier.

Continuations are drawn by an exponential race: the token with the greatest
log p / T - log E, E drawn from the unit exponential distribution, follows the softmax exactly. Each
prompt and ordinal has random numbers of its own, the same for every steering: clean and steered
continuations part only where steering changes the odds, so their difference varies less than that
of independent draws. Where we differ from Paulo et al. 2024 (arXiv 2410.13928): several
continuations of a prompt instead of one, and tokens that are no text are never drawn, so that all
continuations are equally long.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lite_interp.ids import generator
from lite_interp.steering.steer import Prompts, Rows, Steer, check_length, next_token

MAX_ROWS = 64
"""Most continuations that are written side by side."""

Continuations = list[list[tuple[int, ...]]]
"""Token ids: for each prompt its continuations, in order."""


@dataclass(frozen=True, slots=True)
class Continuing:
    """How the subject goes on from a prompt."""

    n_tokens: int = 8
    """Tokens in a continuation."""
    n_continuations: int = 4
    """Continuations of each prompt."""
    temperature: float = 1.0
    """0 = always the likeliest token."""
    seed: int = 0
    """Seed of the draw."""
    barred: frozenset[int] = frozenset()
    """Tokens that are never drawn: the tokenizer's `special_ids`."""


class Promoted(NamedTuple):
    """A token that steering makes likelier."""

    token: int
    """Its id."""
    increase: float
    """Probability behind the prompt when steered, less the clean one."""


class Shares(NamedTuple):
    """How much of the continuations consists of given tokens; NaN where there are none."""

    steered: float
    """Share of the steered continuations' tokens."""
    clean: float
    """Share of the clean continuations' tokens."""


def continue_prompts(
    prompts: Prompts, steers: Sequence[Steer | None], how: Continuing, names: Sequence[str]
) -> list[Continuations]:
    """Let the subject go on from prompts, once for each steering.

    Args:
        prompts: where it goes on.
        steers: how it is steered; None = clean.
        how: number, length and draw of the continuations.
        names: one for each prompt, e.g. its window's id. Seed, name and ordinal fix the random
            numbers, whatever other prompts there are.

    Raises:
        SubjectError: prompt and continuation together are too long for the subject.
    """
    if len(names) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts have {len(names)} names")
    check_length(prompts.subject, prompts.mask.shape[1] + how.n_tokens)
    if min(how.n_tokens, how.n_continuations, len(steers)) < 1:
        return [[[()] * how.n_continuations for _ in names] for _ in steers]
    size = max(1, MAX_ROWS // (len(steers) * how.n_continuations))
    written: list[Continuations] = [[] for _ in steers]
    for start in range(0, len(names), size):
        part = slice(start, start + size)
        made = _write(Rows(prompts, steers, part), how, names[part])
        for arm, tokens in zip(written, made.tolist(), strict=True):
            arm += [[tuple(row) for row in rows] for rows in tokens]
    return written


def _write(rows: Rows, how: Continuing, names: Sequence[str]) -> Tensor:
    """(n_steers, n_prompts, n_continuations, n_tokens) token ids."""
    shape = (len(rows.steers), len(names), how.n_continuations)
    # All continuations of a prompt begin with the same pass.
    logits = rows.step(rows.last).reshape(*shape[:2], 1, -1)
    noise = _noise(how, names, logits.shape[-1])
    rows.repeat(how.n_continuations)
    tokens: list[Tensor] = []
    while True:
        tokens.append(_draw(logits, how, noise).expand(shape))
        if len(tokens) == how.n_tokens:
            return torch.stack(tokens, -1)
        logits = rows.step(tokens[-1].flatten()).reshape(*shape, -1)


def _noise(how: Continuing, names: Sequence[str], n_vocab: int) -> Iterator[Tensor]:
    """(n_prompts, n_continuations, n_vocab) float64 unit exponential numbers, for each token."""
    draws = [
        generator(how.seed, "continuation", name, ordinal)
        for name in names
        for ordinal in range(how.n_continuations)
    ]
    while True:
        drawn = np.stack([draw.standard_exponential(n_vocab) for draw in draws])
        yield torch.from_numpy(drawn).reshape(len(names), how.n_continuations, n_vocab)


def _draw(logits: Tensor, how: Continuing, noise: Iterator[Tensor]) -> Tensor:
    """Tokens drawn from logits (…, n_vocab)."""
    if how.barred:
        logits = logits.clone()
        # A tokenizer may have more tokens than the subject.
        logits[..., [token for token in how.barred if token < logits.shape[-1]]] = -math.inf
    if how.temperature > 0:
        logits = logits / how.temperature - next(noise).log_()
    return logits.argmax(-1)


def promoted_tokens(prompts: Prompts, steer: Steer, n: int = 5) -> list[list[Promoted]]:
    """For each prompt the tokens whose probability rises most, at most n; only what rises."""
    gains = (next_token(prompts, steer).exp() - prompts.clean.exp()).numpy()
    # A stable order: of equals the lower id.
    best = np.argsort(-gains, axis=1, kind="stable")[:, :n]
    return [
        [Promoted(int(token), float(row[token])) for token in tokens if row[token] > 0]
        for row, tokens in zip(gains, best, strict=True)
    ]


def promoted_share(steered: Continuations, clean: Continuations, lens: Collection[int]) -> Shares:
    """How often continuations hold the tokens that the latent's decoder direction promotes.

    A check that asks no engine: where the logit lens tells what steering does, the first share is
    the greater one.

    Args:
        steered: continuations with steering.
        clean: continuations without.
        lens: ids of the tokens that the logit lens names.
    """
    return Shares(_share(steered, lens), _share(clean, lens))


def _share(written: Continuations, lens: Collection[int]) -> float:
    tokens = [token for rows in written for row in rows for token in row]
    return float(np.isin(tokens, list(lens)).mean()) if tokens else math.nan
