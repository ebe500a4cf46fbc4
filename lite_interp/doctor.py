"""What this machine is for an engine, and whether another quantisation would be faster on it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from lite_interp.engine.gguf_file import check_engine, read_header
from lite_interp.engine.quantize import quantisation_of
from lite_interp.engine.speed import Speed
from lite_interp.errors import one_line
from lite_interp.render import terminal_safe

WORTH = 1.5
"""How many times faster another quantisation must be to be named."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What an engine can use."""

    cores: int
    """Physical cores that this process may use: one thread each."""
    memory: int
    """Bytes of memory."""
    available: int
    """Bytes of it that are free or can be freed."""
    llama_cpp: str
    """Version of llama-cpp-python."""
    built_with: str
    """What llama.cpp says of its build: the instruction sets it uses."""
    gpu: bool
    """Whether this build can put layers on a GPU."""


@dataclass(frozen=True, slots=True)
class EngineFile:
    """What a GGUF file is."""

    path: str
    """Where it is."""
    architecture: str
    """E.g. `llama`."""
    quantisation: str
    """Its own quantisation, e.g. `q4_1`."""
    bytes: int
    """Length."""
    layers: int
    """Layers; 0 if the file does not say."""


def look_at_machine() -> Machine:
    """What this machine has, and what llama.cpp was built for."""
    import llama_cpp
    import psutil

    from lite_interp.engine.opening import physical_cores

    memory = psutil.virtual_memory()
    return Machine(
        physical_cores(),
        int(memory.total),
        int(memory.available),
        llama_cpp.__version__,
        llama_cpp.llama_print_system_info().decode("utf-8", "replace").strip(" |"),
        bool(llama_cpp.llama_supports_gpu_offload()),
    )


def look_at_file(path: Path) -> EngineFile:
    """What a GGUF file says of itself; `EngineError` if it cannot be an engine."""
    header = read_header(path)
    check_engine(path, header)
    layers = header.metadata.get(f"{header.architecture}.block_count", 0)
    return EngineFile(
        str(path),
        header.architecture,
        quantisation_of(header),
        path.stat().st_size,
        layers if isinstance(layers, int) else 0,
    )


def faster(speeds: Sequence[Speed]) -> Speed | None:
    """The fastest quantisation, if it is so much faster than the file's own that it is worth it."""
    best = max(speeds, key=lambda speed: speed.ratio)
    return best if best.ratio > WORTH else None


def command_for(name_or_path: str, speed: Speed) -> str:
    """The command that makes a quantisation."""
    name = shlex.quote(one_line(name_or_path))
    return f"lite-interp models quantize {name} {speed.quantisation}"


def as_plain(
    machine: Machine, file: EngineFile, speeds: Sequence[Speed], name_or_path: str
) -> dict[str, Any]:
    """Everything as plain JSON."""
    best = faster(speeds)
    return {
        "machine": asdict(machine),
        "engine": asdict(file),
        "speeds": [asdict(speed) for speed in speeds],
        "faster": best and best.quantisation,
        "command": best and command_for(name_or_path, best),
    }


def facts_table(machine: Machine, file: EngineFile) -> Table:
    """Machine and file, a line for each fact."""
    table = Table(box=None, padding=(0, 1), show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    gpu = "this build can use one" if machine.gpu else "this build cannot use one"
    for name, value in (
        ("cores", f"{machine.cores} physical"),
        ("memory", f"{machine.memory / 1e9:.1f} GB, {machine.available / 1e9:.1f} GB available"),
        ("GPU", gpu),
        ("llama.cpp", f"llama-cpp-python {machine.llama_cpp}"),
        ("built with", machine.built_with),
        ("engine", file.path),
        ("", f"{file.architecture}, {file.layers} layers, {file.bytes / 1e6:,.0f} MB"),
        ("quantised", file.quantisation),
    ):
        table.add_row(name, terminal_safe(value))
    return table


def speeds_table(speeds: Sequence[Speed]) -> Table:
    """Quantisations with their speeds."""
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("quantisation", no_wrap=True)
    for name in ("prompt tokens/s", "slowest–fastest round", "times this file's"):
        table.add_column(name, justify="right")
    for speed in speeds:
        table.add_row(
            speed.quantisation + (" (this file)" if speed.own else ""),
            f"{speed.tokens_per_second:,.0f}",
            f"{speed.lowest:,.0f}–{speed.highest:,.0f}",
            f"{speed.ratio:.2f}",
        )
    return table


def advice(speeds: Sequence[Speed], name_or_path: str) -> list[str]:
    """What to do about it, a line each."""
    best, own = faster(speeds), speeds[0]
    if best is None:
        return [
            f"No quantisation that was tried is more than {WORTH} times as fast as "
            f"{own.quantisation} on this machine: keep the file."
        ]
    return [
        f"On this machine {best.quantisation} evaluates prompts {best.ratio:.1f} times as fast "
        f"as {own.quantisation}. This makes it, and says what is lost:",
        f"  {command_for(name_or_path, best)}",
    ]
