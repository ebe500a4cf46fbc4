"""The subject: the language model under study, and its activations at named hookpoints.

A read runs the model without its head and stops as soon as the last hookpoint has been seen.
Reading changes nothing: no weight, no hook and no cache outlives it.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from lite_interp import hookpoints
from lite_interp.errors import SubjectError, one_line
from lite_interp.ids import hash_file
from lite_interp.local_model import LocalModel, locate, quiet
from lite_interp.records import Hookpoint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number formats a subject may be run in."""


class _Enough(Exception):  # noqa: N818  (a signal, no error)
    """Every hookpoint has been seen: the rest of the forward pass is not needed."""


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A language model in eval mode, without gradients."""

    name: str
    """Name of its folder or file."""
    path: Path
    """Where it was loaded from."""
    hash: str
    """`sha256:` of the GGUF file, or over the hashes of the folder's weights and config."""
    architecture: str
    """transformers' class, e.g. `LlamaForCausalLM`."""
    d_model: int
    """Width of the residual stream."""
    n_layers: int
    """Number of decoder layers."""
    n_vocab: int
    """Rows of the token embedding: ids at or above it cannot be read."""
    max_length: int
    """Longest context, tokens."""
    dtype: torch.dtype
    """Number format of weights and activations."""
    device: torch.device
    """Where it runs."""
    modules: hookpoints.Modules
    """What its modules are called."""
    model: Any
    """The transformers model with its head, for interventions; reading never runs the head."""
    provenance: Mapping[str, Any]
    """How it was loaded: file, hash, dtype, device, library versions."""
    _widths: dict[Hookpoint, int] = field(default_factory=dict, repr=False)

    def resolve(self, name: str) -> Hookpoint:
        """The hookpoint that a name means; see `hookpoints` for the spellings.

        Raises:
            SubjectError: there is none; the hint gives the nearest names.
        """
        return hookpoints.resolve(name, self.modules)

    def width(self, hookpoint: Hookpoint) -> int:
        """Width of the activations at a hookpoint, found by reading one token."""
        if hookpoint not in self._widths:
            one = torch.zeros((1, 1), dtype=torch.long)
            read = self.read(one, torch.ones(1, dtype=torch.long), [hookpoint])
            self._widths[hookpoint] = read[hookpoint].shape[-1]
        return self._widths[hookpoint]

    def read(
        self, token_ids: Any, lengths: Any, hookpoints: Sequence[Hookpoint]
    ) -> dict[Hookpoint, Tensor]:
        """Activations at hookpoints, from one forward pass that goes no deeper than needed.

        Args:
            token_ids: (n, t) integers, tensor or array; what lies behind a length is ignored.
            lengths: (n,) tokens in each context, 1..t.
            hookpoints: where to read.

        Returns:
            (n, t, d) for each hookpoint, in the subject's dtype, on its device; 0 behind a
            context's length.

        Raises:
            SubjectError: tokens the subject does not have, a context too long for it, or a
                hookpoint that is never reached.
        """
        ids = torch.as_tensor(token_ids, dtype=torch.long)
        counts = torch.as_tensor(lengths, dtype=torch.long)
        if not hookpoints:
            return {}
        if ids.numel() == 0:
            shape = tuple(ids.shape)
            return {
                point: torch.zeros((*shape, self.width(point)), dtype=self.dtype).to(self.device)
                for point in hookpoints
            }
        mask = torch.arange(ids.shape[1]) < counts[:, None]
        ids = ids.where(mask, 0)
        self._check(ids, counts)
        found = self._run(ids.to(self.device), mask.to(self.device), set(hookpoints))
        return {point: found[point] for point in hookpoints}

    def _check(self, ids: Tensor, lengths: Tensor) -> None:
        """Refuse what would fail deep inside the model, or end a CUDA process."""
        if ids.shape[1] > self.max_length:
            raise SubjectError(
                f"context is longer than the subject's {self.max_length} tokens: {ids.shape[1]}",
                "use shorter contexts",
            )
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.n_vocab:
            raise SubjectError(
                f"token id outside the subject's {self.n_vocab}: {low if low < 0 else high}",
                "the corpus was cut with another model's tokenizer",
            )
        if int(lengths.min()) < 1 or int(lengths.max()) > ids.shape[1]:
            raise ValueError("lengths must lie between 1 and the width of token_ids")

    def _run(self, ids: Tensor, mask: Tensor, wanted: set[Hookpoint]) -> dict[Hookpoint, Tensor]:
        """One forward pass with a hook at each hookpoint."""
        found: dict[Hookpoint, Tensor] = {}

        def keep(point: Hookpoint, value: Any) -> None:
            rows = activations_of(point, value, ids.shape)
            found.setdefault(point, rows.masked_fill(~mask[:, :, None], 0))
            if len(found) == len(wanted):
                raise _Enough

        handles: list[Any] = []
        try:
            handles += [_attach(self.model, point, keep) for point in wanted]
            with torch.no_grad():
                self.model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
        except _Enough:
            return found
        finally:
            for handle in handles:
                handle.remove()
        missed = sorted(str(point) for point in wanted - found.keys())
        raise SubjectError(
            f"hookpoint is never reached when text is read: {missed[0]}",
            "choose a decoder layer or a module in one",
        )


def _attach(model: nn.Module, point: Hookpoint, keep: Callable[[Hookpoint, Any], None]) -> Any:
    """Hang a hook on a hookpoint; returns the handle that removes it."""
    module = model.get_submodule(point.module)
    if point.side == "output":
        return module.register_forward_hook(lambda _module, _args, output: keep(point, output))

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value = args[0] if args else kwargs.get("hidden_states")
        keep(point, normalized(module, value) if point.side == "normalized" else value)

    return module.register_forward_pre_hook(before, with_kwargs=True)


