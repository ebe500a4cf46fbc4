"""Files as the hubs of other projects have them, read by sae-lens's converters, for `formats_peer`.

A case writes random tensors under the names, sides and folders of a hub, below a folder that stands
for it, and sae-lens's converter finds them there in place of a download. Widths that the converter
takes from a list of models are overridden; nothing else of it is changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from formats_cases import D_IN, D_OUT, N_LATENTS, Case, K, Reader, Write, dense, write_dictionary
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

LENGTH = 3.0
"""Mean length of an activation vector in the configs of Llama Scope."""

SKIPPED = (
    (
        "sae-lens",
        "converter of sparsify",
        "it subtracts b_dec only where normalize_decoder is false, and transposes W_dec; sparsify "
        "does neither, and its own loader is compared",
    ),
    (
        "sae-lens",
        "converter of dictionary_learning, AutoEncoder",
        "it keeps the decoder norms, which dictionary_learning's own loader folds into activations",
    ),
    (
        "sae-lens",
        "converter of dictionary_learning, AutoEncoderNew",
        "it does not read decoder.bias",
    ),
    (
        "sae-lens",
        "Gemma Scope 1, embedding: reconstruction",
        "the scale of embeddings is folded into the matrices and not into b_dec",
    ),
    (
        "sae-lens",
        "Llama Scope with sparsity_include_decoder_norm",
        "the key is not read: decoder norms are left in the activations and thresholds",
    ),
    (
        "sae-lens",
        "cross-layer transcoders: reconstruction",
        "it adds up the decoders into all layers, and we read the one into its own",
    ),
    (
        "sae-lens",
        "finetuning scaling_factor that is not 1",
        "load_from_disk keeps the tensor under a name that no class of 6.54 has, and fails",
    ),
    (
        "sae-lens",
        "center_writing_weights",
        "the mean is removed from the subject's weights, not by the coder",
    ),
)
"""(peer, case, why it is no oracle)."""


def draw(seed: int = 0, d_out: int = D_IN) -> dict[str, Tensor]:
    """Random tensors under sae-lens's names."""
    random = torch.Generator().manual_seed(seed)
    return {
        "W_enc": torch.randn(D_IN, N_LATENTS, generator=random) / D_IN**0.5,
        "b_enc": torch.randn(N_LATENTS, generator=random) / 3,
        "W_dec": torch.randn(N_LATENTS, d_out, generator=random) / d_out**0.5,
        "b_dec": torch.randn(d_out, generator=random) / 3,
        "threshold": 0.2 + torch.rand(N_LATENTS, generator=random),
    }


