"""Model manifests: what a model is called, what its bytes are, and where to get them.

A manifest is a TOML file, one for each model: those in `models/` are shipped, and a user may put
more into the models folder. `models/README.md` explains each key; an unknown key is refused.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from lite_interp.data import data_folder, models_folder
from lite_interp.errors import UsageError, nearest, one_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Role = Literal["subject", "engine", "embedder"]

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Pin = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+]+$")]
Repository = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")]

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    path: str
    """Path in the model's folder, with forward slashes; in a hub repository, the same path."""
    size: Annotated[int, Field(gt=0)]
    """Length, bytes."""
    sha256: Sha256
    """SHA-256 of its bytes, 64 hex digits."""

    def __post_init__(self) -> None:
        """Refuse a path that could lead out of the model's folder."""
        parts = PurePosixPath(self.path).parts
        plain = all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", part) for part in parts)
        if not parts or not plain or self.path.endswith(".partial"):
            raise ValueError("a file's path must be plain names joined by `/`")


@dataclass(frozen=True, slots=True)
class HubSource:
    """A model hub's repository that holds every file under its own path."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["hub"]
    """Always `hub`."""
    repo: Repository
    """Owner and name of the repository."""
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Commit, or the name of a branch."""

    @property
    def label(self) -> str:
        """The source in a few words."""
        return f"hub {self.repo}@{self.revision[:12]}"


@dataclass(frozen=True, slots=True)
class WheelPart:
    """Bytes of a model that lie in a Python package."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    package: Pin
    """Package and version, `name==version`."""
    member: str
    """Path in the package's wheel."""
    file: str
    """The model's file that these bytes belong to."""


@dataclass(frozen=True, slots=True)
class WheelSource:
    """Python packages that hold the model, whole or cut into parts."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["pypi"]
    """Always `pypi`."""
    parts: Annotated[tuple[WheelPart, ...], Field(min_length=1)]
    """What to join, in order; the parts of one file stand together."""

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages, each once, in the order of the parts."""
        return tuple(dict.fromkeys(part.package for part in self.parts))

    @property
    def label(self) -> str:
        """The source in a few words."""
        more = f" and {len(self.packages) - 1} more" if len(self.packages) > 1 else ""
        return f"pypi {self.parts[0].package}{more}"


Source = Annotated[HubSource | WheelSource, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One model: its names, its bytes, and the places that have them."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    name: Name
    """What the user calls it; also its folder's name."""
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    """What it can be: `subject`, `engine`, `embedder`."""
    licence: Annotated[str, Field(min_length=1)]
    """SPDX identifier, or the name of the terms."""
    description: Annotated[str, Field(min_length=1)]
    """One or two sentences for people who choose."""
    files: Annotated[tuple[ModelFile, ...], Field(min_length=1)]
    """The files. One file is the model itself; several are a folder."""
    sources: tuple[Source, ...] = ()
    """Where to get it, tried in order; none for a model that the user put there."""
    aliases: tuple[Name, ...] = ()
    """Shorter names."""

    def __post_init__(self) -> None:
        """Refuse files that are named twice, and sources that don't make up the files."""
        paths = [file.path for file in self.files]
        if len(set(paths)) < len(paths):
            raise ValueError("a file is listed twice")
        for source in self.sources:
            if isinstance(source, WheelSource):
                _check_parts(source.parts, paths)

    @property
    def names(self) -> tuple[str, ...]:
        """Name and aliases."""
        return (self.name, *self.aliases)

    @property
    def size(self) -> int:
        """Length of all files, bytes."""
        return sum(file.size for file in self.files)


def _check_parts(parts: Iterable[WheelPart], paths: list[str]) -> None:
    runs: list[str] = []
    for part in parts:
        if not runs or runs[-1] != part.file:
            runs.append(part.file)
    if sorted(runs) != sorted(paths):
        raise ValueError("the parts must make up each file once, its own parts together")


_MANIFEST = TypeAdapter(Manifest)


def parse_manifest(text: str, origin: str) -> Manifest:
    """Read a manifest; `origin` names it in an error.

    Raises:
        UsageError: In one line, what is wrong and where.
    """
    try:
        # As JSON, because strict checking takes a list for a tuple only there; a date, which
        # JSON has not, is no value of any key.
        data = json.dumps(tomllib.loads(text), default=lambda _: None)
        return _MANIFEST.validate_json(data)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"not a TOML file: {one_line(origin)}: {one_line(error)}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = one_line(".".join(str(step) for step in first["loc"]) or "manifest")
        raise UsageError(
            f"not a model manifest: {one_line(origin)}: {place}: {one_line(first['msg'])}",
            "the keys are explained in models/README.md",
        ) from None


def _read_folder(folder: Path) -> list[Manifest]:
    manifests = []
    for path in sorted(folder.glob("*.toml")):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"a manifest cannot be read: {one_line(path)}: {one_line(error)}"
            ) from None
        manifest = parse_manifest(text, str(path))
        if manifest.name != path.stem:
            raise UsageError(
                f"a manifest's name and its file's name differ: {one_line(path)}: {manifest.name}"
            )
        manifests.append(manifest)
    return manifests


def load_manifests() -> tuple[Manifest, ...]:
    """All manifests, sorted by name: the shipped ones and those in the user's models folder.

    A user's manifest takes the place of a shipped one with the same name, so that a mirror can
    be named; a name or alias that two models claim is refused.
    """
    found = {manifest.name: manifest for manifest in _read_folder(data_folder("models"))}
    found.update({manifest.name: manifest for manifest in _read_folder(models_folder())})
    claimed: dict[str, str] = {}
    for manifest in found.values():
        for name in manifest.names:
            other = claimed.setdefault(name, manifest.name)
            if other != manifest.name:
                raise UsageError(f"two models have one name: {name}: {other}, {manifest.name}")
    return tuple(found[name] for name in sorted(found))


def find_manifest(name: str, role: Role | None = None) -> Manifest:
    """The model with this name or alias; with a role, one that has it.

    Raises:
        UsageError: There is no such model, or it is not fit for the role.
    """
    manifests = load_manifests()
    for manifest in manifests:
        if name in manifest.names:
            if role is not None and role not in manifest.roles:
                fit = [other.name for other in manifests if role in other.roles]
                raise UsageError(
                    f"this model is no {role}: {manifest.name}", "there is: " + ", ".join(fit)
                )
            return manifest
    known = [
        each
        for manifest in manifests
        if role is None or role in manifest.roles
        for each in manifest.names
    ]
    raise UsageError(f"no model is named: {one_line(name)}", nearest(name, known))
