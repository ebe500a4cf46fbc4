"""Files that sae-lens, sparsify and dictionary_learning write themselves, for `formats_peer.py`.

A case writes a random coder into a folder with the peer's own code, loads it with the peer's own
loader and says how the peer reads it: x (n, d) to activations and reconstructions. Sizes are odd
on purpose: no two sides are equal unless a format needs it.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

D_IN, D_OUT, N_LATENTS, K = 48, 40, 210, 7
FACTOR = 2.5
"""A scale of the input that is not yet folded into the weights."""

Reader = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""x (n, d) to activations (n, n_latents) and reconstructions (n, d_out), None = not comparable."""


Write = Callable[[Path], tuple[Path, Reader]]
"""Writes below a folder; gives the path of the coder, and the peer's way to read it."""


class Case(NamedTuple):
    """One file, and the peer that wrote it."""

    peer: str
    """Its package."""
    name: str
    """What is special about the file."""
    write: Write
    """Writes the file."""
    scale: float = 1.0
    """The peer's activations are this many times ours, as both document."""


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Fill every floating parameter and buffer: matrices, biases, thresholds above 0."""
    random = torch.Generator().manual_seed(seed)
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()]):
        if not tensor.is_floating_point():
            continue
        drawn = torch.randn(tensor.shape, generator=random, dtype=torch.float64)
        if "threshold" in name:
            drawn = 0.2 + drawn.abs() / 2
        elif tensor.ndim == 2:
            drawn /= tensor.shape[1 if tensor.shape[1] < tensor.shape[0] else 0] ** 0.5
        tensor.data.copy_(drawn / (3 if tensor.ndim == 1 and "threshold" not in name else 1))


def dense(module: Any) -> Reader:
    """A peer's coder whose `encode` is dense and whose call reconstructs."""
    return lambda x: (module.encode(x), module(x))


# sae-lens


