"""llama.cpp as a library: started once, its log kept off the terminal, its files loaded.

What llama.cpp answers with an abort is checked by the callers; what it answers with nothing is
an `EngineError` here, with the last errors of its log as the reason.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections import deque
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from lite_interp.errors import EngineError, one_line

log = logging.getLogger(__name__)

_errors: deque[str] = deque(maxlen=50)
_ERROR = 4


@llama_cpp.llama_log_callback
def _keep_log(level: int, text: bytes, _data: int | None) -> None:
    if level == _ERROR:
        _errors.append(one_line(text.decode("utf-8", "replace")))
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s", one_line(text.decode("utf-8", "replace")).rstrip())


def listen() -> None:
    """Keep llama.cpp's log off the terminal, and forget the errors it has logged."""
    _errors.clear()
    llama_cpp.llama_log_set(_keep_log, ctypes.c_void_p(0))


def reason(n: int = 2) -> str:
    """Why llama.cpp did not do something, as far as the last errors in its log say."""
    return "; ".join(list(_errors)[-n:]) or "llama.cpp does not say why"


def alive(pointer: Any) -> Any:
    """A pointer, unless what it pointed to is closed: llama.cpp would end the process."""
    if not pointer:
        raise ValueError("the engine is closed")
    return pointer


def array_at(pointer: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """The numbers at a pointer, not copied."""
    return np.ctypeslib.as_array(pointer, shape)


def load_model(path: Path, n_gpu_layers: int = -1, *, only_vocabulary: bool = False) -> Any:
    """A loaded GGUF model, to be freed with `llama_model_free`.

    Args:
        path: the file; `gguf_file.check_engine` has looked at it.
        n_gpu_layers: layers computed on a GPU; -1 = all.
        only_vocabulary: leave the weights where they are: for tokens alone.

    Raises:
        EngineError: llama.cpp does not load it.
    """
    listen()
    llama_cpp.llama_backend_init()
    options = llama_cpp.llama_model_default_params()
    options.n_gpu_layers = n_gpu_layers
    options.vocab_only = only_vocabulary
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), options)
    if not model:
        raise EngineError(
            f"engine cannot be loaded: {one_line(path)}: {reason()}",
            "lite-interp doctor says what this machine can run",
        )
    return model
