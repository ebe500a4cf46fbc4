"""A machine that evaluates nothing and notes what it was asked: for plans, and for ids."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from lite_interp.engine import Call
from lite_interp.engine.library import load_model
from lite_interp.engine.llama_tokenizer import LlamaTokenizer


class RehearsalMachine:
    """A GGUF model's vocabulary without its weights; every token is as likely as every other."""

    def __init__(self, path: Path) -> None:
        """Load the vocabulary."""
        self._model = load_model(path, only_vocabulary=True)
        self.tokenizer = LlamaTokenizer(self._model)
        self.n_vocab = self.tokenizer.n_vocab
        self.calls: list[Call] = []

    def clear(self) -> None:
        """Nothing is held."""

    def remove(self, sequence: int) -> None:
        """Nothing is held."""

    def copy(self, source: int, target: int) -> None:
        """Nothing is held."""

    def decode(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        sequences: NDArray[np.int32],
        wanted: NDArray[np.int8],
    ) -> NDArray[np.float32]:
        """Note the call; logits of zero, (n_wanted, n_vocab)."""
        n_wanted = int(np.count_nonzero(wanted))
        self.calls.append(Call(len(tokens), len(np.unique(sequences)), n_wanted))
        return np.broadcast_to(np.float32(0), (n_wanted, self.n_vocab))

    def close(self) -> None:
        """Free the vocabulary; closing twice is harmless."""
        if self._model:
            llama_cpp.llama_model_free(self._model)
        self._model = None
        self.tokenizer.close()
