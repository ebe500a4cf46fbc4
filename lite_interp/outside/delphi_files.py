"""Delphi's caches: what their files say, block by block, with everything checked.

    <hookpoint>/config.json
    <hookpoint>/<first>_<last>.safetensors     locations (n, 3), activations (n,), tokens, the same
                                               in every file; ours have lengths too

Files are hostile: nothing is believed that is not looked at, and what is unpacked at a time has a
greatest size.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.db.cached import LATENT_BITS
from lite_interp.errors import LiteInterpError, one_line

_SPLIT = re.compile(r"([0-9]{1,9})_([0-9]{1,9})\.safetensors")
BLOCK = 1 << 20
"""Firings that are read at once."""
MOST_CONTEXT = 1 << 17
"""Tokens of the longest context."""
MOST_CONFIG_BYTES = 1 << 20


class Split(NamedTuple):
    """One file: a run of latents."""

    path: Path
    """The file."""
    first: int
    """Its first latent."""
    last: int
    """Its last."""
    n: int
    """Activations in it."""


@dataclass(frozen=True, slots=True)
class DelphiCache:
    """One hookpoint of a cache of Delphi."""

    folder: Path
    """Its folder."""
    hookpoint: str
    """What Delphi calls it: the folder's name."""
    splits: tuple[Split, ...]
    """Its files, in the order of latents, without a gap."""
    n_contexts: int
    """Rows of tokens."""
    n_ctx: int
    """Tokens in a row."""
    config: dict[str, Any]
    """Its config.json; empty if there is none."""

    @property
    def n_latents(self) -> int:
        """Latents that the files are about."""
        return self.splits[-1].last + 1

    @property
    def n_activations(self) -> int:
        """Activations in all files."""
        return sum(split.n for split in self.splits)


class Block(NamedTuple):
    """Some activations of a file."""

    rows: NDArray[np.int64]
    """(n,) rows of tokens."""
    positions: NDArray[np.int64]
    """(n,) positions in the row."""
    latents: NDArray[np.int64]
    """(n,) indices of latents."""
    values: NDArray[np.float32]
    """(n,) activations, finite, of either sign."""

    def at(self, which: NDArray[Any]) -> Block:
        """Some of them."""
        columns = self.rows[which], self.positions[which], self.latents[which]
        return Block(*columns, self.values[which])


def find_caches(path: Path) -> list[Path]:
    """The folders of hookpoints in a folder of Delphi: itself, those in it, or those in `latents`.

    Empty if it holds no cache.
    """
    if not path.is_dir():
        return []
    if _has_splits(path):
        return [path]
    inside = path / "latents" if (path / "latents").is_dir() else path
    return sorted(each for each in inside.iterdir() if each.is_dir() and _has_splits(each))


def _has_splits(folder: Path) -> bool:
    return any(_SPLIT.fullmatch(each.name) for each in folder.iterdir())


def open_cache(folder: Path) -> DelphiCache:
    """What the heads of a cache's files say.

    Raises:
        LiteInterpError: a file is damaged, missing, or says what cannot be.
    """
    matches = sorted(
        (int(match[1]), int(match[2]), each)
        for each in folder.iterdir()
        if (match := _SPLIT.fullmatch(each.name))
    )
    expected = 0
    splits, shapes = [], []
    for first, last, path in matches:
        if first != expected or last < first:
            raise LiteInterpError(
                f"latents are missing, or twice there: {one_line(path)} begins with {first}, "
                f"not with {expected}",
                "all files of the hookpoint must be there",
            )
        expected = last + 1
        n, shape = _head(path)
        splits.append(Split(path, first, last, n))
        shapes.append(shape)
    if expected > 1 << LATENT_BITS:
        raise LiteInterpError(f"too many latents: {expected:,}: {one_line(folder)}")
    if len(set(shapes)) != 1:
        raise LiteInterpError(f"the files are of different tokens: {one_line(folder)}")
    name = folder.absolute().name
    n_contexts, n_ctx = shapes[0]
    config = _config(folder / "config.json")
    return DelphiCache(folder, name, tuple(splits), n_contexts, n_ctx, config)


