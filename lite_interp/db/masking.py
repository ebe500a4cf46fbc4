"""What a cache left out of its firings, as the file knows it."""

from __future__ import annotations

import json
from typing import Any

from sqlite_utils import Database

from lite_interp.db.caches import CacheInfo


def load_settings(db: Database, cache: CacheInfo) -> dict[str, Any]:
    """Settings of a cache: `mask_special`, `outlier_multiple`, number formats."""
    row = db.execute("select settings from caches where id = ?", [cache.id]).fetchone()
    return json.loads(row[0])


def load_median_norm(db: Database, cache: CacheInfo) -> tuple[float | None, bool]:
    """Median norm at the hookpoint, and whether it is certainly that of this cache.

    It is noted once for a coder, when its first cache is made: of a second corpus it is not known.
    """
    fit = db.execute("select fit from coders where id = ?", [cache.coder_id]).fetchone()
    found = json.loads(fit[0]).get("median_norm")
    row = db.execute(
        "select count(distinct corpus_id || subject_id) from caches where coder_id = ?",
        [cache.coder_id],
    ).fetchone()
    return found, found is not None and row[0] == 1
