"""What the firings of a latent say beyond its statistics: where it fires, on what, with whom.

Pure functions of arrays. Activations are stored with 11 binary digits, so numbers that are kept
for people are rounded to five decimal ones; a rerun on another machine then gives the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Flag = Literal["dead", "rare", "dense", "single_token", "positional"]

N_TOP = 10
"""Tokens and neighbours that are kept of each kind."""

N_POSITION_BINS = 8
"""Equal parts of the longest context, for `position_dependence`."""

RARE_FIRINGS = 20
"""A latent with fewer firings is `rare`: ten windows to show and ten to score need as many."""

DENSE = 0.1
"""A latent that fires on more than this share of the positions is `dense`: few words fit a tenth
of all text, and its silent windows are hard to find."""

SINGLE_TOKEN = 0.9
"""A latent of which one token holds more than this share of the activation is `single_token`."""

POSITIONAL = 0.1
"""A latent whose `position_dependence` is greater is `positional`. One that fires in one bin alone
has 0.2 at a density of 1e-4 and 0.4 at 1e-2; one with half of its firings there 0.05. Of the
demo's latents 99 % are below 0.04, and 14 of 4,096 are above 0.1."""

Neighbours = tuple[tuple[int, float], ...]
"""Latents with how near they are, nearest first."""

Tokens = tuple[tuple[str, float], ...]
"""Texts of tokens, each with a number."""


@dataclass(frozen=True, slots=True)
class LatentDetails:
    """What is known about one latent of a cache beyond `LatentStats`."""

    latent: int
    """Index in the sparse coder."""
    quantiles: tuple[float, ...]
    """Activation at 0, 10, … 100 % of the firings, rising, 11 numbers; empty if it never fired."""
    top_tokens: Tokens
    """At most 10 tokens with their share of the activation, 0..1, greatest first."""
    single_token_share: float
    """Share of the activation on the first of `top_tokens`, 0..1; 0 if it never fired."""
    position_dependence: float
    """How much of firing is told by the position in the context, 0..1."""
    flags: tuple[Flag, ...]
    """What to know before its explanation is read."""
    promoted: Tokens | None
    """10 tokens that the decoder direction raises most, with logits; None if unknown."""
    suppressed: Tokens | None
    """10 tokens that it lowers most, with logits, lowest first; None if unknown."""
    decoder_neighbours: Neighbours
    """At most 10 latents whose decoder directions have the greatest cosine, 0..1."""
    cofiring_neighbours: Neighbours
    """At most 10 latents that fire at the same positions, with Jaccard index, 0..1."""


class Shares(NamedTuple):
    """How the activation of a latent is shared out over token ids, greatest share first."""

    token_ids: NDArray[np.int64]
    """(m,) ids, each once; equal shares in order of id."""
    shares: NDArray[np.float64]
    """(m,) share of the activation, sums to 1."""


def rounded(value: float) -> float:
    """A number to five decimal digits."""
    return float(f"{value:.5g}")


def token_shares(token_ids: NDArray[np.int32], values: NDArray[np.float32]) -> Shares:
    """Share of the activation that stands on each token id.

    Args:
        token_ids: (n,) the token at each firing.
        values: (n,) activations, > 0.

    Activation and not firings are shared out: the many weak firings of a latent are mostly noise.
    """
    distinct, places = np.unique(token_ids, return_inverse=True)
    sums = np.bincount(places, weights=values, minlength=len(distinct))
    order = np.lexsort((distinct, -sums))
    return Shares(distinct[order].astype(np.int64), sums[order] / max(sums.sum(), 1e-300))


def greatest(
    numbers: NDArray[np.float64], ids: NDArray[np.integer], n: int = N_TOP
) -> NDArray[np.int64]:
    """Places of the n greatest numbers, greatest first; equal ones in order of their ids."""
    if len(numbers) > n:
        kept = np.flatnonzero(numbers >= np.partition(numbers, -n)[-n])
        return kept[np.lexsort((ids[kept], -numbers[kept]))[:n]]
    return np.lexsort((ids, -numbers))


