"""A quantised copy of a model, whole, with a name of its own if the model has one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from lite_interp.data import models_folder
from lite_interp.engine.quantize import check_quantisation, quantize
from lite_interp.errors import EngineError, one_line
from lite_interp.fetch import model_path
from lite_interp.ids import hash_file
from lite_interp.manifests import Manifest, find_manifest, load_manifests, parse_manifest


@dataclass(frozen=True, slots=True)
class Made:
    """A quantised copy."""

    source: Path
    """The GGUF file it was made from."""
    path: Path
    """The copy."""
    name: str
    """The name under which it is installed; empty for a file."""


def quantize_model(name_or_path: str, quantisation: str, output: Path | None = None) -> Made:
    """Make a quantised copy of a model, under a name of its own if the model has one.

    Args:
        name_or_path: an installed model, or a GGUF file.
        quantisation: what to make, e.g. `q4_0`.
        output: where; None = beside a file, and for an installed model a new one in the
            models folder, with a manifest, called `<name>-<quantisation>`.

    Raises:
        UsageError: No such model or quantisation.
        EngineError: It cannot be made, or exists already.
        ModelFileError: No such file, or the model is not installed.
    """
    quantisation = check_quantisation(quantisation)
    source = model_path(name_or_path, "engine")
    if not source.is_file():
        raise EngineError(f"model is no GGUF file: {one_line(source)}", "give a .gguf file")
    named = not Path(name_or_path).expanduser().exists()
    if output is not None or not named:
        beside = source.with_name(f"{source.stem}-{quantisation}.gguf")
        return Made(source, quantize(source, output or beside, quantisation), "")
    manifest = find_manifest(name_or_path, "engine")
    name = f"{manifest.name}-{quantisation}"
    if any(name in other.names for other in load_manifests()):
        raise EngineError(
            f"model exists already: {name}", "use it as it is, or name another file with -o"
        )
    return Made(source, _install(manifest, source, name, quantisation), name)


def _install(manifest: Manifest, source: Path, name: str, quantisation: str) -> Path:
    """The copy in a folder of its own, and a manifest that says what it is; or neither."""
    folder = models_folder() / name
    try:
        created = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(
            f"the models folder cannot be used: {one_line(folder)}: {one_line(error.strerror)}"
        ) from error
    path = folder / f"{name}.gguf"
    made = False
    try:
        quantize(source, path, quantisation)
        made = True
        _write_manifest(manifest, path, name, quantisation)
    except BaseException:
        if made:
            path.unlink(missing_ok=True)
        if created:
            folder.rmdir()
        raise
    return path


def _write_manifest(manifest: Manifest, path: Path, name: str, quantisation: str) -> None:
    """Put a manifest beside the model's folder, under its final name at once."""
    sha256 = hash_file(path).removeprefix("sha256:")
    roles = [role for role in manifest.roles if role != "embedder"]
    description = f"Made on this machine from {manifest.name}, quantised to {quantisation.upper()}."
    text = "\n".join(
        [
            f"name = {json.dumps(name)}",
            f"roles = {json.dumps(roles)}",
            f"licence = {json.dumps(one_line(manifest.licence), ensure_ascii=False)}",
            f"description = {json.dumps(description)}",
            "",
            "[[files]]",
            f"path = {json.dumps(path.name)}",
            f"size = {path.stat().st_size}",
            f"sha256 = {json.dumps(sha256)}",
            "",
        ]
    )
    target = models_folder() / f"{name}.toml"
    parse_manifest(text, str(target))
    partial = target.with_name(target.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, target)
    except OSError as error:
        raise EngineError(
            f"manifest cannot be written: {one_line(target)}: {one_line(error.strerror)}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
