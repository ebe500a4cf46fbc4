"""Caches of Delphi into a results file: its tokens as a corpus, its activations as firings.

    files ─delphi_files─▶ blocks ─▶ set aside by shard of contexts ─▶ packed ─▶ statistics

What the files do not say stays unknown, and the settings say that the cache is imported: which
weights the coder had, how well it reconstructs, in which number format the subject ran, what was
masked, and which documents the tokens are from. So nothing of such a cache can be mistaken for a
cache made here, and what needs the coder's weights refuses it. Two imports of the same files are
one cache.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from lite_interp.db import cached, caches
from lite_interp.db.caches import CacheInfo
from lite_interp.db.details import count_firings
from lite_interp.db.file import add, refuse_unusable
from lite_interp.db.runs import open_run
from lite_interp.errors import LiteInterpError, UsageError, one_line
from lite_interp.ids import content_id
from lite_interp.outside.delphi_files import (
    BLOCK,
    Block,
    DelphiCache,
    digest,
    find_caches,
    open_cache,
    read_blocks,
    read_tokens,
)
from lite_interp.records import ContextShard, Corpus

if TYPE_CHECKING:
    from lite_interp.loading import Reporter
    from lite_interp.tokenizer import Tokenizer

UNKNOWN = "unknown, imported from Delphi"
"""Stands for the place of the coder."""
NOT_SAID = ("coder weights", "fit", "dtype", "masked positions", "documents")
"""What nobody can say of such a cache."""
MOST_CHARACTERS = 200
"""Of a name or value in a config that is kept; and keys of it."""
_ENTRY = np.dtype([("place", "<i8"), ("latent", "<i4"), ("value", "<f4")])


class Model(NamedTuple):
    """The subject, as far as it is needed."""

    path: Path
    """Where it is."""
    tokenizer: Tokenizer
    """Its tokenizer."""


class ImportedCache(NamedTuple):
    """What became of a cache."""

    id: str
    """Its id in the file."""
    hookpoint: str
    """Where its coder reads, as Delphi calls it."""
    n_firings: int
    """Firings in the file."""
    n_dropped: int
    """Activations that were not above 0 or stood behind the end of a context."""
    is_new: bool
    """Whether it was not there before."""


def is_delphi_cache(path: Path) -> bool:
    """Whether a path is a folder that holds a cache of Delphi, and no explanations."""
    try:
        return bool(find_caches(path))
    except OSError:
        return False


def import_caches(
    results: Path, folders: Sequence[Path], subject: str, tell: Reporter
) -> list[ImportedCache]:
    """Store caches of Delphi, each whole or not at all; a second call adds nothing.

    Args:
        results: the results file; made if it is not there.
        folders: folders of hookpoints, or of several.
        subject: installed model, folder or GGUF file whose tokenizer made the tokens.
        tell: who is told.

    Raises:
        UsageError: the subject is not named.
        LiteInterpError: a file is damaged, or of tokens that the subject does not have.
    """
    from lite_interp.fetch import model_path
    from lite_interp.tokenizer import load_tokenizer

    if not subject:
        raise UsageError(
            "the subject must be named: a cache of Delphi holds tokens, no text", "--subject MODEL"
        )
    refuse_unusable(results)
    opened = [open_cache(found) for folder in folders for found in find_caches(folder)]
    path = model_path(subject, "subject")
    tokenizer = load_tokenizer(path)
    with open_run(results, "import", create=True) as db:
        done = [_import_one(db, each, path, tokenizer, tell) for each in opened]
    for each in done:
        state = "imported" if each.is_new else "already there"
        tell.say(f"{each.hookpoint}: {each.n_firings:,} firings {state}, cache {each.id[3:11]}")
        if each.n_dropped:
            tell.say(f"{each.hookpoint}: left out: {each.n_dropped:,} activations not above 0")
    return done


def _import_one(
    db: Database, source: DelphiCache, path: Path, tokenizer: Tokenizer, tell: Reporter
) -> ImportedCache:
    from lite_interp.caching import finish_cache
    from lite_interp.detailing import compute_details

    files = digest(source)
    name = content_id(["cache", "imported", "delphi", source.hookpoint, files, tokenizer.hash])
    if name in (cache.id for cache in caches.load_caches(db)):
        n = count_firings(db, name)
        return ImportedCache(name, source.hookpoint, n, source.n_activations - n, False)
    corpus = _corpus(source, tokenizer)
    with db.atomic():
        if not caches.has_corpus(db, corpus.id):
            caches.store_corpus(db, corpus, _shards(source, tokenizer))
        _store_question(db, name, source, files, corpus, Model(path, tokenizer))
        cache = next(each for each in caches.load_caches(db) if each.id == name)
        n = _store_firings(db, cache, source, tell)
        finish_cache(db, cache)
        compute_details(db, cache, tokenizer)
    return ImportedCache(name, source.hookpoint, n, source.n_activations - n, True)


def _shards(source: DelphiCache, tokenizer: Tokenizer) -> Iterator[ContextShard]:
    """The tokens as shards of contexts."""
    step, first = _contexts_in_shard(source.n_ctx), 0
    for ordinal, (lengths, ids) in enumerate(read_tokens(source, tokenizer.n_vocab, step)):
        inside = np.arange(source.n_ctx) < lengths[:, None]
        yield ContextShard(ordinal, first, lengths, np.where(inside, ids, 0).astype(np.int32))
        first += len(lengths)


def _contexts_in_shard(n_ctx: int) -> int:
    from lite_interp.study.making import shard_contexts

    return shard_contexts(n_ctx)


def _corpus(source: DelphiCache, tokenizer: Tokenizer) -> Corpus:
    """What is known of the corpus: its tokens, and what its config calls the data."""
    from lite_interp.corpus import CorpusSettings, corpus_id

    found = hashlib.sha256()
    n_tokens, all_bos, all_full = 0, tokenizer.bos_id is not None, True
    for shard in _shards(source, tokenizer):
        found.update(
            shard.lengths.astype("<i4").tobytes() + shard.token_ids.astype("<i4").tobytes()
        )
        n_tokens += int(shard.lengths.sum())
        all_bos = all_bos and bool((shard.token_ids[:, 0] == tokenizer.bos_id).all())
        all_full = all_full and bool((shard.lengths == source.n_ctx).all())
    settings = CorpusSettings(source.n_ctx, all_bos, all_full, 0)
    digest = "sha256:" + found.hexdigest()
    return Corpus(
        corpus_id(digest, tokenizer.hash, settings),
        _word(source.config.get("dataset_repo")) or source.hookpoint,
        digest,
        tokenizer.hash,
        source.n_ctx,
        all_bos,
        all_full,
        0,
        0,
        0,
        source.n_contexts,
        n_tokens,
    )


def _word(value: Any) -> str:
    """A name that a file gives, on one line; empty if it is none."""
    return one_line(value)[:MOST_CHARACTERS] if isinstance(value, str) else ""


def _store_question(
    db: Database, name: str, source: DelphiCache, files: str, corpus: Corpus, model: Model
) -> None:
    """Store what the cache is of, as far as it is known, and that the rest is not."""
    from lite_interp.cache import span

    config = source.config
    ours = config.get("lite_interp")
    ours = ours if isinstance(ours, dict) else {}
    called = _word(config.get("model_name")) or model.tokenizer.name
    imported = {"from": "delphi", "files": files, "hookpoint": source.hookpoint}
    subject = content_id(["subject", "imported", called, model.tokenizer.hash])
    coder = content_id(["coder", "imported", "delphi", source.hookpoint, files])
    plain = {"id": subject, "name": called, "architecture": "unknown", "d_model": 0}
    add(db, "subjects", {**plain, "provenance": {"path": str(model.path), "imported": imported}})
    row = {
        "id": coder,
        "name": _word(ours.get("coder_name")) or source.hookpoint,
        "format": "unknown",
        "hookpoint": _word(ours.get("hookpoint")) or f"{source.hookpoint}.output",
        "activation": "unknown",
        "k": None,
        "d_in": 0,
        "n_latents": source.n_latents,
        "fit": {"fvu": None, "l0": source.n_activations / corpus.n_tokens, "n_tokens": 0},
        "provenance": {"path": UNKNOWN, "imported": imported, "config": {}},
    }
    add(db, "coders", row)
    settings = {
        "imported": {**imported, "config": _scalars(config), "unknown": list(NOT_SAID)},
        "dtype": "auto",
    }
    tokens = _contexts_in_shard(source.n_ctx) * source.n_ctx
    row = {"id": name, "corpus_id": corpus.id, "subject_id": subject, "coder_id": coder}
    width = span(source.n_latents, tokens)
    caches.store_cache(db, {**row, "settings": settings, "span": width})


def _scalars(config: dict[str, Any]) -> dict[str, Any]:
    """Words and numbers of a config, the rest left out."""
    plain = {}
    for key, value in list(config.items())[:MOST_CHARACTERS]:
        if isinstance(value, str):
            plain[_word(key)] = _word(value)
        elif isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
            plain[_word(key)] = value
    return plain


def _store_firings(db: Database, cache: CacheInfo, source: DelphiCache, tell: Reporter) -> int:
    """Store the activations above 0 as firings, shard by shard; returns how many."""
    from lite_interp.cache import Found, pack

    places = caches.shard_places(db, cache.corpus.id)
    shards = [places[start : start + cache.span] for start in range(0, len(places), cache.span)]
    firsts = [shard[0][1] for shard in shards]
    lengths = np.concatenate(
        [caches.load_context_shard(db, cache.corpus.id, shard).lengths for shard, _, _ in places]
    )
    total = 0
    with tempfile.TemporaryFile(prefix="lite-interp-") as file:
        aside = _Aside(file, np.array([*firsts, source.n_contexts]), source.n_ctx)
        n_blocks = sum(-(-split.n // BLOCK) for split in source.splits)
        for block in tell.track(read_blocks(source), n_blocks, "reading activations"):
            real = (block.values > 0) & (block.positions < lengths[block.rows])
            aside.put(block.at(real))
        for number, shard in enumerate(shards):
            found = aside.take(number)
            n_counted = int(lengths[shard[0][1] : shard[-1][1] + shard[-1][2]].sum())
            values = found["value"].astype(np.float32)
            whole = Found(found["place"], found["latent"], values, n_counted, 0, 0, 0.0)
            try:
                packed = pack(whole, firsts[number] * source.n_ctx)
            except ValueError as error:
                raise LiteInterpError(
                    f"activations that cannot be: {one_line(source.folder)}: {one_line(error)}",
                    "one is twice there, or far too many",
                ) from None
            row = {"cache_id": cache.id, "shard": number, "n_firings": packed.n_firings}
            row |= {"n_counted": n_counted, "n_masked": {}, "seconds": 0.0}
            cached.store_cache_shard(db, row, packed.blobs)
            total += packed.n_firings
    return total


class _Aside:
    """Activations in a file that is gone when it is closed, found again by shard.

    Delphi's files are cut by latent and ours by context: each block is sorted by shard and set
    aside, and a shard is the runs of all blocks.
    """

    def __init__(self, file: IO[bytes], firsts: NDArray[np.int64], n_ctx: int) -> None:
        """Nothing is set aside yet."""
        self._file, self._firsts, self._n_ctx = file, firsts, n_ctx
        self._edges: list[NDArray[np.int64]] = []
        self._n = 0

    def put(self, block: Block) -> None:
        """Set a block aside."""
        order = np.argsort(block.rows, kind="stable")
        entries = np.empty(len(order), _ENTRY)
        entries["place"] = (block.rows * self._n_ctx + block.positions)[order]
        entries["latent"] = block.latents[order]
        entries["value"] = block.values[order]
        self._edges.append(np.searchsorted(block.rows[order], self._firsts) + self._n)
        self._file.seek(0, os.SEEK_END)
        self._file.write(entries.tobytes())
        self._n += len(entries)

    def take(self, shard: int) -> NDArray[Any]:
        """The entries of one shard, in no order."""
        parts = [np.zeros(0, _ENTRY)]
        for edges in self._edges:
            low, high = int(edges[shard]), int(edges[shard + 1])
            self._file.seek(low * _ENTRY.itemsize)
            parts.append(np.frombuffer(self._file.read((high - low) * _ENTRY.itemsize), _ENTRY))
        return np.concatenate(parts)
