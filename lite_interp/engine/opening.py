"""From a GGUF file to an engine: look at the file, load it, test it on a handful of tokens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lite_interp.engine import EngineSettings, Rehearsal, engine_id
from lite_interp.engine.batched import BatchedEngine
from lite_interp.engine.chat import Chat
from lite_interp.engine.gguf_file import GgufHeader, check_engine, read_header
from lite_interp.engine.llama import FIXED_SETTINGS, LlamaMachine, most_outputs
from lite_interp.engine.plan import Limits
from lite_interp.engine.rehearsal import RehearsalMachine
from lite_interp.engine.sequences import Sequences
from lite_interp.engine.writing import Tokenizer
from lite_interp.errors import EngineError
from lite_interp.ids import hash_file

TOLERANCE = 0.25
"""Greatest difference that a neighbour may make, in standard deviations of the logits."""


def open_llama(path: Path, settings: EngineSettings) -> BatchedEngine:
    """Open a GGUF model; raises `EngineError` if it cannot be used."""
    header, settings = _look_at(path, settings)
    machine = LlamaMachine(path, settings)
    try:
        sequences = Sequences(machine, _limits(machine.n_batch, machine.n_vocab, settings))
        self_test(sequences, machine.tokenizer)
        return _engine(path, header, settings, sequences, machine.tokenizer, machine.facts)
    except BaseException:
        machine.close()
        raise


def open_rehearsal(path: Path, settings: EngineSettings) -> Rehearsal:
    """An engine that evaluates nothing; see `rehearse_engine`."""
    header, settings = _look_at(path, settings)
    machine = RehearsalMachine(path)
    try:
        n_batch = min(settings.n_batch, settings.n_cells)
        sequences = Sequences(machine, _limits(n_batch, machine.n_vocab, settings))
        engine = _engine(path, header, settings, sequences, machine.tokenizer, {})
    except BaseException:
        machine.close()
        raise
    return Rehearsal(engine, machine.calls)


def _look_at(path: Path, settings: EngineSettings) -> tuple[GgufHeader, EngineSettings]:
    """The header of a file that can be an engine, and the settings in full."""
    header = read_header(path)
    check_engine(path, header)
    n_train = header.metadata.get(f"{header.architecture}.context_length") or settings.n_ctx
    n_ctx = min(settings.n_ctx, n_train)
    return header, replace(
        settings,
        n_ctx=n_ctx,
        n_cells=max(n_ctx, settings.n_cells or 2 * n_ctx + settings.n_batch),
        n_threads=settings.n_threads or physical_cores(),
    )


def _limits(n_batch: int, n_vocab: int, settings: EngineSettings) -> Limits:
    n_outputs = most_outputs(n_vocab, settings)
    return Limits(n_batch, settings.n_parallel, n_outputs, settings.n_cells)


def _engine(
    path: Path,
    header: GgufHeader,
    settings: EngineSettings,
    sequences: Sequences,
    tokenizer: Tokenizer,
    facts: Mapping[str, Any],
) -> BatchedEngine:
    sha256 = _sha256(path)
    source = header.metadata.get("tokenizer.chat_template")
    provenance = {
        "id": engine_id(sha256, settings.asked()),
        "name": header.metadata.get("general.name") or path.stem,
        "file": path.name,
        "sha256": sha256,
        "settings": {**asdict(settings), **FIXED_SETTINGS},
        "architecture": header.architecture,
        "chat_template": source,
        **facts,
    }
    return BatchedEngine(sequences, tokenizer, Chat(source, tokenizer), settings.n_ctx, provenance)


def _sha256(path: Path) -> str:
    """Hash of a file, computed once as long as its size and time stay the same."""
    facts = path.stat()
    return _hashed(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=8)
def _hashed(path: Path, _size: int, _mtime_ns: int) -> str:
    return hash_file(path)


def self_test(sequences: Sequences, tokenizer: Tokenizer) -> None:
    """Hold that neighbours in one call do not touch each other, on a handful of tokens.

    A build of llama.cpp whose structures differ from what llama-cpp-python expects gives wrong
    numbers silently; this is what would show it.
    """
    first, second = tokenizer.going_on("x")[:1] or [0], tokenizer.going_on("1")[:1] or [1]
    items = [second, first + second]
    sequences.hold(first, 0)
    ends = [[len(item) - 1] for item in items]
    together = [rows[-1].copy() for _, _, rows in sequences.evaluate(items, ends)]
    for item, end, expected in zip(items, ends, together, strict=True):
        (alone,) = [rows[-1].copy() for _, _, rows in sequences.evaluate([item], [end])]
        difference = float(np.abs(alone - expected).max())
        if not difference <= TOLERANCE * float(alone.std()):
            raise EngineError(
                f"llama.cpp gives other numbers for the same tokens: they differ by {difference:g}",
                "install another version of llama-cpp-python, or another build of it",
            )
    sequences.reset()
    sequences.n_evaluated = 0


def physical_cores() -> int:
    """Cores without counting hardware threads twice, as far as the system tells."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    cores = set()
    for cpu in usable:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.is_file() else cpu)
    return len(cores) or (os.cpu_count() or 1)