def _head(path: Path) -> tuple[int, tuple[int, int]]:
    """Activations in a file, and the shape of its tokens."""
    with _opened(path) as file:
        names = set(file.keys())
        absent = {"locations", "activations", "tokens"} - names
        if absent:
            hint = "cache again with save_tokens" if absent == {"tokens"} else ""
            raise LiteInterpError(f"no {min(absent)} in it: {one_line(path)}", hint)
        views = {name: file.get_slice(name) for name in ("locations", "activations", "tokens")}
        shapes = {name: tuple(view.get_shape()) for name, view in views.items()}
        kinds = {name: view.get_dtype() for name, view in views.items()}
    n = shapes["activations"][0] if len(shapes["activations"]) == 1 else -1
    if shapes["locations"] != (n, 3) or len(shapes["tokens"]) != 2:
        raise LiteInterpError(f"tensors of an unknown shape: {one_line(path)}: {shapes}")
    whole = {"U16", "U32", "I32", "I64"}
    if kinds["locations"] not in whole or kinds["tokens"] not in whole:
        raise LiteInterpError(f"locations or tokens that are no integers: {one_line(path)}")
    if kinds["activations"] not in {"F16", "F32"}:
        raise LiteInterpError(
            f"activations of an unknown type: {kinds['activations']}: {one_line(path)}",
            "Delphi writes float16",
        )
    rows, width = shapes["tokens"]
    if not rows or not 0 < width <= MOST_CONTEXT:
        raise LiteInterpError(f"tokens of an unknown shape: {one_line(path)}: {rows} × {width}")
    return n, (rows, width)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, lazily read, or one line that says why not."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise LiteInterpError(f"cannot be read: {one_line(path)}: {one_line(error)}") from None


def _config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MOST_CONFIG_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise LiteInterpError(f"cannot be read: {one_line(path)}: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise LiteInterpError(f"no config of Delphi: {one_line(path)}")
    return found


def read_tokens(
    cache: DelphiCache, n_vocab: int, step: int
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """(lengths, token ids) of runs of contexts, from the first file.

    Args:
        cache: the cache.
        n_vocab: tokens that the subject knows.
        step: contexts in a run.

    Raises:
        LiteInterpError: a token is none of the subject, or a length is none.
    """
    path = cache.splits[0].path
    with _opened(path) as file:
        tokens = file.get_slice("tokens")
        lengths = file.get_tensor("lengths") if "lengths" in file.keys() else None  # noqa: SIM118
        if lengths is not None and lengths.shape != (cache.n_contexts,):
            raise LiteInterpError(f"lengths do not fit tokens: {one_line(path)}")
        for start in range(0, cache.n_contexts, step):
            ids = tokens[start : min(start + step, cache.n_contexts)].astype(np.int64)
            if ids.min() < 0 or ids.max() >= n_vocab:
                raise LiteInterpError(
                    f"a token that the subject does not have: {one_line(path)}: {ids.max()}",
                    f"its tokenizer has {n_vocab:,}: name the subject of the cache with --subject",
                )
            part = np.full(len(ids), cache.n_ctx, np.int64)
            if lengths is not None:
                part = lengths[start : start + step].astype(np.int64)
            if part.min() < 1 or part.max() > cache.n_ctx:
                raise LiteInterpError(f"lengths out of range: {one_line(path)}")
            yield part.astype(np.int32), ids.astype(np.int32)


def read_blocks(cache: DelphiCache) -> Iterator[Block]:
    """All activations, a block at a time, in the order of the files.

    Raises:
        LiteInterpError: one is no number, or stands where there is no token.
    """
    for split in cache.splits:
        with _opened(split.path) as file:
            places, values = file.get_slice("locations"), file.get_slice("activations")
            for start in range(0, split.n, BLOCK):
                end = min(start + BLOCK, split.n)
                found = places[start:end].astype(np.int64)
                block = Block(
                    found[:, 0],
                    found[:, 1],
                    found[:, 2] + split.first,
                    values[start:end].astype(np.float32),
                )
                _check(block, split, cache)
                yield block


def _check(block: Block, split: Split, cache: DelphiCache) -> None:
    highest = (cache.n_contexts - 1, cache.n_ctx - 1, split.last)
    columns = (block.rows, block.positions, block.latents)
    lowest = (0, 0, split.first)
    if any(
        column.min() < low or column.max() > high
        for column, low, high in zip(columns, lowest, highest, strict=True)
    ):
        raise LiteInterpError(f"an activation that is out of range: {one_line(split.path)}")
    if not np.isfinite(block.values).all():
        raise LiteInterpError(
            f"an activation that is no number: {one_line(split.path)}",
            "float16 ends at 65,504: Delphi stored a greater one as infinite",
        )


def digest(cache: DelphiCache) -> str:
    """`sha256:` over names and bytes of the cache's files: what was imported."""
    found = hashlib.sha256()
    for split in cache.splits:
        found.update(f"{split.path.name} {split.path.stat().st_size}\n".encode())
        with split.path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return "sha256:" + found.hexdigest()
