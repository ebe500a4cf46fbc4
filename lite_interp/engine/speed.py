"""How fast prompts are evaluated with each quantisation, measured on a few layers of the model.

    model ─ a few layers, no vocabulary ─▶ sample ─▶ the same in each quantisation ─▶ seconds

Quantising a whole model to time it would take minutes and gigabytes. All layers of a model do
the same work, so the sample holds a few of them, and its time is multiplied up:

    tokens/s = tokens · layers in the sample / (seconds · layers in the model)

What is not counted: looking up embeddings, and the output matrix, which judging needs for one
token of a window only. So the number is higher than what a run reaches (a model of 135 million
parameters: by 7 to 22 %), and the ratio of two quantisations is what to go by (whole models:
2.9, 2.1 and 2.2 times; samples: 2.8, 2.2 and 2.0).

Rounds go over all quantisations in turn, there and back, so that a disturbance on the machine
meets all of them; ratios are taken within a round.
"""

from __future__ import annotations

import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lite_interp.engine.gguf_file import check_engine, read_header
from lite_interp.engine.quantize import convert, quantisation_of
from lite_interp.errors import EngineError, one_line

CANDIDATES = ("q4_0", "q8_0", "q4_k_m", "q6_k")
"""Quantisations that are compared with the file's own. Where a matrix is not a multiple of 256
wide, llama.cpp makes q5_0 and q8_0 in place of q4_k and q6_k: here as in the whole file."""
N_LAYERS = 4
"""Layers in a sample; with four, llama.cpp's mixes (such as q4_k_m) are mixed as in a model."""
N_TOKENS = 512
"""Tokens evaluated in one go: a full batch of the engine."""
N_VOCAB = 256
"""Tokens that the sample knows."""
SAMPLE_BYTES = 200_000_000
"""A sample that would be larger has fewer layers, but at least two."""
MIN_ROUNDS, MAX_ROUNDS = 3, 9
SECONDS = 20.0
"""After so long no further round begins."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one quantisation evaluates prompts."""

    quantisation: str
    """Its name, e.g. `q4_0`."""
    own: bool
    """Whether it is the file's own."""
    tokens_per_second: float
    """Median over the rounds, for the whole model."""
    lowest: float
    """Tokens/s of the slowest round."""
    highest: float
    """Tokens/s of the fastest round."""
    ratio: float
    """Times the file's own speed: median over the rounds of the ratio within a round."""
    n_rounds: int
    """Rounds."""


def measure(
    path: Path,
    candidates: Sequence[str] = CANDIDATES,
    n_tokens: int = N_TOKENS,
    seconds: float = SECONDS,
    n_threads: int = 0,
) -> list[Speed]:
    """Speed of the file's own quantisation, first, and of each candidate, fastest first.

    A candidate that llama.cpp cannot make from this file is left out, with a line in the log.

    Args:
        path: GGUF file of a language model.
        candidates: keys of `QUANTISATIONS`.
        n_tokens: tokens evaluated in one go.
        seconds: after so long no further round begins; three are always made.
        n_threads: threads; 0 = one for each physical core.

    Raises:
        EngineError: The file cannot be used, no sample of it can be made, or there is no room.
    """
    header = read_header(path)
    check_engine(path, header)
    own = quantisation_of(header)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lite-interp-")))
        sample = folder / "own.gguf"
        share = write_sample(path, sample)
        files = {own: sample}
        for name in candidates:
            if name == own:
                continue
            target = folder / f"{name}.gguf"
            try:
                convert(sample, target, name, n_threads)
            except EngineError as error:
                log.warning("%s cannot be measured: %s", name, error)
                continue
            files[name] = target
        passes = {
            name: stack.enter_context(_Pass(file, n_tokens, n_threads))
            for name, file in files.items()
        }
        times = interleave({name: each.evaluate for name, each in passes.items()}, seconds)
    speeds = [_speed(name, own, times, n_tokens * share) for name in times]
    return sorted(speeds, key=lambda speed: (not speed.own, -speed.ratio))


def _speed(name: str, own: str, times: Mapping[str, Sequence[float]], work: float) -> Speed:
    """Seconds as speeds; `work` is tokens through the whole model that one pass stands for."""
    rates = [work / seconds for seconds in times[name]]
    ratios = [base / mine for base, mine in zip(times[own], times[name], strict=True)]
    return Speed(
        name,
        name == own,
        statistics.median(rates),
        min(rates),
        max(rates),
        statistics.median(ratios),
        len(rates),
    )


def interleave(
    actions: Mapping[str, Callable[[], float]], seconds: float = SECONDS
) -> dict[str, list[float]]:
    """What each action gives in each round; a first round that warms up is thrown away.

    Args:
        actions: by name, what to do once; each gives the seconds it took.
        seconds: after so long no further round begins, once there were three.
    """
    for action in actions.values():
        action()
    times: dict[str, list[float]] = {name: [] for name in actions}
    order, started = list(actions), time.perf_counter()
    for number in range(MAX_ROUNDS):
        if number >= MIN_ROUNDS and time.perf_counter() - started > seconds:
            break
        for name in order if number % 2 else reversed(order):
            times[name].append(actions[name]())
    return times


