"""Tiny random subjects and sparse coders, written in the layouts that real ones have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from lite_interp.local_model import quiet

Kind = Literal["llama", "gpt2", "neox"]

N_VOCAB = 262
"""Four special tokens, 256 bytes, and two merges (`th`, `the`)."""
BOS, EOS, PAD, UNKNOWN = range(4)
SPECIAL = ["<s>", "</s>", "<pad>", "<unk>"]
D_MODEL = 8


def make_tokenizer() -> Tokenizer:
    """A byte-level tokenizer of 262 tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *letters, "th", "the"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("t", "h"), ("th", "e")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def write_tokenizer(folder: Path) -> Path:
    """Write tokenizer.json and tokenizer_config.json."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    fast.save_pretrained(folder)
    return folder


def make_model(kind: Kind = "llama", n_layers: int = 3, d_model: int = D_MODEL, seed: int = 0):
    """A random causal language model; its weights are large enough for layers to differ."""
    common: dict[str, Any] = {"vocab_size": N_VOCAB, "bos_token_id": BOS, "eos_token_id": EOS}
    wide = {
        "hidden_size": d_model,
        "intermediate_size": 2 * d_model,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(seed)
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**common, **wide, num_key_value_heads=1)).eval()
    if kind == "neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**common, **wide)).eval()
    return GPT2LMHeadModel(
        GPT2Config(
            **common,
            n_embd=d_model,
            n_layer=n_layers,
            n_head=2,
            n_positions=64,
            initializer_range=0.3,
        )
    ).eval()


def write_subject(folder: Path, kind: Kind = "llama", n_layers: int = 3, seed: int = 0) -> Path:
    """Write a random model of width 8 and its tokenizer, as on the Hub; returns the folder."""
    with quiet():
        make_model(kind, n_layers, seed=seed).save_pretrained(folder)
        return write_tokenizer(folder)


def write_gguf(path: Path, n_layers: int = 3, seed: int = 0) -> Path:
    """Write the llama that `write_subject` writes, as a GGUF file of float32 tensors."""
    model = make_model("llama", n_layers, seed=seed)
    config: Any = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(N_VOCAB)
    tokens = sorted(make_tokenizer().get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_types([3 if token in SPECIAL else 1 for token, _ in tokens])
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, n_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if n_heads := heads.get(name.split(".")[-2]):
            # llama.cpp pairs neighbours in its rotary embedding, transformers pairs halves.
            halves = array.reshape(n_heads, 2, -1, array.shape[1])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        found = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(f"{found}", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_weights(d_in: int, n_latents: int, seed: int, d_out: int | None = None):
    """float32 `W_enc` (d_in, m), `b_enc`, `W_dec` (m, d_out), `b_dec`, all different."""
    draw = np.random.default_rng(seed)
    d_out = d_out or d_in
    shapes = {
        "W_enc": (d_in, n_latents),
        "b_enc": (n_latents,),
        "W_dec": (n_latents, d_out),
        "b_dec": (d_out,),
    }
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def trained_like(d_in: int, n_latents: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights that reconstruct any input: +u and -u for each of d_in orthogonal directions.

    With relu the error is 0; with topk it is the weakest of the d_in coordinates. Latents from
    2 * d_in on never fire.
    """
    if n_latents < 2 * d_in:
        raise ValueError("n_latents must be at least 2 * d_in")
    directions = np.linalg.qr(np.random.default_rng(seed).normal(size=(d_in, d_in)))[0]
    pairs = np.zeros((n_latents, d_in), dtype=np.float32)
    pairs[: 2 * d_in] = np.concatenate([directions, -directions])
    b_enc = np.zeros(n_latents, dtype=np.float32)
    b_enc[2 * d_in :] = -1
    return {
        "W_enc": pairs.T.copy(),
        "b_enc": b_enc,
        "W_dec": pairs,
        "b_dec": np.zeros(d_in, dtype=np.float32),
    }


def write_sparsify(
    folder: Path,
    hookpoint: str,
    d_in: int = D_MODEL,
    n_latents: int = 32,
    k: int = 4,
    seed: int = 0,
    **options: Any,
) -> Path:
    """Write a coder in sparsify's layout; returns `<folder>/<hookpoint>`.

    Options: `weights` = arrays in place of random ones; `W_skip`; other keys go into cfg.json.
    """
    weights = options.pop("weights", None) or random_weights(d_in, n_latents, seed)
    skip = options.pop("W_skip", None)
    below = folder / hookpoint
    below.mkdir(parents=True, exist_ok=True)
    tensors = {
        "encoder.weight": weights["W_enc"].T,
        "encoder.bias": weights["b_enc"],
        "W_dec": weights["W_dec"],
        "b_dec": weights["b_dec"],
    } | ({} if skip is None else {"W_skip": skip})
    _save(below / "sae.safetensors", tensors)
    config = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": n_latents,
        "k": k,
        "multi_topk": False,
        "skip_connection": skip is not None,
        "transcode": False,
        "d_in": d_in,
    }
    _write_json(below / "cfg.json", config | options)
    return below


def write_trained_like(
    folder: Path, hookpoint: str, d_in: int = D_MODEL, k: int = 4, n_latents: int = 4 * D_MODEL
) -> Path:
    """Write a sparsify coder that passes the check of its fit."""
    weights = trained_like(d_in, n_latents)
    return write_sparsify(folder, hookpoint, d_in, n_latents, k, weights=weights)


def write_saelens(
    folder: Path,
    architecture: str = "standard",
    tensors: dict[str, np.ndarray] | None = None,
    flat: bool = False,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Path:
    """Write a coder in SAELens' layout; `flat` = as before version 6; returns the folder."""
    tensors = tensors or random_weights(D_MODEL, 32, 0)
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / "sae_weights.safetensors", tensors, dtype)
    shape = {"d_in": tensors["W_enc"].shape[0], "d_sae": tensors["W_enc"].shape[1]}
    place = {"hook_name": "blocks.1.hook_resid_post", "model_name": "tiny", "prepend_bos": True}
    cfg: dict[str, Any] = {"architecture": architecture, "dtype": "float32", **shape}
    if flat:
        cfg |= place
    else:
        cfg |= {"apply_b_dec_to_input": True, "normalize_activations": "none"}
        cfg["metadata"] = place | {"sae_lens_version": "6.54.12"} | config.pop("metadata", {})
    _write_json(folder / "cfg.json", {k: v for k, v in (cfg | config).items() if v is not None})
    return folder


def _save(path: Path, tensors: dict[str, np.ndarray], dtype: torch.dtype = torch.float32) -> None:
    """Write arrays as a safetensors file."""
    save_file(
        {name: torch.tensor(array).to(dtype).contiguous() for name, array in tensors.items()}, path
    )


def _write_json(path: Path, value: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
