"""Names that follow from the question, and randomness that follows from a name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. NaN is refused."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def content_id(value: Any) -> str:
    """Name of a question: `b2:` and 32 hex digits of BLAKE2b over its canonical JSON.

    The question is the inputs, prompt text, model hashes, settings and seed; never the answer.
    So a repeated run asks nothing twice, and two files can be merged by insert-or-ignore.
    """
    digest = hashlib.blake2b(canonical_json(value).encode("utf-8", "surrogatepass"), digest_size=16)
    return "b2:" + digest.hexdigest()


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Random numbers that depend on the seed and the names alone, not on what ran before.

    `generator(seed, latent, "sampler")` gives each latent and purpose a stream of its own, so
    that a subset, another order or a resumed run draws the same numbers.
    """
    digest = hashlib.blake2b(canonical_json([seed, *names]).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def hash_file(path: Path, read: Callable[[int], object] = lambda n_bytes: None) -> str:
    """SHA-256 of a file's bytes, as `sha256:` and 64 hex digits. Read in blocks of 1 MiB.

    Args:
        path: the file.
        read: told after each block how many bytes it has.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            read(len(block))
    return "sha256:" + digest.hexdigest()
