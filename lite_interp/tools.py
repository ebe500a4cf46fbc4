"""What explaining and scoring need beside the file: engine, embedder, prompt.

They are named in a study or by options, looked for before anything is written, and loaded only
when there is work: an engine of gigabytes has an id before it has weights in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sqlite_utils import Database

from lite_interp import study
from lite_interp.db.file import add
from lite_interp.embedder import Embedder, open_embedder
from lite_interp.engine import Engine, Rehearsal, open_engine, rehearse_engine
from lite_interp.errors import UsageError, one_line
from lite_interp.explain import Explainer
from lite_interp.fetch import model_path
from lite_interp.loading import Reporter
from lite_interp.prompts import Prompt, choose_prompt
from lite_interp.score import Scorer, Tools


class EngineSource(NamedTuple):
    """Where an engine is, and how it is to be run."""

    place: Path | str
    """GGUF file, or address of a server."""
    section: study.EngineSection
    """Its settings."""

    def rehearse(self) -> Rehearsal:
        """The engine without its weights; raises `UsageError` for a server."""
        if isinstance(self.place, str):
            raise UsageError(
                f"a plan is made for a GGUF file, not for a server: {one_line(self.place)}",
                "name the file that the server runs: --engine FILE.gguf",
            )
        return rehearse_engine(self.place, study.engine_settings(self.section))

    def preview(self) -> Engine:
        """An engine with the right id, good for asking what is pending; a server is opened."""
        return self.open() if isinstance(self.place, str) else self.rehearse().engine

    def open(self, tell: Reporter | None = None) -> Engine:
        """The engine itself."""
        settings = study.engine_settings(self.section)
        if isinstance(self.place, Path):
            if tell:
                tell.say(f"loading the engine {self.place.name}")
            return open_engine(self.place, settings)
        from lite_interp.engine.server import open_server

        return open_server(self.place, settings, self.section.allow_remote)


class OpenModels:
    """The engine and the embedder that are open, kept for the next work that wants the same."""

    def __init__(self) -> None:
        """Nothing is open yet."""
        self._source: EngineSource | None = None
        self._engine: Engine | None = None
        self._embedders: dict[str, Embedder] = {}

    @classmethod
    @contextmanager
    def borrowed(cls, models: OpenModels | None) -> Iterator[OpenModels]:
        """These, left open; or others, closed at the end."""
        if models is not None:
            yield models
            return
        own = cls()
        try:
            yield own
        finally:
            own.close()

    def engine(self, source: EngineSource, tell: Reporter | None = None) -> Engine:
        """The engine of a source; another one that is open is closed first."""
        if self._engine is None or source != self._source:
            self.close()
            self._source, self._engine = source, source.open(tell)
        return self._engine

    def embedder(self, name: str) -> Embedder:
        """The embedder of this name; it is small, and stays."""
        if name not in self._embedders:
            self._embedders[name] = find_embedder(name)
        return self._embedders[name]

    def close(self) -> None:
        """Close the engine; closing twice is harmless."""
        engine, self._source, self._engine = self._engine, None, None
        if engine is not None:
            engine.close()


def find_engine(section: study.EngineSection) -> EngineSource:
    """The engine that is named; raises a one-line error if there is none."""
    name = section.model
    if not name:
        raise UsageError("no engine is named", "--engine, or `model` in [engine], names one")
    study.engine_settings(section)  # settings that cannot be are refused before a model is loaded
    if name.startswith(("http://", "https://")):
        return EngineSource(name, section)
    return EngineSource(model_path(name, "engine"), section)


def find_prompt(module: Explainer | Scorer, wanted: str) -> Prompt | None:
    """The prompt that is named, or the module's own; None if it asks no engine."""
    takes = module.takes if isinstance(module, Explainer) else None
    return choose_prompt(wanted, module.prompt, takes) if module.prompt else None


def find_embedder(name: str) -> Embedder:
    """The embedder that is named."""
    return open_embedder(model_path(name, "embedder"))


def store_tools(db: Database, tools: Tools) -> None:
    """Note in the file what explains or judges."""
    engine, embedder, prompt = tools.engine, tools.embedder, tools.prompt
    if engine:
        row = {"id": engine.id, "name": engine.name, "provenance": dict(engine.provenance)}
        add(db, "engines", row)
    if embedder:
        row = {"id": embedder.id, "name": embedder.name, "provenance": dict(embedder.provenance)}
        add(db, "embedders", row)
    if prompt:
        add(db, "prompts", {"id": prompt.id, "name": prompt.name, "text": prompt.content()})
