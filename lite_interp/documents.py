"""Documents from files: text, JSON lines (plain, gzip, zstandard), Parquet, folders of them.

Read one at a time, in an order that depends on names alone. A document that is no text is left
out and counted; a file that is not what it is said to be is an error that names the place.
"""

from __future__ import annotations

import gzip
import importlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import zstandard

from lite_interp.errors import CorpusError, nearest, one_line
from lite_interp.records import Document

TEXT_SUFFIXES = (".txt", ".md")
LINE_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
TABLE_SUFFIXES = (".parquet",)
SUFFIXES = TEXT_SUFFIXES + LINE_SUFFIXES + TABLE_SUFFIXES
BLOCK_BYTES = 1 << 20
TABLE_ROWS = 256

OnSkip = Callable[[str, str], None]


class Skips:
    """Counts the documents that were left out, by reason; give it as `on_skip`."""

    def __init__(self) -> None:
        """Nothing is left out yet."""
        self.reasons: Counter[str] = Counter()
        """Reason (`binary`, `broken UTF-8`, `empty`) → documents."""
        self.first: dict[str, str] = {}
        """Reason → name of the first document left out for it."""

    def __call__(self, name: str, reason: str) -> None:
        """Count one."""
        self.reasons[reason] += 1
        self.first.setdefault(reason, name)

    @property
    def total(self) -> int:
        """Documents left out."""
        return sum(self.reasons.values())

    def __str__(self) -> str:
        """One line for people: counts, reasons, the first of each."""
        return "; ".join(
            f"{count} {reason} (first: {one_line(self.first[reason])})"
            for reason, count in sorted(self.reasons.items())
        )


def _skip_silently(_name: str, _reason: str) -> None:
    """Take no notice."""


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return next((suffix for suffix in reversed(SUFFIXES) if name.endswith(suffix)), "")