def converted(
    root: Path, loader: str, repo: str, place: str, change: Mapping[str, Any], scale: float = 1.0
) -> Any:
    """The coder that a converter makes of files below `root`.

    Args:
        root: stands for the hub; a repository is a folder below it.
        loader: name of the converter.
        repo: `owner/name`.
        place: folder or file in it, as the converter wants it.
        change: keys that replace those of its config.
        scale: of the input, which sae-lens takes from its registry and folds.
    """
    from huggingface_hub.errors import EntryNotFoundError
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def find(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        file = root / repo_id / subfolder / filename
        if not file.is_file():
            raise EntryNotFoundError(str(file))
        return str(file)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        with safe_open(root / repo_id / filename, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118

    loaders.hf_hub_download = find
    loaders.get_safetensors_tensor_shapes = shapes
    read = loaders.NAMED_PRETRAINED_SAE_LOADERS[loader]
    config, tensors, _ = read(repo, place, "cpu", False, dict(change))
    made: Any = SAE.from_dict(loaders.handle_config_defaulting(config))
    made.process_state_dict_for_loading(tensors)
    made.load_state_dict(tensors)
    if scale != 1:
        made.fold_activation_norm_scaling_factor(scale)
    return made


SIZE = {"d_in": D_IN, "d_sae": N_LATENTS}


def _gemma_1(repo: str, place: str, loader: str = "gemma_2", **change: Any) -> Write:
    def write(root: Path) -> tuple[Path, Reader]:
        folder = root / "google" / repo / place
        folder.mkdir(parents=True)
        np.savez(folder / "params.npz", **{name: each.numpy() for name, each in draw().items()})
        made = converted(root, loader, f"google/{repo}", place, SIZE | change)
        if "embedding" in place:
            return folder, lambda x: (made.encode(x), None)
        return folder, dense(made)

    return write


def _gemma_2(kind: str, config: Mapping[str, Any] | None, affine: bool = False) -> Write:
    """`config` = None: there is none, and all is told by the path."""

    def write(root: Path) -> tuple[Path, Reader]:
        transcoder = kind == "transcoder"
        repo = "google/gemma-scope-2-1b-pt"
        place = f"{kind}/layer_5_width_16k_l0_medium{'_affine' * affine}"
        folder = root / repo / place
        folder.mkdir(parents=True)
        tensors = draw(d_out=D_OUT if transcoder else D_IN)
        held = {name.lower(): tensor for name, tensor in tensors.items()}
        if affine:
            random = torch.Generator().manual_seed(9)
            held["affine_skip_connection"] = torch.randn(D_IN, D_OUT, generator=random) / 7
        save_file(held, folder / "params.safetensors")
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        return folder, dense(converted(root, "gemma_3", repo, place, {}))

    return write


def _linear(repo: str, file: str, loader: str, encoder: str, decoder: str) -> Write:
    def write(root: Path) -> tuple[Path, Reader]:
        (root / repo).mkdir(parents=True)
        w = draw()
        held = {
            f"{encoder}.weight": w["W_enc"].T.contiguous(),
            f"{encoder}.bias": w["b_enc"],
            f"{decoder}.weight": w["W_dec"].T.contiguous(),
            f"{decoder}.bias": w["b_dec"],
        }
        torch.save({name: tensor.bfloat16() for name, tensor in held.items()}, root / repo / file)
        made = converted(root, loader, repo, file, SIZE | {"dtype": "float32"})
        return root / repo / file, dense(made)

    return write


def _qwen(root: Path) -> tuple[Path, Reader]:
    repo = f"Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}"
    (root / repo).mkdir(parents=True)
    w = draw()
    del w["threshold"]
    turned = {name: each.T.contiguous() if each.ndim == 2 else each for name, each in w.items()}
    torch.save(turned, root / repo / "layer3.sae.pt")
    made = converted(root, "qwen_scope", repo, "layer3.sae.pt", SIZE)
    return root / repo / "layer3.sae.pt", dense(made)


def _llama(first: bool) -> Write:
    """The first generation, or R1-Distill's."""

    def write(root: Path) -> tuple[Path, Reader]:
        repo = "fnlp/Llama3_1-8B-Base-LXR-8x" if first else "fnlp/Llama-Scope-R1-Distill"
        place = "Llama3_1-8B-Base-L5R-8x" if first else "800M/L5R"
        file = root / repo / place / ("checkpoints/final" if first else "sae_weights")
        file = file.with_suffix(".safetensors")
        file.parent.mkdir(parents=True)
        w = draw()
        held = {
            "encoder.weight": w["W_enc"].T.contiguous(),
            "encoder.bias": w["b_enc"],
            "decoder.weight": w["W_dec"].T.contiguous(),
            "decoder.bias": w["b_dec"],
        }
        if not first:
            held["log_jumprelu_threshold"] = w["threshold"].log()
        save_file(held, file)
        config = {
            "d_model": D_IN,
            "d_sae": N_LATENTS,
            "expansion_factor": 4,
            "hook_point_in": "blocks.5.hook_resid_post",
            "hook_point_out": "blocks.5.hook_resid_post",
            "act_fn": "topk" if first else "jumprelu",
            "top_k": K,
            "jump_relu_threshold": 0.4,
            "norm_activation": "dataset-wise",
            "dataset_average_activation_norm": {"in": LENGTH, "out": LENGTH},
            "sparsity_include_decoder_norm": False,
        }
        name = "hyperparams.json" if first else "config.json"
        (root / repo / place / name).write_text(json.dumps(config))
        loader = "llama_scope" if first else "llama_scope_r1_distill"
        change = {"dtype": "float32", "d_sae": N_LATENTS}
        scale = D_IN**0.5 / LENGTH
        return root / repo / place, dense(converted(root, loader, repo, place, change, scale))

    return write


def _tracer(root: Path) -> tuple[Path, Reader]:
    repo = "mwhanna/qwen3-0.6b-transcoders-lowl0"
    (root / repo).mkdir(parents=True)
    w = draw()
    w["W_enc"] = w["W_enc"].T.contiguous()
    del w["threshold"]
    save_file(w, root / repo / "layer_3.safetensors")
    hooks = "feature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n"
    kind = "model_name: Qwen/Qwen3-0.6B\nmodel_kind: transcoder_set\n"
    (root / repo / "config.yaml").write_text(kind + hooks)
    sizes = {"d_model": D_IN, "d_feature": N_LATENTS, "batch_size": 8}
    (root / repo / "wandb-config.yaml").write_text(
        "\n".join(f"{key}:\n  value: {value}" for key, value in sizes.items())
    )
    made = converted(root, "mwhanna_transcoder", repo, "layer_3.safetensors", {})
    return root / repo / "layer_3.safetensors", dense(made)


def _cross_layer(root: Path) -> tuple[Path, Reader]:
    repo = "mntss/clt-llama-3.2-1b-524k"
    (root / repo).mkdir(parents=True)
    w = draw()
    encoder = {"W_enc_1": w["W_enc"].T.contiguous(), "b_enc_1": w["b_enc"], "b_dec_1": w["b_dec"]}
    save_file(encoder, root / repo / "W_enc_1.safetensors")
    decoders = torch.stack([w["W_dec"], -w["W_dec"], w["W_dec"] / 2], 1)
    save_file({"W_dec_1": decoders}, root / repo / "W_dec_1.safetensors")
    hooks = "feature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"
    kind = "model_name: meta-llama/Llama-3.2-1B\nmodel_kind: cross_layer_transcoder\n"
    (root / repo / "config.yaml").write_text(kind + hooks)
    made = converted(root, "mntss_clt_layer_transcoder", repo, "1", {})
    return root / repo / "W_enc_1.safetensors", lambda x: (made.encode(x), None)


def _dictionary(name: str) -> Write:
    def write(root: Path) -> tuple[Path, Reader]:
        folder = root / "owner/name/trainer_0"
        folder.mkdir(parents=True)
        write_dictionary(folder, name)
        made = converted(root, "dictionary_learning_1", "owner/name", "trainer_0", {})
        return folder, dense(made)

    return write


def hub_cases() -> Iterator[Case]:
    """Every converter of sae-lens whose format we read."""
    layer = "layer_5/width_16k/average_l0_50"
    embedding = "embedding/width_4k/average_l0_6"
    jump = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt"}
    at = "model.layers.5"
    sites = {
        "hf_hook_point_in": f"{at}.pre_feedforward_layernorm.output",
        "hf_hook_point_out": f"{at}.post_feedforward_layernorm.output",
    }
    cases: dict[str, Write] = {
        "Gemma Scope 1, residual": _gemma_1("gemma-scope-2b-pt-res", layer),
        "Gemma Scope 1, MLP": _gemma_1("gemma-scope-9b-pt-mlp", layer),
        "Gemma Scope 1, embedding": _gemma_1("gemma-scope-2b-pt-res", embedding),
        "Gemma Scope 1, transcoder": _gemma_1(
            "gemma-scope-2b-pt-transcoders", layer, "gemma_2_transcoder", d_out=D_IN
        ),
        "Gemma Scope 2, residual": _gemma_2("resid_post", jump | {"hf_hook_point_in": at}),
        "Gemma Scope 2, no config": _gemma_2("mlp_out", None),
        "Gemma Scope 2, transcoder": _gemma_2("transcoder", jump | sites),
        "Gemma Scope 2, affine transcoder": _gemma_2(
            "transcoder", jump | sites | {"affine_connection": True}, affine=True
        ),
        "Goodfire": _linear(
            "Goodfire/Llama-3.1-8B-Instruct-SAE-l19",
            "Llama-3.1-8B-Instruct-SAE-l19.pth",
            "goodfire",
            "encoder_linear",
            "decoder_linear",
        ),
        "qresearch": _linear(
            "qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19",
            "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt",
            "deepseek_r1",
            "encoder",
            "decoder",
        ),
        "Qwen Scope": _qwen,
        "Llama Scope R1-Distill": _llama(first=False),
        "circuit-tracer, transcoder": _tracer,
        "circuit-tracer, one layer of a cross-layer transcoder": _cross_layer,
        **{
            f"dictionary_learning, {name}": _dictionary(name)
            for name in (
                "AutoEncoderTopK",
                "BatchTopKSAE",
                "MatryoshkaBatchTopKSAE",
                "GatedAutoEncoder",
                "JumpReluAutoEncoder",
            )
        },
    }
    for name, write in cases.items():
        yield Case("sae-lens", f"converter: {name}", write)
    yield Case("sae-lens", "converter: Llama Scope", _llama(first=True), D_IN**0.5 / LENGTH)