def _config(architecture: str, **others: Any) -> dict[str, Any]:
    """What every config of sae-lens 6 holds."""
    metadata = {"hook_name": "blocks.1.hook_resid_post", "sae_lens_version": "6.54.12"}
    config = {
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": N_LATENTS,
        "dtype": "float32",
        "device": "cpu",
        "metadata": metadata,
    }
    if "transcoder" in architecture:
        metadata |= {"hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
        config |= {"d_out": D_OUT, "apply_b_dec_to_input": False}
    return config | others


def _saved(architecture: str, **others: Any) -> Write:
    """A coder for inference, through `save_model` and `load_from_disk`."""

    def write(folder: Path) -> tuple[Path, Reader]:
        from sae_lens import SAE

        made: Any = SAE.from_dict(_config(architecture, **others))
        randomise(made)
        made.save_model(folder)
        return folder, dense(SAE.load_from_disk(folder, dtype="float32"))

    return write


def _trained(architecture: str, **others: Any) -> Write:
    """A coder in training, through `save_inference_model`."""

    def write(folder: Path) -> tuple[Path, Reader]:
        from sae_lens import SAE, TrainingSAE

        made: Any = TrainingSAE.from_dict(_config(architecture, **others))
        randomise(made)
        made.save_inference_model(folder)
        return folder, dense(SAE.load_from_disk(folder))

    return write


def _checkpoint(architecture: str, **others: Any) -> Write:
    """A checkpoint whose scale stands beside it; the peer folds it when training ends."""

    def write(folder: Path) -> tuple[Path, Reader]:
        from sae_lens import TrainingSAE

        normal = {"normalize_activations": "expected_average_only_in"}
        made: Any = TrainingSAE.from_dict(_config(architecture, **normal, **others))
        randomise(made)
        made.save_model(folder)
        (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": FACTOR}))
        made.fold_activation_norm_scaling_factor(FACTOR)
        return folder, dense(made)

    return write


def _flat(change: dict[str, Any], **tensors: Tensor) -> Write:
    """The flat config of versions before 6, with tensors beside the usual."""

    def write(folder: Path) -> tuple[Path, Reader]:
        from sae_lens import SAE
        from safetensors.torch import load_file, save_file

        _saved("standard")(folder)
        file = folder / "sae_weights.safetensors"
        save_file(load_file(file) | tensors, file)
        config = {"d_in": D_IN, "d_sae": N_LATENTS, "dtype": "float32", **change}
        (folder / "cfg.json").write_text(json.dumps(config))
        return folder, dense(SAE.load_from_disk(folder))

    return write


def _heads(folder: Path) -> tuple[Path, Reader]:
    """The peer takes heads apart, we take the flat vector that transformers has."""
    from sae_lens import SAE

    metadata = {"hook_name": "blocks.1.attn.hook_z", "sae_lens_version": "6.54.12"}
    made: Any = SAE.from_dict(_config("standard", metadata=metadata, reshape_activations="hook_z"))
    randomise(made)
    made.save_model(folder)

    def read(x: Tensor) -> tuple[Tensor, Tensor]:
        heads = x.unflatten(-1, (4, D_IN // 4))
        loaded = SAE.load_from_disk(folder)
        return loaded.encode(heads), loaded(heads).flatten(-2)

    return folder, read


def saelens_cases() -> Iterator[Case]:
    """Every architecture, and what changes its reading."""

    def case(name: str, write: Write) -> Case:
        return Case("sae-lens", name, write)

    for architecture in ("standard", "topk", "jumprelu", "gated"):
        k = {"k": K} if architecture == "topk" else {}
        yield case(architecture, _saved(architecture, **k))
        yield case(
            f"{architecture}, b_dec not subtracted",
            _saved(architecture, apply_b_dec_to_input=False, **k),
        )
        for normal in ("layer_norm", "constant_norm_rescale", "expected_average_only_in"):
            yield case(
                f"{architecture}, {normal}",
                _saved(architecture, normalize_activations=normal, **k),
            )
    whitened = {"normalize_activations": "covariance_whitening"}
    yield case("standard, covariance_whitening", _saved("standard", **whitened))
    yield case("standard, bfloat16 file", _saved("standard", dtype="bfloat16"))
    yield case("standard, hook_z", _heads)
    yield case("topk, rescaled", _saved("topk", k=K, rescale_acts_by_decoder_norm=True))
    for architecture in ("topk", "batchtopk", "matryoshka_batchtopk"):
        widths = {"matryoshka_widths": [70, N_LATENTS]} if "matryoshka" in architecture else {}
        for rescaled in (False, True):
            yield case(
                f"{architecture} after training{', rescaled' * rescaled}",
                _trained(architecture, k=K, rescale_acts_by_decoder_norm=rescaled, **widths),
            )
    for architecture in (
        "transcoder",
        "skip_transcoder",
        "jumprelu_transcoder",
        "jumprelu_skip_transcoder",
    ):
        yield case(architecture, _saved(architecture))
    yield case("transcoder, layer_norm", _saved("transcoder", normalize_activations="layer_norm"))
    yield case(
        "skip_transcoder, constant_norm_rescale",
        _saved("skip_transcoder", normalize_activations="constant_norm_rescale"),
    )
    for architecture, options in (
        ("standard", {}),
        ("gated", {}),
        ("topk", {"k": K, "rescale_acts_by_decoder_norm": False}),
        ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
    ):
        yield case(
            f"checkpoint with a scale, {architecture}"
            f"{', rescaled' * options.get('rescale_acts_by_decoder_norm', False)}",
            _checkpoint(architecture, **options),
        )
    old = {"hook_point": "blocks.1.hook_resid_pre", "architecture": "standard"}
    yield case("flat config", _flat(old))
    yield case("flat config, ones to scale by", _flat(old, scaling_factor=torch.ones(N_LATENTS)))
    top = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    yield case("flat config, standard with topk", _flat(old | top))
    yield case(
        "flat config, true for a normalisation", _flat(old | {"normalize_activations": True})
    )
    for architecture in ("abstopk", "matching_pursuit"):
        k = {"k": K} if architecture == "abstopk" else {}
        yield case(architecture, _saved(architecture, **k))


# sparsify


def _sparsify(dtype: torch.dtype = torch.float32, **options: Any) -> Write:
    """A coder through `save_to_disk` and `load_from_disk`."""

    def write(folder: Path) -> tuple[Path, Reader]:
        from sparsify import SparseCoder, SparseCoderConfig

        made = SparseCoder(D_IN, SparseCoderConfig(k=K, **options), dtype=dtype)
        randomise(made)
        place = folder / "layers.1.mlp"
        made.save_to_disk(place)
        loaded = SparseCoder.load_from_disk(place).float()

        def read(x: Tensor) -> tuple[Tensor, Tensor]:
            found = loaded.encode(x)
            acts = torch.zeros(len(x), loaded.num_latents)
            return acts.scatter_(1, found.top_indices, found.top_acts), loaded(x).sae_out

        return place, read

    return write


def sparsify_cases() -> Iterator[Case]:
    """Both activations, transcoders, skips, formats of numbers."""
    size = {"num_latents": N_LATENTS}
    for name, options in {
        "topk": {},
        "topk, by expansion factor": {"num_latents": 0, "expansion_factor": 4},
        "groupmax": {"activation": "groupmax"},
        "transcoder": {"transcode": True},
        "transcoder, groupmax": {"transcode": True, "activation": "groupmax"},
        "transcoder with skip": {"transcode": True, "skip_connection": True},
        "skip without transcode": {"skip_connection": True},
    }.items():
        yield Case("eai-sparsify", name, _sparsify(**(size | options)))
    for dtype in (torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        yield Case("eai-sparsify", f"topk, {name} file", _sparsify(dtype, **size))


# dictionary_learning


def write_dictionary(folder: Path, name: str, threshold: float | None = None) -> None:
    """A coder as trainSAE writes it."""
    # Imported for training alone, where it would be needed.
    stub: Any = sys.modules.setdefault("nnsight", types.ModuleType("nnsight"))
    stub.LanguageModel = object
    from dictionary_learning import utils

    groups = [N_LATENTS // 3, N_LATENTS - N_LATENTS // 3]
    extra = {"AutoEncoderTopK": [K], "BatchTopKSAE": [K], "MatryoshkaBatchTopKSAE": [K, groups]}
    made = getattr(utils, name)(D_IN, N_LATENTS, *extra.get(name, []))
    randomise(made)
    if threshold is not None:
        made.threshold.fill_(threshold)
    torch.save(made.state_dict(), folder / "ae.pt")
    trainer = {
        "dict_class": name,
        "activation_dim": D_IN,
        "dict_size": N_LATENTS,
        "k": K,
        "layer": 1,
        "lm_name": "EleutherAI/pythia-70m-deduped",
        "submodule_name": "resid_post_layer_1",
    }
    config = {"trainer": trainer, "buffer": {"io": "out", "ctx_len": 128}}
    (folder / "config.json").write_text(json.dumps(config))


def _dictionary(name: str, threshold: float | None = None) -> Write:
    """A coder through `load_dictionary`."""

    def write(folder: Path) -> tuple[Path, Reader]:
        write_dictionary(folder, name, threshold)
        from dictionary_learning import utils

        return folder, dense(utils.load_dictionary(str(folder), "cpu")[0])

    return write


def dictionary_cases() -> Iterator[Case]:
    """All seven classes; a threshold of -1 was never set."""
    for name in (
        "AutoEncoder",
        "AutoEncoderNew",
        "AutoEncoderTopK",
        "BatchTopKSAE",
        "MatryoshkaBatchTopKSAE",
        "GatedAutoEncoder",
        "JumpReluAutoEncoder",
    ):
        yield Case("dictionary-learning", name, _dictionary(name))
    for name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        yield Case("dictionary-learning", f"{name}, threshold never set", _dictionary(name, -1.0))
