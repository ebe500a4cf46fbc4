"""A whole study that fits in a test: subject, coder, corpus, and who is told."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tiny
import tiny_gguf

from lite_interp import study, tools
from lite_interp.engine import Rehearsal
from lite_interp.ids import content_id
from lite_interp.loading import CacheJob

TEXT = "the cat sat on a red mat and then they all went to other places with their mother"
WORDS = TEXT.split()
N_CTX = 32
TIMES = {"seconds", "started_utc", "ended_utc"}


class Parts(NamedTuple):
    """The files of a tiny study."""

    subject: Path
    coder: Path
    corpus: Path


def write_parts(folder: Path, n_documents: int = 60) -> Parts:
    """A subject, a coder that reconstructs it, and a corpus of about 4,000 tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    subject = tiny.write_subject(folder / "subject")
    coder = tiny.write_trained_like(folder / "coder", "layers.1")
    return Parts(subject, coder, write_corpus(folder / "corpus.jsonl", n_documents))


def write_corpus(path: Path, n_documents: int = 60) -> Path:
    """Documents of a few random words, one a line."""
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, draw.integers(4, 28))) for _ in range(n_documents)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def cache_job(parts: Parts, **settings: Any) -> CacheJob:
    """What `cache` is told about the parts."""
    return CacheJob(
        study.SubjectSection(model=str(parts.subject), device="cpu", dtype="float32"),
        study.CoderSection(path=str(parts.coder)),
        study.CorpusSection(paths=(str(parts.corpus),), n_ctx=N_CTX),
        study.CacheSection(**settings),
    )


class Told:
    """Keeps what is said; interrupts after so many units of work."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.lines: list[str] = []
        self.totals: dict[str, int] = {}
        self.left = stop_after

    def say(self, text: str) -> None:
        self.lines.append(text)

    def track(self, items: Iterable, total: int, label: str) -> Iterator:
        self.totals[label] = total
        for item in items:
            yield item
            if self.left is not None:
                self.left -= 1
                if not self.left:
                    raise KeyboardInterrupt


class BagOfWords:
    """An embedder that counts words; made from a path, as the real one is."""

    def __init__(self, path: Path | None = None, dimensions: int = 8192) -> None:
        self.id = content_id(["bag of words", dimensions])
        self.name = "bag of words"
        self.provenance = {"path": str(path)}
        self._dimensions = dimensions

    def embed(self, texts) -> np.ndarray:
        vectors = np.full((len(texts), self._dimensions), 1e-6, np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in text.lower().replace(",", " ").replace(":", " ").split():
                vector[int(content_id(word)[3:11], 16) % self._dimensions] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def dump(path: Path, *tables: str, without: Iterable[str] = ()) -> dict[str, list[tuple]]:
    """Every row of the tables (default: all but `runs`), sorted, times and some columns left out.

    Tokens, say: an engine that begins anew has to evaluate again what it had kept.
    """
    left_out = TIMES | set(without)
    with sqlite3.connect(path) as db:
        db.row_factory = sqlite3.Row
        names = [
            row[0]
            for row in db.execute("select name from sqlite_master where type = 'table'")
            if not row[0].startswith(("sqlite_", "_")) and row[0] != "runs"
        ]
        rows = {
            name: sorted(
                repr([(key, row[key]) for key in row.keys() if key not in left_out])  # noqa: SIM118
                for row in db.execute(f"select * from {name}")
            )
            for name in tables or names
        }
    db.close()
    return rows


STUDY = """
seed = 0
[subject]
model = "subject"
device = "cpu"
dtype = "float32"
[coder]
path = "coder/layers.1"
[corpus]
paths = ["corpus.jsonl"]
n_ctx = 32
[latents]
n = 4
min_density = 0.001
max_density = 1
[examples]
width = 8
n_shown = 5
n_active = 6
n_silent = 6
[engine]
model = "engine.gguf"
n_ctx = 1024
[explain]
explainers = ["token_list", "llm"]
[score]
embedder = "embedder"
n_controls = 2
"""


def write_study(folder: Path) -> Path:
    """All that a study names, and its file; the embedder is an empty folder, for `BagOfWords`."""
    write_parts(folder)
    tiny_gguf.write(folder / "engine.gguf", "llama")
    (folder / "embedder").mkdir()
    path = folder / "study.toml"
    path.write_text(STUDY, encoding="utf-8")
    return path


def use_engine(monkeypatch, engine) -> None:
    """Let commands find this engine wherever they look for one, and a bag of words to embed."""
    monkeypatch.setattr(tools, "open_embedder", BagOfWords)
    monkeypatch.setattr(tools, "open_engine", lambda path, settings: engine)
    monkeypatch.setattr(tools, "rehearse_engine", lambda path, settings: Rehearsal(engine, []))
