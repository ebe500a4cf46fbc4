"""Delphi: where each latent fired, as its loader reads it.

    <hookpoint>/<first>_<last>.safetensors     a run of latents
        locations    (n, 3) row of tokens, position, latent - first; uint16, or uint32 if need be
        activations  (n,) float16, or float32 where float16 would change one
        tokens       (contexts, n_ctx) int64, the same in every file
        lengths      (contexts,) int32, ours: how many of the tokens are no filling
    <hookpoint>/config.json

Files are cut so that the firings of one fit in memory. Facts: github.com/EleutherAI/delphi 3c2e139
and eai-delphi 0.1.3, latents/cache.py and loader.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lite_interp.db import cached, caches, export_rows
from lite_interp.errors import LiteInterpError, one_line
from lite_interp.export.base import Export
from lite_interp.export.delphi_results import hookpoint_of
from lite_interp.export.writing import json_text

N_SPLITS = 5
"""Files at least, as Delphi cuts them."""
SPLIT_FIRINGS = 1 << 23
"""Firings in a file at most, unless one latent has more: 120 MiB of scratch."""
EXAMPLE_TOKENS = 32
"""Tokens in a window of Delphi: it wants n_ctx to be a multiple."""


def folder(export: Export) -> str:
    """Where the files stand below OUT."""
    return hookpoint_of(export.cache)


def write(export: Export, out: Path) -> None:
    """Write all files; the tokens of the whole corpus are in memory, and one file's firings.

    Raises:
        LiteInterpError: the file holds no firings or no tokens, as a shared copy does not.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    db, cache = export.db, export.cache
    if not export_rows.has_firings(db, cache):
        raise LiteInterpError(
            "the file holds no firings or tokens to export", "a shared copy leaves them out"
        )
    lengths, token_ids = caches.load_tokens(db, cache.corpus)
    shared = {"tokens": token_ids.astype(np.int64), "lengths": lengths.astype(np.int32)}
    wanted = export.job.latents
    spans = list(splits(cache.n_latents, export_rows.n_firings(db, cache.id)))
    for first, end in export.tell.track(spans, len(spans), "files"):
        tensors = {**_split(export, first, end, wanted), **shared}
        try:
            save_file(tensors, out / f"{first}_{end - 1}.safetensors")
        except SafetensorError as error:
            raise LiteInterpError(f"cannot be written: {one_line(error)}") from error
    (out / "config.json").write_text(json_text(_config(export, len(spans))), encoding="utf-8")
    _say_lost(export, lengths)


def splits(n_latents: int, n_firings: dict[int, int]) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of the runs of latents that a file each is about.

    Delphi's equal fifths, each cut further where it would hold too many firings.
    """
    edges = [n_latents * number // N_SPLITS for number in range(N_SPLITS + 1)]
    for first, end in zip(edges, edges[1:], strict=False):
        begin, held = first, 0
        for latent in range(first, end):
            more = n_firings.get(latent, 0)
            if held and held + more > SPLIT_FIRINGS:
                yield begin, latent
                begin, held = latent, 0
            held += more
        if begin < end:
            yield begin, end


def _split(
    export: Export, first: int, end: int, wanted: tuple[int, ...]
) -> dict[str, NDArray[Any]]:
    """Locations and activations of the latents from first to end - 1."""
    rows, positions, latents, values = [], [], [], []
    for latent, firings in cached.load_block(export.db, export.cache, first, end):
        if not wanted or latent in wanted:
            rows.append(firings.contexts)
            positions.append(firings.positions)
            latents.append(np.full(len(firings.values), latent - first, np.int32))
            values.append(firings.values)
    nothing = np.zeros(0, np.int32)
    columns = [np.concatenate([nothing, *parts]) for parts in (rows, positions, latents)]
    locations = np.stack(columns, axis=1)
    kind = np.uint16 if locations.max(initial=0) < 1 << 16 else np.uint32
    activations = np.concatenate([np.zeros(0, np.float32), *values])
    with np.errstate(over="ignore"):
        halves = activations.astype(np.float16)
    same = bool((halves.astype(np.float32) == activations).all())
    return {
        "locations": np.ascontiguousarray(locations.astype(kind)),
        "activations": halves if same else activations,
    }


def _config(export: Export, n_splits: int) -> dict[str, Any]:
    """Delphi's config of a cache, and what it has no word for under `lite_interp`."""
    cache = export.cache
    return {
        "dataset_repo": cache.corpus.name,
        "dataset_split": "train",
        "dataset_name": "",
        "dataset_column": "text",
        "batch_size": 32,
        "cache_ctx_len": cache.corpus.n_ctx,
        "ctx_len": cache.corpus.n_ctx,
        "n_tokens": cache.corpus.n_tokens,
        "n_splits": n_splits,
        "model_name": export.about["subject"],
        "lite_interp": {
            "cache": cache.id,
            "coder": cache.coder_id,
            "coder_name": cache.coder_name,
            "corpus": cache.corpus.id,
            "hookpoint": cache.hookpoint,
            "settings": export.about["settings"],
            "subject": cache.subject_id,
        },
    }


def _say_lost(export: Export, lengths: NDArray[np.int32]) -> None:
    cache = export.cache
    n_short = int((lengths < cache.corpus.n_ctx).sum())
    if n_short:
        export.lost.append(
            f"Delphi has no short contexts: {n_short:,} are filled up with token 0, and `lengths` "
            "says how far they go"
        )
    if cache.corpus.n_ctx % EXAMPLE_TOKENS:
        export.lost.append(
            f"contexts of {cache.corpus.n_ctx} tokens are no multiple of Delphi's windows of "
            f"{EXAMPLE_TOKENS}"
        )
    if cached.is_thinned(export.db, cache):
        export.lost.append("only firings in the windows that a reservoir kept are there")
