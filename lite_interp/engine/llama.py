"""A GGUF model run by llama.cpp, through the low-level interface of llama-cpp-python.

The high-level class runs one sequence at a time. What llama.cpp answers with an abort (a batch
that is too long, a bad sequence id) is checked by the callers of `LlamaMachine`.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, cast

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from lite_interp.engine import EngineFailure, EngineSettings
from lite_interp.engine.library import alive, array_at, load_model, reason
from lite_interp.engine.llama_tokenizer import LlamaTokenizer
from lite_interp.engine.sequences import FIRST, NoRoom
from lite_interp.errors import EngineError, one_line

KV_TYPES = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
}
OUTPUT_FLOATS = 1 << 26
"""Logits that one call may give: 256 MiB."""
FIXED_SETTINGS = {"kv_unified": True, "swa_full": True}
"""Settings that nobody chooses. Unified: sequences share cells, so a copy of the prefix costs
nothing. Full: a sliding window's old cells are kept, so a prefix can be used again."""

_UNUSED = ("n_tokens", "embd")


def most_outputs(n_vocab: int, settings: EngineSettings) -> int:
    """Positions of one call that may give logits: at least one for each sequence."""
    return max(settings.n_parallel, min(settings.n_batch, OUTPUT_FLOATS // n_vocab))


class LlamaMachine:
    """A loaded GGUF model and its memory of sequences."""

    def __init__(self, path: Path, settings: EngineSettings) -> None:
        """Load a model; `n_ctx` and `n_cells` of the settings are taken as they are."""
        self._model: Any = None
        self._context: Any = None
        self._memory: Any = None
        self._model = load_model(path, settings.n_gpu_layers)
        self.tokenizer = LlamaTokenizer(self._model)
        self.n_vocab = self.tokenizer.n_vocab
        self.n_outputs = most_outputs(self.n_vocab, settings)
        self._context = llama_cpp.llama_init_from_model(self._model, self._options(settings))
        if not self._context:
            why = reason()
            self.close()
            raise EngineError(
                f"engine cannot be started: {one_line(path)}: {why}",
                f"lower --n-ctx {settings.n_ctx} or --n-parallel {settings.n_parallel}",
            )
        self._memory = cast(Any, llama_cpp.llama_get_memory(self._context))
        self.n_batch = min(settings.n_batch, llama_cpp.llama_n_batch(self._context))
        self._allocate()

    @property
    def facts(self) -> dict[str, Any]:
        """What llama.cpp says of the model."""
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self._model, cast(Any, buffer), 256)
        return {
            "llama_cpp_python": llama_cpp.__version__,
            "quantisation": buffer.value.decode("utf-8", "replace"),
            "n_parameters": int(llama_cpp.llama_model_n_params(self._model)),
            "n_ctx_train": int(llama_cpp.llama_model_n_ctx_train(self._model)),
            "recurrent": bool(llama_cpp.llama_model_is_recurrent(self._model)),
            "window": int(llama_cpp.llama_model_n_swa(self._model)),
            "system": llama_cpp.llama_print_system_info().decode("utf-8", "replace").strip(" |"),
        }

    def clear(self) -> None:
        """Forget all sequences."""
        llama_cpp.llama_memory_clear(alive(self._memory), False)

    def remove(self, sequence: int) -> None:
        """Forget one sequence, whole."""
        llama_cpp.llama_memory_seq_rm(alive(self._memory), sequence, -1, -1)

    def copy(self, source: int, target: int) -> None:
        """Let an empty sequence begin with all of another one."""
        llama_cpp.llama_memory_seq_cp(alive(self._memory), source, target, -1, -1)

    def decode(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        sequences: NDArray[np.int32],
        wanted: NDArray[np.int8],
    ) -> NDArray[np.float32]:
        """Append tokens to sequences; logits (n_wanted, n_vocab), good until the next call."""
        n, n_wanted = len(tokens), int(np.count_nonzero(wanted))
        if not 0 < n <= self.n_batch or n_wanted > self.n_outputs:
            raise EngineFailure(f"a call of {n} tokens and {n_wanted} outputs is too large")
        self._tokens[:n], self._positions[:n] = tokens, positions
        self._sequences[:n], self._wanted[:n] = sequences, wanted
        self._batch.n_tokens = n
        code = llama_cpp.llama_decode(alive(self._context), self._batch)
        if code == 1:
            raise NoRoom
        if code:
            raise EngineFailure(f"llama.cpp could not evaluate {n} tokens: code {code}")
        if not n_wanted:
            return np.empty((0, self.n_vocab), np.float32)
        logits = llama_cpp.llama_get_logits(self._context)
        if not logits:
            raise EngineFailure("llama.cpp gave no logits")
        return array_at(logits, (n_wanted, self.n_vocab))

    def close(self) -> None:
        """Free the model and its memory; closing twice is harmless."""
        if self._context:
            llama_cpp.llama_free(self._context)
        if self._model:
            llama_cpp.llama_model_free(self._model)
        self._context = self._model = self._memory = None
        self.tokenizer.close()

    def _options(self, settings: EngineSettings) -> Any:
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = settings.n_cells
        options.n_batch = settings.n_batch
        options.n_ubatch = min(settings.n_ubatch, settings.n_batch)
        options.n_seq_max = settings.n_parallel + FIRST
        options.n_outputs_max = self.n_outputs
        options.n_threads = options.n_threads_batch = settings.n_threads
        options.flash_attn_type = int(settings.flash_attention)
        options.type_k = options.type_v = KV_TYPES[settings.kv_type]
        for name, value in FIXED_SETTINGS.items():
            setattr(options, name, value)
        return options

    def _allocate(self) -> None:
        """A batch for all calls: its fields are pointers into numpy arrays."""
        n = self.n_batch
        self._tokens, self._positions = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self._sequences, self._wanted = np.zeros(n, np.int32), np.zeros(n, np.int8)
        self._counts = np.ones(n, np.int32)
        # Each token has a list of sequences; the lists of one entry lie side by side.
        self._lists = (self._sequences.ctypes.data + 4 * np.arange(n)).astype(np.uintp)
        batch = llama_cpp.llama_batch()
        for (name, kind), array in zip(
            (field[:2] for field in llama_cpp.llama_batch._fields_ if field[0] not in _UNUSED),
            (self._tokens, self._positions, self._counts, self._lists, self._wanted),
            strict=True,
        ):
            setattr(batch, name, ctypes.cast(array.ctypes.data, cast(Any, kind)))
        self._batch = batch