def position_dependence(
    fired: NDArray[np.int64], counted: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Share of the uncertainty about firing that the position takes away, 0..1, for m latents.

        I(fires; bin) / H(fires)        both in nats, over the positions that were counted

    Args:
        fired: (m, b) firings of each latent in each bin of positions.
        counted: (b,) positions that were counted in each bin.

    0 = fires at any position alike, 1 = the bin alone decides. EleutherAI's blog of July 2024
    leaves out latents with I(activation; position) > 0.05 nats. We divide by the entropy, because
    I cannot exceed it: at a density below 0.9 % no latent could reach 0.05. The plug-in estimate
    is biased upwards by about (b - 1) / 2n nats, which is why `flags_of` asks for 20 firings.
    """
    from scipy.special import entr, rel_entr

    n_counted = max(1, int(counted.sum()))
    table = np.stack([fired, counted - fired])
    either, alone = table / n_counted, table.sum(axis=2) / n_counted
    shared = rel_entr(either, alone[:, :, None] * (counted / n_counted)).sum(axis=(0, 2))
    entropy = entr(alone).sum(axis=0)
    # One that fires nowhere or everywhere leaves no uncertainty.
    return np.clip(shared / np.where(entropy > 0, entropy, np.inf), 0.0, 1.0)


def flags_of(
    n_firings: int, n_contexts: int, density: float, single_token_share: float, position: float
) -> tuple[Flag, ...]:
    """What to know about a latent before its explanation is read.

    Args:
        n_firings: positions at which it fired.
        n_contexts: contexts in which it fired.
        density: firings per counted position.
        single_token_share: greatest share of one token.
        position: its `position_dependence`.

    Few firings prove nothing about tokens and positions, nor do many in few contexts about
    positions, as neighbours fire together: `single_token` needs 20 firings, `positional` firings
    in 20 contexts.
    """
    if not n_firings:
        return ("dead",)
    found: list[Flag] = []
    if n_firings < RARE_FIRINGS:
        found.append("rare")
    if density > DENSE:
        found.append("dense")
    if single_token_share > SINGLE_TOKEN and n_firings >= RARE_FIRINGS:
        found.append("single_token")
    if position > POSITIONAL and n_contexts >= RARE_FIRINGS:
        found.append("positional")
    return tuple(found)


def details_lines(details: LatentDetails, n: int = N_TOP) -> list[str]:
    """What to print about a latent, a line each; lines without anything to say are left out.

    Texts of tokens are as they are in the model: the caller makes them safe for where they go.
    """
    parts = {
        "flags": ", ".join(flag.replace("_", " ") for flag in details.flags),
        "activation": _spread(details.quantiles),
        "tokens": _joined(details.top_tokens[:n], _percent),
        "position": f"tells {_percent(details.position_dependence)} of firing",
        "promotes": _joined((details.promoted or ())[:n], _signed),
        "suppresses": _joined((details.suppressed or ())[:n], _signed),
        "same direction": _listed(details.decoder_neighbours[:n]),
        "fires with": _listed(details.cofiring_neighbours[:n]),
    }
    if not details.quantiles:
        del parts["position"]
    return [f"{name}: {text}" for name, text in parts.items() if text]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    least, median, strong, greatest = (values[place] for place in (0, 5, 9, 10))
    return f"{least:.3g} least, {median:.3g} median, {strong:.3g} at 90%, {greatest:.3g} greatest"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.01 else "<1%"


def _signed(logit: float) -> str:
    return f"{logit:+.2f}"


def _joined(tokens: Tokens, told: Any) -> str:
    return "  ".join(f'"{text}" {told(number)}' for text, number in tokens)


def _listed(neighbours: Neighbours) -> str:
    return "  ".join(f"{latent} ({nearness:.2f})" for latent, nearness in neighbours)
