"""Where a language model lies on the disk, and how to load it quietly.

A model is a folder in Hub layout (`config.json`, `*.safetensors`, `tokenizer.json`) or one
GGUF file. Nothing here, nor in what uses it, reaches for the network.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lite_interp.errors import SubjectError, one_line


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A folder or file that may hold a language model."""

    path: Path
    """What the user named."""
    folder: Path
    """The folder to hand to transformers."""
    gguf_file: str | None
    """Name of the GGUF file in `folder`; None for a folder in Hub layout."""

    @property
    def options(self) -> dict[str, object]:
        """Arguments every `from_pretrained` gets."""
        options: dict[str, object] = {"local_files_only": True, "trust_remote_code": False}
        return options | ({"gguf_file": self.gguf_file} if self.gguf_file else {})


def locate(path: str | Path, needed: tuple[str, ...] = ("config.json",)) -> LocalModel:
    """Find a model on the disk.

    Args:
        path: a folder in Hub layout, or a GGUF file.
        needed: files of which the folder must hold at least one.

    Raises:
        SubjectError: there is nothing there, or it is no model.
    """
    # Absolute, so that `.` has a name; links are kept, because their targets are named by hashes.
    found = Path(os.path.abspath(Path(path).expanduser()))
    if not found.exists():
        raise SubjectError(f"no such folder or file: {one_line(path)}", _fetch_hint(str(path)))
    if found.is_dir():
        if not any((found / name).is_file() for name in needed):
            raise SubjectError(
                f"folder holds no language model ({needed[0]} is missing): {one_line(path)}",
                "give a folder in Hub layout, or a .gguf file",
            )
        return LocalModel(found, found, None)
    with found.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise SubjectError(
                f"file is no GGUF model: {one_line(path)}",
                "give a .gguf file, or the folder that holds config.json",
            )
    return LocalModel(found, found.parent, found.name)


def _fetch_hint(name: str) -> str:
    """How to get a model that isn't there; a Hub name is recognised by its form."""
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        folder = name.rsplit("/", maxsplit=1)[-1]
        return (
            "nothing is fetched by itself; where there is a network: "
            f"`hf download {name} --local-dir {folder}`, then give that folder"
        )
    return "give a folder in Hub layout, or a .gguf file"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars, advice and warnings off the terminal; exceptions pass.

    The bar of the GGUF reader obeys no switch, so what is written to `sys.stderr` meanwhile is
    dropped; log records of level ERROR keep their own stream and are seen.
    """
    from transformers.utils import logging as library

    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity(logging.ERROR)
    library.disable_progress_bar()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()
