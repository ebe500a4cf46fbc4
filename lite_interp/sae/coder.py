"""The sparse coder: one form to which every file format is reduced.

    x' = transform(x) - pre_bias
    p  = x' W_enc + b_enc
    relu      a = relu(p)
    topk      a = relu(p) where p is among the k largest of its token, else 0
    groupmax  a = relu(p) where p is the largest of its group; the latents are split into k groups
    jumprelu  a = relu(p) where p > threshold, strictly, else 0
    gated     a = relu(x' (W_enc * exp(r_mag)) + b_mag) where p > 0, else 0
    y  = untransform(a W_dec + b_dec) + x W_skip^T      (a transcoder untransforms nothing)

All arithmetic is float32, whatever the subject's dtype: lower precision flips latents near their
threshold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lite_interp.errors import CoderError, one_line

Activation = Literal["relu", "topk", "groupmax", "jumprelu", "gated"]
Transform = Literal["none", "layer_norm", "norm_rescale", "centre"]

EVERY = slice(None)
BLOCK_ELEMENTS = 1 << 24
"""Most float32 numbers in one dense block of pre-activations: 64 MiB."""


class Encoded(NamedTuple):
    """Activations of a few latents for each token."""

    values: Tensor
    """(n, m) activations; 0 = not firing. For topk and groupmax m = k, else the most that fired."""
    indices: Tensor
    """(n, m) latents the values belong to."""


class Fired(NamedTuple):
    """All firings of some tokens, as flat arrays in the order of tokens, then latents."""

    rows: Tensor
    """(f,) int64, row of the token in the input."""
    latents: Tensor
    """(f,) int64, index of the latent."""
    values: Tensor
    """(f,) float32, activations > 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """What a gated coder has beside its encoder."""

    r_mag: Tensor
    """(n_latents,) logarithm of the magnitude path's scale."""
    b_mag: Tensor
    """(n_latents,) bias of the magnitude path."""


