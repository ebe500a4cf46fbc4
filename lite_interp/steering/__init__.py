"""Steering the subject: what a latent does when it is turned up, or turned off."""

from lite_interp.steering.continuing import (
    Continuations,
    Continuing,
    Promoted,
    Shares,
    continue_prompts,
    promoted_share,
    promoted_tokens,
)
from lite_interp.steering.steer import (
    Prompts,
    Steer,
    next_token,
    random_direction,
    read_prompts,
    steer_latent,
)
from lite_interp.steering.tuning import Tuned, divergences, find_strength, mean_kl

__all__ = [
    "Continuations",
    "Continuing",
    "Promoted",
    "Prompts",
    "Shares",
    "Steer",
    "Tuned",
    "continue_prompts",
    "divergences",
    "find_strength",
    "mean_kl",
    "next_token",
    "promoted_share",
    "promoted_tokens",
    "random_direction",
    "read_prompts",
    "steer_latent",
]
