"""Steering: the subject with one latent turned up, or turned off.

    add      x' = dec(enc(x) + s e_i) + (x - dec(enc(x))) = x + s c(x) W_dec[i]
    ablate   x' = x - a_i(x) c(x) W_dec[i]

c(x) is the scale that the coder takes out of a token before it encodes (1 for most coders), so
that the coder's error stays as it is: Paulo et al. 2024 (arXiv 2410.13928), section 3.3.5.
A prompt is a row of tokens; the subject is steered at its last token and at every later one.
The tokens before are read once, and only copies of what was read are used, so that no pass
changes another. Where we differ: the paper's code means to steer the later tokens too, but loses
them once keys and values are kept; and it tunes the strength on the prompts that it scores.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from lite_interp.errors import SubjectError
from lite_interp.records import Hookpoint
from lite_interp.sae import SparseCoder, check_fits
from lite_interp.subject import Subject, activations_of, normalized

SCALES_TOKENS = ("layer_norm", "norm_rescale")
"""Input transforms of a coder that scale every token by its own number."""


@dataclass(frozen=True, slots=True, eq=False)
class Steer:
    """A direction, and how strongly the subject is pushed along it."""

    writes: Hookpoint
    """Where the subject is changed. A module's input is changed for that module alone: before a
    norm inside a layer, what goes round the norm stays as it was."""
    direction: Tensor
    """(d,) float32: a row of the decoder, or a random one of the same norm."""
    strength: float | None
    """Activation that is added, in the coder's unit; None = the latent is ablated."""
    reads: Hookpoint
    """What the coder encodes; for an autoencoder the same as `writes`."""
    coder: SparseCoder | None = None
    """Scales the tokens, and says how strong the latent is; None: a direction in the subject's own
    scale."""
    latent: int | None = None
    """Index in the coder: what is ablated."""

    def __post_init__(self) -> None:
        """Refuse an ablation of nothing."""
        if self.strength is None and (self.coder is None or self.latent is None):
            raise ValueError("only a coder's latent can be ablated")


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Prompts that the subject has read up to their last token; see `read_prompts`."""

    subject: Subject
    """The language model."""
    mask: Tensor
    """(n, t) bool: where the tokens are; shorter prompts are padded on the left."""
    last: Tensor
    """(n,) the last token of each."""
    clean: Tensor
    """(n, n_vocab) float64: log-probabilities of the next token, not steered; on the CPU."""
    _cache: Any
    """Keys and values of all tokens but the last. `Rows` takes copies."""

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.last)


def steer_latent(
    subject: Subject, coder: SparseCoder, latent: int, strength: float | None
) -> Steer:
    """The steering that adds to one latent of a coder, or ablates it (`strength` None).

    Raises:
        SubjectError: the subject does not have the coder's hookpoints.
        CoderError: their widths differ.
    """
    if not 0 <= latent < coder.n_latents:
        raise ValueError(f"latent outside the coder's {coder.n_latents}: {latent}")
    reads, writes = subject.resolve(coder.reads), subject.resolve(coder.writes)
    check_fits(coder, str(writes), subject.width(reads), subject.width(writes))
    return Steer(writes, coder.W_dec[latent].float(), strength, reads, coder, latent)


def random_direction(draw: np.random.Generator, norm: float, d: int) -> Tensor:
    """(d,) float32, evenly distributed over all directions: the floor of steering."""
    vector = draw.standard_normal(d)
    return torch.from_numpy(vector * (norm / np.linalg.norm(vector))).float()


def read_prompts(subject: Subject, token_ids: Sequence[Sequence[int]]) -> Prompts:
    """Read prompts up to their last token, in one pass.

    Args:
        subject: the language model.
        token_ids: one row of tokens for each prompt, of any lengths; none is empty.

    Raises:
        SubjectError: tokens the subject does not have, or a prompt too long for it.
    """
    lengths = [len(row) for row in token_ids]
    if not lengths or min(lengths) < 1:
        raise ValueError("steering needs prompts, of one token at least")
    check_length(subject, max(lengths))
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    mask = torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]
    ids[mask] = torch.tensor([token for row in token_ids for token in row], dtype=torch.long)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= subject.n_vocab:
        raise SubjectError(
            f"token id outside the subject's {subject.n_vocab}: {low if low < 0 else high}",
            "the corpus was cut with another model's tokenizer",
        )
    ids, mask = ids.to(subject.device), mask.to(subject.device)
    cache = DynamicCache(config=subject.model.config)
    if max(lengths) > 1:
        _forward(subject, subject.model.base_model, ids[:, :-1], mask[:, :-1], cache)
    begun = Prompts(subject, mask, ids[:, -1], torch.zeros(0), cache)
    return replace(begun, clean=next_token(begun, None))


def check_length(subject: Subject, n_tokens: int) -> None:
    """Refuse more tokens than the subject can read."""
    if n_tokens > subject.max_length:
        raise SubjectError(
            f"context is longer than the subject's {subject.max_length} tokens: {n_tokens}",
            "use shorter contexts",
        )


class Rows:
    """Rows on their way through the subject: the prompts once for each steering, in that order.

    Made for one call and gone with it; the prompts stay as they were.
    """

    def __init__(
        self, prompts: Prompts, steers: Sequence[Steer | None], places: slice = slice(None)
    ) -> None:
        """Begin with the prompts at `places`, before their last token."""
        self.subject = prompts.subject
        self.steers = steers
        self.arms: list[Arm] = []
        chosen = torch.arange(len(prompts), device=prompts.mask.device)[places].repeat(len(steers))
        self.mask = prompts.mask[chosen, :-1]
        self.last = prompts.last[chosen]
        self._cache = copy.deepcopy(prompts._cache)
        self._cache.batch_select_indices(chosen)

    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token in each row (n,), steered; (n, n_vocab) float32 logits, on the CPU.

        Raises:
            SubjectError: a hookpoint is never reached.
        """
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        ids = tokens.to(self.mask.device)[:, None]
        share = len(ids) // len(self.steers)
        self.arms = [
            Arm(steer, slice(number * share, (number + 1) * share))
            for number, steer in enumerate(self.steers)
            if steer is not None
        ]
        with _steered(self.subject, self.arms, ids.shape):
            made = _forward(self.subject, self.subject.model, ids, self.mask, self._cache)
        return made.logits[:, -1].float().cpu()

    def repeat(self, n: int) -> None:
        """Each row n times, one behind the other."""
        self.mask = self.mask.repeat_interleave(n, 0)
        self._cache.batch_repeat_interleave(n)