class _Pass:
    """A loaded sample, ready to evaluate the same tokens again and again."""

    def __init__(self, path: Path, n_tokens: int, n_threads: int) -> None:
        import llama_cpp

        from lite_interp.engine.library import load_model, reason
        from lite_interp.engine.opening import physical_cores

        self._context: Any = None
        self._model = load_model(path)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = n_tokens
        options.n_threads = options.n_threads_batch = n_threads or physical_cores()
        options.flash_attn_type = 0  # as the engine's default
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        if not self._context:
            why = reason()
            self.__exit__()
            raise EngineError(f"a sample of the model cannot be started: {why}")
        self._n = n_tokens
        self._tokens: Any = (llama_cpp.llama_token * n_tokens)(
            *(7 * i % N_VOCAB for i in range(n_tokens))
        )

    def evaluate(self) -> float:
        """Seconds for all tokens, from an empty memory."""
        import llama_cpp

        memory: Any = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_clear(memory, False)
        started = time.perf_counter()
        batch = llama_cpp.llama_batch_get_one(self._tokens, self._n)
        code = llama_cpp.llama_decode(self._context, batch)
        llama_cpp.llama_synchronize(self._context)  # a GPU may still be at it
        if code:
            raise EngineError(f"a sample of the model cannot be evaluated: code {code}")
        return time.perf_counter() - started

    def __enter__(self) -> _Pass:
        return self

    def __exit__(self, *_error: object) -> None:
        import llama_cpp

        if self._context:
            llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)


def write_sample(source: Path, target: Path, n_layers: int = N_LAYERS) -> float:
    """Write a model of a few of the layers, their bytes unchanged, and a vocabulary without text.

    The layers lie evenly over the model; where layers differ in kind, the first ones are taken,
    as the architecture expects them in order.

    Returns:
        Layers in the sample for one of the model.

    Raises:
        EngineError: The file has parts that are not understood, or there is no room.
    """
    from gguf import GGUFReader

    shown = one_line(source)
    try:
        reader = GGUFReader(source)
        architecture = str(reader.fields["general.architecture"].contents())
        n_all = int(reader.fields[f"{architecture}.block_count"].contents())
        layers = _choose_layers(reader, n_all, n_layers)
        _check_room(reader, layers, target)
        _write(reader, architecture, layers, target)
    except OSError as error:
        raise EngineError(f"no sample can be written: {one_line(target)}: {error}") from error
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise EngineError(
            f"no sample can be made of the model: {shown}: {one_line(error)}",
            "lite-interp models quantize makes the whole file, and times it",
        ) from error
    return len(layers) / n_all


def _place(name: str) -> tuple[int | None, str]:
    """A tensor's layer, and its name within it; None for a tensor of no layer."""
    if not name.startswith("blk."):
        return None, name
    _, layer, rest = name.split(".", 2)
    return int(layer), rest


def _choose_layers(reader: Any, n_all: int, wanted: int) -> list[int]:
    kinds: list[set[Any]] = [set() for _ in range(n_all)]
    n_bytes = 0
    for tensor in reader.tensors:
        layer, rest = _place(tensor.name)
        if layer is not None:
            kinds[layer].add((rest, tuple(tensor.shape.tolist())))
            n_bytes += int(tensor.n_bytes)
    affordable = SAMPLE_BYTES * n_all // max(1, n_bytes)
    n = min(n_all, wanted, max(2, affordable))
    if any(kind != kinds[0] for kind in kinds):
        return list(range(n))
    return [int((place + 0.5) * n_all / n) for place in range(n)]


def _check_room(reader: Any, layers: Sequence[int], target: Path) -> None:
    own = sum(int(each.n_bytes) for each in reader.tensors if _place(each.name)[0] in layers)
    needed, free = own * (1 + 2 * len(CANDIDATES)), shutil.disk_usage(target.parent).free
    if free < needed:
        raise EngineError(
            f"not enough room for samples of the model: {one_line(target.parent)}: "
            f"{needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free",
            "TMPDIR names another folder for them",
        )


def _write(reader: Any, architecture: str, layers: Sequence[int], target: Path) -> None:
    from gguf import GGUFWriter

    n_tokens = len(reader.fields["tokenizer.ggml.tokens"].data)
    n_all = int(reader.fields[f"{architecture}.block_count"].contents())
    left_out = ("tokenizer.", "GGUF.", "split.", "general.architecture", "general.alignment")
    own_keys = (".block_count", ".vocab_size", ".nextn_predict_layers")
    writer = GGUFWriter(target, architecture)
    try:
        for key, field in reader.fields.items():
            if key.startswith(left_out) or key.endswith(own_keys):
                continue
            value = field.contents()
            if isinstance(value, list) and len(value) == n_all:  # one for each layer
                value = [value[layer] for layer in layers]
            kind = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, value, field.types[0], sub_type=kind)
        writer.add_block_count(len(layers))
        writer.add_tokenizer_model("no_vocab")
        writer.add_vocab_size(min(N_VOCAB, n_tokens))
        for tensor in reader.tensors:
            layer, rest = _place(tensor.name)
            data, name = np.asarray(tensor.data), tensor.name
            if layer is not None:
                if layer not in layers:
                    continue
                name = f"blk.{layers.index(layer)}.{rest}"
            elif int(tensor.shape[-1]) == n_tokens:
                data = data[:N_VOCAB]
            writer.add_tensor(name, data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
