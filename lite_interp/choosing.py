"""Which latents a command is about."""

from __future__ import annotations

from sqlite_utils import Database

from lite_interp import study
from lite_interp.db import caches
from lite_interp.db.caches import CacheInfo
from lite_interp.errors import UsageError
from lite_interp.ids import generator


def choose_latents(
    db: Database, cache: CacheInfo, section: study.LatentsSection, seed: int
) -> list[int]:
    """The latents that are named, or as many as wanted drawn by seed from a range of density.

    A greater number with the same seed keeps those that a smaller one drew.
    """
    absent = [index for index in section.indices if not 0 <= index < cache.n_latents]
    if absent:
        raise UsageError(
            f"no such latent: {absent[0]}", f"the coder has 0 to {cache.n_latents - 1}"
        )
    if section.indices:
        return sorted(set(section.indices))
    pool = caches.latents_by_density(db, cache.id, section.min_density, section.max_density)
    if not pool:
        raise UsageError(
            f"no latent has a density between {section.min_density} and {section.max_density}",
            "widen the range: --min-density, --max-density",
        )
    return [int(latent) for latent in generator(seed, "latents").permutation(pool)[: section.n]]