@dataclass(frozen=True, slots=True, eq=False)
class SparseCoder:
    """A sparse autoencoder or transcoder, float32."""

    format: str
    """Name in LOADERS of the file format it was read from; `random` if its directions are drawn."""
    hash: str
    """`sha256:` of the weights file; of a random coder the content id of what it was drawn from."""
    reads: str
    """Hookpoint whose activations it encodes, as spelled in the files."""
    writes: str
    """Hookpoint it reconstructs; for an autoencoder the same as `reads`."""
    W_enc: Tensor
    """(d_in, n_latents)"""
    b_enc: Tensor
    """(n_latents,); of a gated coder the gate's bias."""
    W_dec: Tensor
    """(n_latents, d_out), one direction per latent."""
    b_dec: Tensor
    """(d_out,)"""
    activation: Activation
    """How pre-activations become activations."""
    k: int | None = None
    """Latents kept for each token, for topk and groupmax."""
    threshold: Tensor | None = None
    """(n_latents,), for jumprelu."""
    gate: Gate | None = None
    """For gated."""
    pre_bias: Tensor | None = None
    """(d_in,) subtracted before the encoder; usually but not always `b_dec`."""
    input_transform: Transform = "none"
    """What is done to each token first, and undone at the output."""
    W_skip: Tensor | None = None
    """(d_out, d_in), the linear path of a skip transcoder."""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Files, the config as read, and `assumptions`: every default that stands for a missing key."""

    def __post_init__(self) -> None:
        """Refuse tensors that do not fit together."""
        d_in, n_latents = self.W_enc.shape
        d_out = self.W_dec.shape[-1]
        expected: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
            "b_enc": (self.b_enc, (n_latents,)),
            "W_dec": (self.W_dec, (n_latents, d_out)),
            "b_dec": (self.b_dec, (d_out,)),
            "threshold": (self.threshold, (n_latents,)),
            "r_mag": (self.gate and self.gate.r_mag, (n_latents,)),
            "b_mag": (self.gate and self.gate.b_mag, (n_latents,)),
            "pre_bias": (self.pre_bias, (d_in,)),
            "W_skip": (self.W_skip, (d_out, d_in)),
        }
        for name, (tensor, shape) in expected.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise CoderError(
                    f"{name} of the sparse coder has shape {tuple(tensor.shape)}, expected {shape}"
                )
        if self.activation in ("topk", "groupmax") and not 1 <= (self.k or 0) <= n_latents:
            raise CoderError(f"k of the sparse coder must lie in 1..{n_latents}: {self.k}")
        if self.activation == "groupmax" and n_latents % (self.k or 1):
            raise CoderError(f"{n_latents} latents cannot be split into {self.k} equal groups")
        if (self.activation == "jumprelu") != (self.threshold is not None):
            raise CoderError("a threshold belongs to jumprelu, and jumprelu needs one")
        if (self.activation == "gated") != (self.gate is not None):
            raise CoderError("a gate belongs to gated, and gated needs one")

    @property
    def d_in(self) -> int:
        """Width of what it reads."""
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        """Width of what it writes."""
        return self.W_dec.shape[1]

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return self.W_enc.shape[1]

    @property
    def compete(self) -> bool:
        """Whether a latent fires only if it is among the largest."""
        return self.activation in ("topk", "groupmax")

    @property
    def is_transcoder(self) -> bool:
        """Whether it writes elsewhere than it reads."""
        return self.reads != self.writes

    def to(self, device: torch.device | str) -> SparseCoder:
        """The same coder with its tensors on a device."""
        moved = {
            name: value.to(device)
            for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "pre_bias", "W_skip")
            if (value := getattr(self, name)) is not None
        }
        gate = self.gate and Gate(self.gate.r_mag.to(device), self.gate.b_mag.to(device))
        return dataclasses.replace(self, gate=gate, **moved)

    def encode(self, x: Tensor) -> Encoded:
        """Activations of the latents that fire.

        Args:
            x: (n, d_in) activations at the hookpoint, any dtype.
        """
        fired = [self._encode_block(block) for block in self.blocks(x)]
        width = max((values.shape[1] for values, _ in fired), default=self.k or 0)
        padded = [
            tuple(functional.pad(part, (0, width - part.shape[1])) for part in encoded)
            for encoded in fired
        ]
        if not padded:
            empty = x.new_zeros((0, width))
            return Encoded(empty.float(), empty.long())
        return Encoded(*(torch.cat(parts) for parts in zip(*padded, strict=True)))

    def firings(self, x: Tensor) -> Fired:
        """All activations > 0; no more than a block of tokens is ever dense.

        `Encoder.firings` finds the same sooner.

        Args:
            x: (n, d_in) activations at the hookpoint, any dtype.
        """
        found, start = [], 0
        for block in self.blocks(x):
            dense = self._dense(block)
            rows, latents = dense.nonzero(as_tuple=True)
            found.append((rows + start, latents, dense[rows, latents]))
            start += len(block)
        return join_fired(found, x.device)

    def decode(self, encoded: Encoded) -> Tensor:
        """(n, d_out) a W_dec + b_dec: the output before `untransform` and without `W_skip`."""
        indices, values = encoded.indices, encoded.values.float()
        if not indices.numel():
            return self.b_dec.expand(len(indices), -1).clone()
        summed = functional.embedding_bag(
            indices, self.W_dec, per_sample_weights=values, mode="sum"
        )
        return summed + self.b_dec

    def reconstruct(self, x: Tensor, encoded: Encoded | None = None) -> Tensor:
        """(n, d_out) what the coder makes of x (n, d_in), in the subject's own scale.

        Args:
            x: (n, d_in) activations at the hookpoint, any dtype.
            encoded: `encode(x)`, if it is at hand.
        """
        x = x.float()
        y = self.decode(self.encode(x) if encoded is None else encoded)
        centre, scale = self.undone(x)
        y = y * scale + centre
        return y if self.W_skip is None else y + x @ self.W_skip.T

    def blocks(self, x: Tensor) -> Iterator[Tensor]:
        """Runs of tokens whose dense activations fit in a block."""
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise CoderError(
                f"sparse coder reads width {self.d_in}, the activations have shape "
                f"{one_line(tuple(x.shape))}"
            )
        return (part for part in x.split(max(1, BLOCK_ELEMENTS // self.n_latents)) if len(part))

    def undone(self, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Centre and scale of each token that the output gets back: y = y * scale + centre.

        Nothing for a transcoder: mean and length of what it writes are not those of what it reads,
        and SAELens, whose transcoders alone transform their input, leaves them alone too.
        """
        return (0.0, 1.0) if self.is_transcoder else self.norms(x)

    def norms(self, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Centre and scale of each token (n, 1), so that transform(x) = (x - centre) / scale."""
        if self.input_transform == "layer_norm":
            return x.mean(-1, keepdim=True), x.std(-1, keepdim=True, unbiased=True) + 1e-5
        if self.input_transform == "norm_rescale":
            return 0.0, x.norm(dim=-1, keepdim=True) / self.d_in**0.5
        if self.input_transform == "centre":
            return x.mean(-1, keepdim=True), 1.0
        return 0.0, 1.0

    def prepared(self, x: Tensor) -> Tensor:
        """(n, d_in) float32, x' above: what the encoder multiplies."""
        x = x.float()
        if self.input_transform != "none":
            centre, scale = self.norms(x)
            x = (x - centre) / scale
        return x if self.pre_bias is None else x - self.pre_bias

    def fired(self, p: Tensor, latents: Tensor | slice = EVERY) -> Tensor:
        """Activations from pre-activations p, where each latent is by itself; p may be overwritten.

        Args:
            p: (..., m) pre-activations.
            latents: (..., m) or (m,) which latents they are of.
        """
        if self.threshold is not None:
            return p.where(p > self.threshold[latents], 0).relu_()
        if self.gate is not None:
            scale, bias = self.gate.r_mag[latents].exp(), self.gate.b_mag[latents]
            return ((p - self.b_enc[latents]) * scale + bias).relu_().where(p > 0, 0)
        return p.relu_()

    def largest(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """(n, k) values and latents that topk or groupmax keeps of (n, n_latents)."""
        k = self.k or 0
        if self.activation == "topk":
            return p.topk(k, dim=-1, sorted=False)
        size = self.n_latents // k
        values, indices = p.unflatten(-1, (k, size)).max(dim=-1)
        return values, indices + torch.arange(0, self.n_latents, size, device=p.device)

    def _dense(self, x: Tensor) -> Tensor:
        """(n, n_latents) activations of a block."""
        activations = self.fired(torch.addmm(self.b_enc, self.prepared(x), self.W_enc))
        if not self.compete:
            return activations
        values, indices = self.largest(activations)
        return torch.zeros_like(activations).scatter_(1, indices, values)

    def _encode_block(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and latents of a block, as many for each token as the busiest has."""
        dense = self._dense(x)
        width = self.k or int((dense > 0).sum(-1).max())
        return dense.topk(width, dim=-1)


def join_fired(parts: Sequence[tuple[Tensor, Tensor, Tensor]], device: torch.device) -> Fired:
    """Rows, latents and values of several blocks as one."""
    none = torch.zeros(0, dtype=torch.long, device=device)
    every = [(none, none, none.float()), *parts]
    return Fired(*(torch.cat(each) for each in zip(*every, strict=True)))
