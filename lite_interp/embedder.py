"""Texts to unit vectors with a local model: of sentence-transformers, or GGUF."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lite_interp.errors import EmbedderError, one_line
from lite_interp.ids import content_id, hash_file
from lite_interp.local_model import quiet


class Embedder(Protocol):
    """A model that gives each text a direction."""

    @property
    def id(self) -> str:
        """Content id of the model's files."""
        ...

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What it is and how it is run; plain JSON."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d)."""
        ...


class SentenceEmbedder:
    """A sentence-transformers model from a local folder."""

    def __init__(self, path: Path) -> None:
        """Load the model.

        Raises:
            EmbedderError: no such folder, or no sentence-embedding model in it.
        """
        if not (path / "modules.json").is_file():
            raise EmbedderError(
                f"no sentence-embedding model: {one_line(path)}",
                "give a folder with modules.json, as sentence-transformers writes it, "
                "or a .gguf file",
            )
        # Importing it takes seconds, and only a run that embeds should wait for them.
        import sentence_transformers

        try:
            with quiet():
                self._model = sentence_transformers.SentenceTransformer(
                    str(path), local_files_only=True
                )
        except (OSError, ValueError, KeyError) as error:
            raise EmbedderError(
                f"not readable as a sentence-embedding model: {one_line(path)}: {one_line(error)}",
                "`lite-interp models verify` checks the models that were fetched",
            ) from error
        files = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and file.suffix in (".json", ".safetensors", ".bin", ".txt")
        )
        hashes = {str(file.relative_to(path)): hash_file(file) for file in files}
        self.id: str = content_id(["embedder", hashes])
        self.name: str = path.name
        self.provenance: Mapping[str, Any] = {
            "path": str(path),
            "files": hashes,
            "device": str(self._model.device),
            "sentence_transformers": sentence_transformers.__version__,
        }

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d); texts longer than the model reads are cut by it."""
        vectors = self._model.encode(
            list(texts),
            batch_size=64,
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(vectors, np.float32)


def open_embedder(path: Path) -> Embedder:
    """Open the embedding model at a path: a folder of sentence-transformers, or a GGUF file.

    Raises:
        EmbedderError: there is none.
    """
    if path.is_dir():
        return SentenceEmbedder(path)
    if not path.is_file():
        raise EmbedderError(
            f"no such folder or file: {one_line(path)}",
            "give a folder with modules.json, or a .gguf file",
        )
    # llama.cpp would start a debugger for a stack trace when it aborts; read while it is loaded.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    from lite_interp.engine.embedding import LlamaEmbedder

    return LlamaEmbedder(path)