def _storable(name: str) -> str:
    """A file name as valid Unicode; bytes of the file system that are none are written out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _files(source: Path) -> list[tuple[str, Path]]:
    """The readable files of a source with their names, sorted; hidden ones are left out."""
    if source.is_file():
        if not _suffix(source):
            raise CorpusError(
                f"not a corpus file: {one_line(source)}", "it must end in " + ", ".join(SUFFIXES)
            )
        return [(_storable(source.name), source)]
    if not source.is_dir():
        raise CorpusError(f"no such file or folder: {one_line(source)}")
    found = []
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if _suffix(path) and not name.startswith(".") and path.is_file():
                found.append((_storable(path.relative_to(source).as_posix()), path))
    if not found:
        raise CorpusError(
            f"no corpus file in this folder: {one_line(source)}",
            "they must end in " + ", ".join(SUFFIXES),
        )
    return sorted(found)


def _as_text(data: bytes) -> tuple[str, str]:
    """Text and "", or "" and the reason why it is none."""
    if b"\x00" in data:
        return "", "binary"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "", "broken UTF-8"
    return text, ""


def _reason_against(text: str) -> str:
    if "\x00" in text:
        return "binary"
    try:
        # JSON may hold half of a surrogate pair, which no UTF-8 can.
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "broken UTF-8"
    return "" if text.strip() else "empty"


def unzstd(file: IO[bytes], n_bytes: int) -> Iterator[bytes]:
    """What each n packed bytes of a zstandard file stand for, frame after frame.

    Raises:
        EOFError: The file ends inside a frame; zstandard's own reader takes that for the end.
    """
    frame, data = None, file.read(n_bytes)
    while data:
        frame = frame or zstandard.ZstdDecompressor().decompressobj()
        yield frame.decompress(data)
        data = frame.unused_data
        if frame.eof:
            frame = None
        data = data or file.read(n_bytes)
    if frame is not None:
        raise EOFError


def _split_lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    kept = b""
    for block in blocks:
        *lines, rest = block.split(b"\n")
        if lines:
            yield kept + lines[0]
            yield from lines[1:]
            kept = rest
        else:
            kept += rest
    if kept:
        yield kept


def _lines(path: Path, suffix: str) -> Iterator[bytes]:
    if suffix == ".jsonl.zst":
        with path.open("rb") as file:
            yield from _split_lines(unzstd(file, BLOCK_BYTES))
    elif suffix == ".jsonl.gz":
        with gzip.open(path, "rb") as file:
            yield from file
    else:
        with path.open("rb") as file:
            yield from file


def _field(place: str, data: str, text_field: str) -> str:
    """The text in one JSON line; None counts as empty."""
    try:
        row = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"not JSON: {one_line(place)}: {one_line(error)}") from None
    if not isinstance(row, dict):
        raise CorpusError(f"not a JSON object: {one_line(place)}")
    if text_field not in row:
        raise _no_field(place, text_field, list(row))
    value = row[text_field]
    if value is not None and not isinstance(value, str):
        raise CorpusError(
            f"the text field is no text: {one_line(place)}: {one_line(text_field)}: "
            f"{type(value).__name__}"
        )
    return value or ""


def _no_field(place: str, text_field: str, fields: list[str]) -> CorpusError:
    return CorpusError(
        f"no field with this name: {one_line(place)}: {one_line(text_field)}",
        nearest(text_field, fields),
    )


def _line_documents(name: str, path: Path, text_field: str, on_skip: OnSkip) -> Iterator[Document]:
    number = 0
    try:
        for number, data in enumerate(_lines(path, _suffix(path)), 1):
            if not data.strip():
                continue
            place = f"{name}:{number}"
            line, reason = _as_text(data)
            text = "" if reason else _field(place, line, text_field)
            reason = reason or _reason_against(text)
            if reason:
                on_skip(place, reason)
            else:
                yield Document(place, text)
    except EOFError:
        raise CorpusError(
            f"the compressed file is cut short: {one_line(path)}: after line {number}"
        ) from None
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise CorpusError(
            f"the compressed file is damaged: {one_line(path)}: after line {number}: "
            f"{one_line(error)}"
        ) from None


def _text_document(name: str, path: Path, on_skip: OnSkip) -> Iterator[Document]:
    text, reason = _as_text(path.read_bytes())
    reason = reason or _reason_against(text)
    if reason:
        on_skip(name, reason)
    else:
        yield Document(name, text)


def _table_values(path: Path, text_field: str) -> Iterator[Any]:
    """One value of the column after another, as pyarrow scalars."""
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise CorpusError(
            f"reading Parquet needs pyarrow: {one_line(path)}",
            "`pip install 'lite-interp[export]'` installs it",
        ) from None
    try:
        with parquet.ParquetFile(path) as table:
            schema = table.schema_arrow
            if text_field not in schema.names:
                raise _no_field(str(path), text_field, schema.names)
            kind = schema.field(text_field).type
            if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
                raise CorpusError(
                    f"the text field is no text: {one_line(path)}: {one_line(text_field)}: {kind}"
                )
            for batch in table.iter_batches(batch_size=TABLE_ROWS, columns=[text_field]):
                yield from batch.column(0)
    except arrow.ArrowException as error:
        raise CorpusError(
            f"not a readable Parquet file: {one_line(path)}: {one_line(error)}"
        ) from None


def _table_documents(name: str, path: Path, text_field: str, on_skip: OnSkip) -> Iterator[Document]:
    for number, value in enumerate(_table_values(path, text_field), 1):
        place = f"{name}:{number}"
        try:
            text = value.as_py() or ""
            reason = _reason_against(text)
        except UnicodeDecodeError:
            text, reason = "", "broken UTF-8"
        if reason:
            on_skip(place, reason)
        else:
            yield Document(place, text)


def read_documents(
    sources: Sequence[Path], text_field: str = "text", on_skip: OnSkip = _skip_silently
) -> Iterator[Document]:
    """The documents of files and folders, one at a time.

    A `.txt` or `.md` file is one document. A line of `.jsonl`, `.jsonl.gz`, `.jsonl.zst` and a
    row of `.parquet` is one document, its text in `text_field`. A folder is read with its
    subfolders in the order of the files' names, files and folders whose name begins with a dot
    left out. A document is named by its path in the folder (a file given alone: its name), with
    the number of its line or row from 1, so that the same corpus has the same names on every
    machine.

    Args:
        sources: Files and folders, read in this order.
        text_field: Field of JSON lines and column of Parquet that holds the text.
        on_skip: Told name and reason of each document left out: `binary` (holds a NUL),
            `broken UTF-8`, `empty` (white space only, or null).

    Raises:
        CorpusError: Nothing there, or a file that is not what its name says.
    """
    for source in sources:
        for name, path in _files(Path(source)):
            try:
                if _suffix(path) in TEXT_SUFFIXES:
                    yield from _text_document(name, path, on_skip)
                elif _suffix(path) in TABLE_SUFFIXES:
                    yield from _table_documents(name, path, text_field, on_skip)
                else:
                    yield from _line_documents(name, path, text_field, on_skip)
            except OSError as error:
                raise CorpusError(
                    f"cannot be read: {one_line(path)}: {one_line(error.strerror or error)}"
                ) from None
