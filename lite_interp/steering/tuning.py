"""How strongly to steer: the strength with a given effect on the next token.

The effect is the mean over prompts of KL(clean || steered), as in Paulo et al. 2024
(arXiv 2410.13928), section 3.3.5. Where we differ: the strength is found on prompts that are not
scored, to 5 % instead of 10 %, and a target that cannot be reached is said to be so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.steering.steer import Prompts, Rows, Steer, next_token

DECADES = 3.0
"""How far a strength is searched on either side of one that doubles the residual, powers of 10."""
FAR_OFF = 7.0
"""|log(value / target)| from which on a value is no guide to the place of the target."""


class Tuned(NamedTuple):
    """A strength, and what it does."""

    strength: float
    """The strength that came nearest to the target."""
    kl: float
    """Its mean KL(clean || steered), nats."""
    n_steps: int
    """Strengths that were tried."""
    reached: bool
    """Whether the KL is as near to the target as was asked."""


def divergences(prompts: Prompts, steer: Steer) -> NDArray[np.float64]:
    """(n,) KL(clean || steered) of the token behind each prompt, nats: p log(p / p')."""
    clean, steered = prompts.clean, next_token(prompts, steer)
    parts = clean.exp() * (clean - steered)
    return parts.where(clean > -math.inf, 0).sum(-1).numpy()


def mean_kl(prompts: Prompts, steer: Steer) -> float:
    """The strength of an intervention: mean over prompts of KL(clean || steered), nats."""
    return float(divergences(prompts, steer).mean())


def find_strength(
    prompts: Prompts,
    steer: Steer,
    target_kl: float,
    tolerance: float = 0.05,
    max_steps: int = 12,
) -> Tuned:
    """The strength at which steering has the wished effect: mean KL(clean || steered).

    Strengths are searched from 1/1000 to 1000 times the one that adds a vector as long as the
    residual. KL need not rise with the strength: upwards first, then between a strength that does
    too little and one that does too much, by interpolation in log-log.

    Args:
        prompts: prompts that are not scored.
        steer: what is added; its own strength is ignored.
        target_kl: wished mean KL, nats, above 0.
        tolerance: relative difference from the target that is good enough.
        max_steps: strengths that are tried at most.

    Returns:
        What came nearest. Not `reached` where the effect is bounded, and for a direction of 0.
    """
    if not target_kl > 0:
        raise ValueError(f"target KL must be above 0: {target_kl}")
    unit = _doubling(prompts, steer)
    if not math.isfinite(unit):
        return Tuned(0.0, 0.0, 0, False)

    def measure(place: float) -> float:
        return mean_kl(prompts, replace(steer, strength=unit * 10**place))

    tried = search(measure, target_kl, tolerance, max_steps)
    place, kl = min(tried, key=lambda each: abs(_gap(each[1], target_kl)))
    return Tuned(unit * 10**place, kl, len(tried), abs(kl / target_kl - 1) <= tolerance)


def search(
    measure: Callable[[float], float], target: float, tolerance: float, max_steps: int
) -> list[tuple[float, float]]:
    """Look for a place between ±`DECADES` where a positive value is near its target.

    Args:
        measure: the value at a place; not finite counts as too much.
        target: the wished value.
        tolerance: |value / target - 1| that ends the search.
        max_steps: places that are tried at most.

    Returns:
        The places that were tried, and the value at each.
    """
    tried: list[tuple[float, float]] = []
    below: tuple[float, float] | None = None
    above: tuple[float, float] | None = None
    # KL goes with the square of a small strength, and is some nats at place 0.
    start = place = min(0.0, max(math.log10(target) / 2 - 0.3, -DECADES))
    far, turned = 0.0, False
    for _ in range(max_steps):
        value = measure(place)
        tried.append((place, value))
        if abs(value / target - 1) <= tolerance:
            break
        gap = _gap(value, target)
        if gap < 0:
            below = (place, gap)
        else:
            above = (place, gap)
        if below and above:
            place = _between(below, above)
            continue
        if abs(place) == DECADES:
            # Too little, up to the end: it may be more further down. Too much: there is no less.
            if gap > 0 or turned:
                break
            place, far, turned = start, 0.0, True
        # Half again as far as a square law says, so that the target soon lies in between.
        far = min(max(0.75 * abs(gap) / math.log(10), 2 * far, 0.1), 1.0)
        up = gap < 0 and not turned
        place = min(max(place + (far if up else -far), -DECADES), DECADES)
    return tried


def _between(below: tuple[float, float], above: tuple[float, float]) -> float:
    """A place between two, by their gaps; the middle where a gap says nothing."""
    share = 0.5
    if max(-below[1], above[1]) < FAR_OFF:
        share = below[1] / (below[1] - above[1])
    # A share at the edge would let the other end stand still for ever.
    return below[0] + min(max(share, 0.1), 0.9) * (above[0] - below[0])


def _gap(value: float, target: float) -> float:
    """log(value / target); inf where there is no value."""
    return math.log(max(value, 1e-300) / target) if math.isfinite(value) else math.inf


def _doubling(prompts: Prompts, steer: Steer) -> float:
    """Strength that adds a vector as long as the residual: median over prompts; inf if none."""
    rows = Rows(prompts, [replace(steer, strength=1.0)])
    rows.step(rows.last)
    arm = rows.arms[0]
    return float((arm.before.norm(dim=-1) / arm.added.norm(dim=-1)).median())