def next_token(prompts: Prompts, steer: Steer | None) -> Tensor:
    """(n, n_vocab) float64 log-probabilities of the token behind each prompt, on the CPU."""
    rows = Rows(prompts, [steer])
    return rows.step(rows.last).double().log_softmax(-1)


class Arm:
    """One steering of some rows, during one pass."""

    def __init__(self, steer: Steer, rows: slice) -> None:
        """Steer the given rows."""
        self.steer = steer
        self.rows = rows
        self.amount: Tensor | float | None = None
        self.before = torch.zeros(0)
        """(n, t, d) float32 activations before they were steered."""
        self.added = torch.zeros(0)
        """(n, t, d) what was added."""
        if steer.strength is not None and not self.reads:
            self.amount = steer.strength

    @property
    def reads(self) -> bool:
        """Whether the amount depends on the token."""
        coder = self.steer.coder
        return coder is not None and (
            self.steer.strength is None
            or (coder.input_transform in SCALES_TOKENS and not coder.is_transcoder)
        )

    def read(self, x: Tensor) -> None:
        """Take the amount (n, t, 1) from what the coder encodes, (n, t, d_in)."""
        coder, strength = self.steer.coder, self.steer.strength
        assert coder is not None
        flat = x[self.rows].flatten(0, 1).float().to(coder.W_enc.device)
        amount = coder.undone(flat)[1] * flat.new_ones(len(flat), 1)
        if strength is None:
            fired = coder.firings(flat)
            ours = fired.latents == self.steer.latent
            active = flat.new_zeros(len(flat), 1)
            active[fired.rows[ours], 0] = fired.values[ours]
            amount = -active * amount
        else:
            amount = strength * amount
        self.amount = amount.reshape(-1, x.shape[1], 1).to(x.device)

    def write(self, x: Tensor) -> Tensor:
        """A copy of x (n, t, d) in which the arm's rows are steered."""
        if self.amount is None:
            raise SubjectError(
                f"sparse coder writes before it reads: {self.steer.writes}",
                "its hookpoints are not those it was trained on",
            )
        steered = x.clone()
        self.before = x[self.rows].float()
        self.added = (self.amount * self.steer.direction.to(x.device)).expand_as(self.before)
        steered[self.rows] = (self.before + self.added).to(x.dtype)
        return steered


@contextmanager
def _steered(subject: Subject, arms: Sequence[Arm], shape: Sequence[int]) -> Iterator[None]:
    """Steer what runs inside. No hook outlives it.

    Raises:
        SubjectError: a hookpoint is never reached.
    """
    handles: list[Any] = []
    try:
        for arm in arms:
            if arm.reads:
                handles.append(_attach(subject, arm.steer.reads, arm.read, shape))
            handles.append(_attach(subject, arm.steer.writes, arm.write, shape))
        yield
    finally:
        for handle in handles:
            handle.remove()
    for arm in arms:
        if not arm.before.numel():
            raise SubjectError(
                f"hookpoint is never reached when text is read: {arm.steer.writes}",
                "choose a decoder layer or a module in one",
            )


def _attach(
    subject: Subject, point: Hookpoint, see: Callable[[Tensor], Tensor | None], shape: Sequence[int]
) -> Any:
    """Hang a hook on a hookpoint that may put something in the activations' place."""
    module = subject.model.get_submodule(point.module)

    def change(value: Any) -> Any:
        rows = activations_of(point, value, shape)
        put = see(rows)
        if put is None:
            return None
        if isinstance(value, Tensor):
            return put.reshape(value.shape)
        return (put.reshape(value[0].shape), *value[1:])

    if point.side == "output":
        return module.register_forward_hook(lambda _module, _args, output: change(output))

    def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = args[0] if args else kwargs.get("hidden_states")
        if point.side == "normalized":
            see(activations_of(point, normalized(module, value), shape))
            return None
        put = change(value)
        if put is None:
            return None
        return ((put, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": put})

    return module.register_forward_pre_hook(before, with_kwargs=True)


def _forward(subject: Subject, model: Any, ids: Tensor, mask: Tensor, cache: Any) -> Any:
    """One pass over tokens (n, m), the last m of a mask (n, t), behind what the cache holds."""
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    placed = "position_ids" in inspect.signature(model.forward).parameters
    with torch.no_grad():
        return model(
            input_ids=ids,
            attention_mask=mask.long(),
            past_key_values=cache,
            use_cache=True,
            **({"position_ids": positions} if placed else {}),
        )