def normalized(norm: nn.Module, x: Any) -> Tensor:
    """What a norm makes of its input before its gain and bias, in float32 inside, as norms do.

    No module gives that tensor, and transcoders are trained on it: TransformerLens'
    `hook_normalized`.

    Raises:
        SubjectError: the module is no norm.
    """
    if isinstance(norm, nn.LayerNorm) and isinstance(x, Tensor):
        return nn.functional.layer_norm(x.float(), norm.normalized_shape, eps=norm.eps).to(x.dtype)
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if (
        not isinstance(eps, float)
        or not isinstance(x, Tensor)
        or "RMSNorm" not in type(norm).__name__
    ):
        raise SubjectError(f"module has no gain to leave out: {type(norm).__name__}")
    rows = x.float()
    return (rows * (rows.pow(2).mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype)


def activations_of(point: Hookpoint, value: Any, shape: Sequence[int]) -> Tensor:
    """(n, t, d) from what a module takes or gives: a tensor, or a tuple that begins with one."""
    rows = value[0] if isinstance(value, (tuple, list)) and value else value
    if isinstance(rows, Tensor) and rows.is_floating_point():
        if rows.ndim == 2 and rows.shape[0] == shape[0] * shape[1]:
            return rows.reshape(*shape, -1)
        if rows.ndim == 3 and rows.shape[:2] == tuple(shape):
            return rows
    raise SubjectError(
        f"hookpoint has no activation for each token: {point}",
        "choose a decoder layer or a module in one",
    )


def load_subject(path: str | Path, *, device: str = "auto", dtype: str = "auto") -> Subject:
    """Load a language model from a folder in Hub layout or a GGUF file. Never uses the network.

    Args:
        path: the folder, or the GGUF file; its weights are dequantised.
        device: `auto` = cuda, mps or cpu, the first there is; or a torch device.
        dtype: `auto` = bfloat16 where the machine is fast at it, else float32; or a name.

    Raises:
        SubjectError: there is no model, or none that transformers can read.
    """
    place = locate(path)
    chosen = _device(device)
    number = _dtype(dtype, chosen)
    model = _load(place, number)
    model.requires_grad_(False).eval().to(chosen)
    config = model.config.get_text_config()
    digest = _hash(place)
    return Subject(
        name=place.path.name,
        path=place.path,
        hash=digest,
        architecture=type(model).__name__,
        d_model=config.hidden_size,
        n_layers=config.num_hidden_layers,
        n_vocab=model.get_input_embeddings().weight.shape[0],
        max_length=getattr(config, "max_position_embeddings", None) or 2**31 - 1,
        dtype=number,
        device=chosen,
        modules=_modules(model, config.num_hidden_layers),
        model=model,
        provenance={
            "path": str(place.path),
            "hash": digest,
            "architecture": type(model).__name__,
            "dtype": str(number).removeprefix("torch."),
            "device": str(chosen),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "processor": platform.machine(),
        },
    )


def _load(place: LocalModel, dtype: torch.dtype) -> Any:
    """The transformers model with all its weights, or an error that says what is wrong."""
    try:
        with quiet():
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                str(place.folder), dtype=dtype, output_loading_info=True, **place.options
            )
    # What a broken file raises depends on the format and on where it is cut.
    except Exception as error:
        raise SubjectError(
            f"model cannot be read: {one_line(place.path)}: {one_line(error)[:200]}",
            "is the download complete, and does transformers know the architecture?",
        ) from error
    model, report = loaded
    broken = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if broken:
        raise SubjectError(
            f"model lacks {len(broken)} weights, first {one_line(broken[0])}: "
            f"{one_line(place.path)}",
            "is the download complete?",
        )
    return model


def _modules(model: Any, n_layers: int) -> hookpoints.Modules:
    """What the modules of a loaded model are called."""
    base = model.base_model_prefix
    names = [name for name, _ in model.named_modules() if name == base or name.startswith(base)]
    lists = [
        name
        for name in names
        if isinstance(part := model.get_submodule(name), nn.ModuleList)
        and len(part) == n_layers
        and "vision" not in name
    ]
    if not lists:
        raise SubjectError(f"architecture has no decoder layers: {type(model).__name__}")
    prefixes = tuple(dict.fromkeys((base, lists[0].rpartition(".")[0])))
    return hookpoints.Modules(
        names=frozenset(name for name in names if name not in lists),
        prefixes=prefixes,
        layers=lists[0],
        model_type=model.config.model_type,
    )


def _hash(place: LocalModel) -> str:
    """SHA-256 of a GGUF file, or over the names and hashes of a folder's config and weights."""
    if place.gguf_file:
        return hash_file(place.path)
    weights = sorted(place.folder.glob("*.safetensors")) or sorted(place.folder.glob("*.bin"))
    digest = hashlib.sha256()
    for file in (place.folder / "config.json", *weights):
        digest.update(f"{file.name} {hash_file(file)}\n".encode())
    return "sha256:" + digest.hexdigest()


def _device(name: str) -> torch.device:
    """The device a name means."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SubjectError(
            f"no such device: {one_line(name)}", "use auto, cpu, cuda or mps"
        ) from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format a name means."""
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise SubjectError(f"no such dtype: {one_line(name)}", f"use auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("amx_tile"))
    return False
