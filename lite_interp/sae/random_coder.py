"""A sparse coder with random directions: the floor that a trained one has to beat.

    rows of W_enc^T   unit vectors, uniform on the sphere
    W_dec             W_enc^T; of a transcoder unit vectors of its own
    a                 topk of (transform(x) - m) W_enc
    y                 untransform(a W_dec + m)

It has the shape of a real coder and as many of its latents fire. Paulo et al. 2024 (arXiv
2410.13928) score the explanations of such a coder as a floor, with k = 50 of 131,072 latents.

m, the mean of a sample of activations, is what we add. Activations lie far from 0, so without m
the latents near to the mean fire everywhere and most others never. On 60,000 tokens of the demo
(layer 9 of SmolLM2-135M: its mean is 103 long, the median activation 133) so many of 4,096 latents
are dead, and so many have a density in 0.001..0.01:

    trained 65 and 3,319   without m 1,318 and 748   with m 0 and 3,526   b_dec for m 0 and 2,935

A floor on which few latents can be explained would be too low. The b_dec of the trained coder is
near to m, but not every coder subtracts one, and a transcoder's belongs to its output.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lite_interp.errors import CoderError, one_line
from lite_interp.ids import content_id, generator
from lite_interp.sae.coder import SparseCoder

RANDOM = "random"
"""Format of a coder whose directions are random, and the key of its recipe in its provenance."""


class Recipe(NamedTuple):
    """All that makes a random coder of a real one, the same whenever it is made again."""

    coder: str
    """Hash of the real coder."""
    seed: int
    """Seed of the directions."""
    k: int
    """Latents kept for each token, 1..n_latents."""
    sample: str
    """Content id of the sample that `centre` is the mean of; stands for it in the coder's name,
    because its last digits depend on the machine."""
    centre: list[float]
    """(d_in,) mean of the transformed activations."""


def make_recipe(coder: SparseCoder, x: Tensor, l0: float, sample: str, seed: int = 0) -> Recipe:
    """What a random coder in place of a real one is made from.

    Args:
        coder: the real coder; if it keeps a fixed number of latents, so does the random one.
        x: (n, d_in) activations of a sample; leave out BOS and outlier positions.
        l0: mean number of the real coder's latents that fire for each token of the sample: how many
            are kept, rounded, if the coder fixes none.
        sample: content id of the sample.
        seed: seed of the directions.
    """
    x = x.float().cpu()
    centre, scale = coder.norms(x)
    mean = ((x - centre) / scale).mean(0, dtype=torch.float64).float()
    return Recipe(coder.hash, seed, coder.k or max(1, round(l0)), sample, mean.tolist())


def randomised(coder: SparseCoder, recipe: Recipe) -> SparseCoder:
    """A coder in place of a real one: its shape, hookpoints and transform, random directions.

    Its `hash` follows from the real coder's, the seed, k and the sample; `provenance` holds the
    recipe, and tells where the real coder is.

    Args:
        coder: the real coder.
        recipe: what the random one is made from, by `make_recipe`.

    Raises:
        CoderError: the recipe is of another coder.
    """
    if coder.hash != recipe.coder:
        raise CoderError(
            f"another coder than the one made random: {one_line(coder.provenance['path'])}",
            "name the right one: --coder",
        )
    draw = generator(recipe.seed, "random coder")
    directions = _directions(draw, coder.n_latents, coder.d_in)
    centre = torch.tensor(recipe.centre, dtype=torch.float32)
    written, b_dec = directions, centre
    if coder.is_transcoder:
        written, b_dec = _directions(draw, coder.n_latents, coder.d_out), coder.b_dec.cpu()
    return dataclasses.replace(
        coder,
        format=RANDOM,
        hash=content_id(["random coder", *recipe[:4]]),
        W_enc=directions.T.contiguous(),
        b_enc=torch.zeros(coder.n_latents),
        W_dec=written,
        b_dec=b_dec,
        activation="topk",
        k=recipe.k,
        threshold=None,
        gate=None,
        pre_bias=centre,
        W_skip=None,
        provenance={**coder.provenance, RANDOM: recipe._asdict()},
    )


def _directions(draw: np.random.Generator, n: int, d: int) -> Tensor:
    """(n, d) float32 unit vectors, uniform on the sphere."""
    rows = draw.standard_normal((n, d), dtype=np.float32)
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True))
