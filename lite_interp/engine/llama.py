"""The engine over llama.cpp, through the low-level interface of llama-cpp-python.

The high-level class runs one sequence at a time. What llama.cpp answers with an abort (a batch
that is too long, a bad sequence id) is checked by the callers of `LlamaMachine`.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from pathlib import Path
from typing import Any, cast

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from lite_interp.engine import EngineFailure, EngineSettings
from lite_interp.engine.batched import Tokenizer
from lite_interp.engine.chat import SpecialToken
from lite_interp.engine.sequences import FIRST, NoRoom
from lite_interp.errors import EngineError, one_line

KV_TYPES = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
}
OUTPUT_FLOATS = 1 << 26
"""Logits that one call may give: 256 MiB."""

_UNUSED = ("n_tokens", "embd")

_log: deque[str] = deque(maxlen=50)
_ERROR = 4


@llama_cpp.llama_log_callback
def _keep_log(level: int, text: bytes, _data: int | None) -> None:
    if level == _ERROR:
        _log.append(one_line(text.decode("utf-8", "replace")))


def _reason() -> str:
    return "; ".join(list(_log)[-2:]) or "llama.cpp does not say why"


def _alive(pointer: Any) -> Any:
    """A pointer, unless the engine is closed: llama.cpp would end the process."""
    if not pointer:
        raise ValueError("the engine is closed")
    return pointer


def _array(pointer: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.ctypeslib.as_array(pointer, shape)


class LlamaTokenizer(Tokenizer):
    """A GGUF model's tokenizer."""

    def __init__(self, model: Any) -> None:
        """Read the special tokens of a loaded model."""
        self._vocab: Any = llama_cpp.llama_model_get_vocab(model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.add_bos = bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))
        bos = cast(int, llama_cpp.llama_vocab_bos(self._vocab))
        eos = cast(int, llama_cpp.llama_vocab_eos(self._vocab))
        self.bos = bos if bos >= 0 else None
        self.bos_text = self._text(bos)
        self.eos_text = self._text(eos)
        self.specials = self._specials()
        self._adds_space = self._decode(self._raw("a", False)) == b" a"

    def beginning(self, text: str) -> list[int]:
        """Tokens of plain text at the start of a prompt or behind a special token."""
        return self._raw(text, False)

    def going_on(self, text: str) -> list[int]:
        """Tokens of plain text behind other plain text: no space is put in front."""
        if not self._adds_space or not text:
            return self._raw(text, False)
        for before in ("\n", "\x01"):
            head = self._raw(before, False)
            tokens = self._raw(before + text, False)
            if tokens[: len(head)] == head:
                return tokens[len(head) :]
        return self._raw(text, False)

    def special(self, text: str) -> list[int]:
        """Tokens of a text in which names of special tokens become those tokens."""
        return self._raw(text, True)

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; none for a control token."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = llama_cpp.llama_token_to_piece(
                _alive(self._vocab), token, cast(Any, buffer), size, 0, False
            )
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return bool(llama_cpp.llama_vocab_is_eog(_alive(self._vocab), token))

    def close(self) -> None:
        """Let go of the model."""
        self._vocab = None

    def _raw(self, text: str, special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        buffer = (llama_cpp.llama_token * size)()
        n = llama_cpp.llama_tokenize(
            _alive(self._vocab), data, len(data), cast(Any, buffer), size, False, special
        )
        if n < 0:
            raise EngineFailure(f"a text of {len(data)} bytes cannot be tokenised")
        return buffer[:n]

    def _decode(self, tokens: list[int]) -> bytes:
        return b"".join(map(self.piece, tokens))

    def _text(self, token: int) -> str:
        if token < 0:
            return ""
        text = cast(Any, llama_cpp.llama_vocab_get_text(self._vocab, token))
        return (text or b"").decode("utf-8", "replace")

    def _specials(self) -> dict[str, SpecialToken]:
        control = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
        defined = llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
        found: dict[str, SpecialToken] = {}
        for token in range(self.n_vocab):
            kind = llama_cpp.llama_vocab_get_attr(self._vocab, token)
            if not kind & (control | defined):
                continue
            text = self._text(token)
            if text.strip(" \t\r\n\u2581"):  # runs of white space are ordinary text
                found[text] = SpecialToken(
                    token,
                    not kind & control,
                    bool(kind & llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP),
                    bool(kind & llama_cpp.LLAMA_TOKEN_ATTR_RSTRIP),
                )
        return found


class LlamaMachine:
    """A loaded GGUF model and its memory of sequences."""

    def __init__(self, path: Path, settings: EngineSettings) -> None:
        """Load a model; `n_ctx` and `n_cells` of the settings are taken as they are."""
        self._model: Any = None
        self._context: Any = None
        self._memory: Any = None
        _log.clear()
        llama_cpp.llama_log_set(_keep_log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        shown = one_line(path)
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = settings.n_gpu_layers
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), options)
        if not self._model:
            raise EngineError(
                f"engine cannot be loaded: {shown}: {_reason()}",
                "lite-interp doctor says what this machine can run",
            )
        self.tokenizer = LlamaTokenizer(self._model)
        self.n_vocab = self.tokenizer.n_vocab
        self.n_outputs = max(
            settings.n_parallel, min(settings.n_batch, OUTPUT_FLOATS // self.n_vocab)
        )
        self._context = llama_cpp.llama_init_from_model(self._model, self._options(settings))
        if not self._context:
            reason = _reason()
            self.close()
            raise EngineError(
                f"engine cannot be started: {shown}: {reason}",
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
        llama_cpp.llama_memory_clear(_alive(self._memory), False)

    def remove(self, sequence: int) -> None:
        """Forget one sequence, whole."""
        llama_cpp.llama_memory_seq_rm(_alive(self._memory), sequence, -1, -1)

    def copy(self, source: int, target: int) -> None:
        """Let an empty sequence begin with all of another one."""
        llama_cpp.llama_memory_seq_cp(_alive(self._memory), source, target, -1, -1)

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
        code = llama_cpp.llama_decode(_alive(self._context), self._batch)
        if code == 1:
            raise NoRoom
        if code:
            raise EngineFailure(f"llama.cpp could not evaluate {n} tokens: code {code}")
        if not n_wanted:
            return np.empty((0, self.n_vocab), np.float32)
        logits = llama_cpp.llama_get_logits(self._context)
        if not logits:
            raise EngineFailure("llama.cpp gave no logits")
        return _array(logits, (n_wanted, self.n_vocab))

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
        options.kv_unified = True  # sequences share cells: a copy of the prefix costs nothing
        options.swa_full = True  # a window's old cells are kept: a prefix can be used again
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
