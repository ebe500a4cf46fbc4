"""Make a GGUF file with another quantisation of the same weights.

llama.cpp does it, in this process: for bad files, unreadable folders and full disks it gives a
code and a line in its log; it was not found to abort. Ctrl-C takes effect when it has ended.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from gguf.constants import LlamaFileType

from lite_interp.engine.gguf_file import GgufHeader, check_engine, read_header
from lite_interp.errors import EngineError, UsageError, one_line

QUANTISATIONS: Mapping[str, float] = {
    "q2_k": 3.2,
    "q3_k_s": 3.6,
    "q3_k_m": 4.0,
    "q3_k_l": 4.3,
    "q4_0": 4.6,
    "q4_k_s": 4.7,
    "q4_k_m": 4.9,
    "q4_1": 5.1,
    "q5_0": 5.6,
    "q5_k_s": 5.6,
    "q5_k_m": 5.7,
    "q5_1": 6.0,
    "q6_k": 6.6,
    "q8_0": 8.5,
    "bf16": 16.0,
    "f16": 16.0,
}
"""Bits for each weight, about, by quantisation: those that are quick to make and need no sample
of text to weigh errors by."""
SPARE = 1.15
"""How much larger than expected a file may become."""


def check_quantisation(name: str) -> str:
    """The quantisation as llama.cpp's tools call it, in small letters; `UsageError` if unknown."""
    known = name.lower()
    if known not in QUANTISATIONS:
        raise UsageError(
            f"no such quantisation: {one_line(name)}", "there is: " + ", ".join(QUANTISATIONS)
        )
    return known


def quantisation_of(header: GgufHeader) -> str:
    """What a file calls its own quantisation, e.g. `q4_1`; `unknown` if it does not say."""
    try:
        name = LlamaFileType(header.metadata.get("general.file_type", -1)).name
    except ValueError:
        return "unknown"
    return name.removeprefix("MOSTLY_").removeprefix("ALL_").lower()


def raises_bits(header: GgufHeader, quantisation: str) -> bool:
    """Whether a quantisation holds more bits than the file has: they cannot bring anything back."""
    own = _bits(quantisation_of(header))
    return own is not None and QUANTISATIONS[quantisation] > own


def _bits(name: str) -> float | None:
    return 32.0 if name == "f32" else QUANTISATIONS.get(name)


def expected_bytes(source: Path, header: GgufHeader, quantisation: str) -> int:
    """Length of the file that `quantize` will make, bytes, about."""
    # A file that does not say what it is may hold as little as 2 bits a weight.
    own = _bits(quantisation_of(header)) or 2.0
    return int(source.stat().st_size * QUANTISATIONS[quantisation] / own)


def convert(source: Path, target: Path, quantisation: str, n_threads: int = 0) -> None:
    """Let llama.cpp write a quantised copy; a file at `target` is overwritten.

    Args:
        source: a GGUF file that `check_engine` has accepted.
        target: where to write.
        quantisation: a key of `QUANTISATIONS`.
        n_threads: threads; 0 = all that the machine has.

    Raises:
        EngineError: llama.cpp refused, or could not write. A part of the file may be left.
    """
    import llama_cpp

    from lite_interp.engine.library import listen, reason

    listen()
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quantisation.upper()}")
    options.allow_requantize = True
    options.nthread = n_threads
    code = llama_cpp.llama_model_quantize(
        os.fsencode(source), os.fsencode(target), ctypes.pointer(options)
    )
    if code:
        why = reason(1).removeprefix("llama_model_quantize: failed to quantize: ")
        raise EngineError(
            f"{quantisation} could not be made: {one_line(source)}: {why}",
            "is there room, and may files be written there?"
            if "iostream" in why
            else "start from a file of another quantisation, best from f16 or bf16",
        )


def quantize(source: Path, target: Path, quantisation: str, n_threads: int = 0) -> Path:
    """Write a quantised copy of a GGUF file under its final name, whole or not at all.

    Args:
        source: a GGUF file that holds a language model.
        target: where the copy goes; must not exist, and is never overwritten.
        quantisation: a key of `QUANTISATIONS`, in any case.
        n_threads: threads; 0 = all that the machine has.

    Returns:
        `target`.

    Raises:
        UsageError: There is no such quantisation.
        EngineError: The source is no such file, the target exists, there is no room, or
            llama.cpp cannot do it. Nothing is left behind.
    """
    quantisation = check_quantisation(quantisation)
    header = read_header(source)
    check_engine(source, header)
    _check_target(source, header, target, quantisation)
    partial = target.with_name(target.name + ".partial")
    try:
        convert(source, partial, quantisation, n_threads)
        # A disk that fills up unnoticed gives a file that is cut short.
        read_header(partial)
        _refuse_existing(target)
        os.replace(partial, target)
    except OSError as error:
        raise EngineError(
            f"file cannot be written: {one_line(target)}: {one_line(error.strerror or error)}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise EngineError(
            f"file exists already: {one_line(target)}", "remove it, or name another with -o"
        )


def _check_target(source: Path, header: GgufHeader, target: Path, quantisation: str) -> None:
    """Refuse what cannot be done, or would lose a file, before anything is written."""
    if quantisation_of(header) == quantisation:
        raise EngineError(f"file is {quantisation} already: {one_line(source)}")
    _refuse_existing(target)
    folder = target.absolute().parent
    if not folder.is_dir():
        raise EngineError(f"no such folder: {one_line(folder)}", "make it first")
    if not os.access(folder, os.W_OK):
        raise EngineError(
            f"folder cannot be written to: {one_line(folder)}", "name another file with -o"
        )
    needed = int(SPARE * expected_bytes(source, header, quantisation))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise EngineError(
            f"not enough room: {one_line(folder)}: about {needed / 1e6:,.0f} MB needed, "
            f"{free / 1e6:,.0f} MB free",
            "name a file on another disk with -o",
        )
