"""Tiny random embedding models in GGUF, and the same arithmetic in numpy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter, PoolingType, TokenType
from tiny_gguf import Tensors, bpe, transformer

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
PAD, UNK, CLS, SEP = range(4)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789[]().,!?-"
WORDS = ("the", "cat", "sep", "cls", "rain", "ing")
VOCABULARY = [*SPECIALS, *("▁" + word for word in (*LETTERS, *WORDS)), *LETTERS, *WORDS]
"""Word pieces as llama.cpp wants them: `▁the` begins a word, `the` goes on with one."""
N_LAYERS, WIDTH, HEADS, INNER, EPSILON = 2, 32, 2, 64, 1e-12


def write(
    path: Path, pooling: PoolingType | int | None = PoolingType.MEAN, n_ctx=64, causal_key=True
):
    """A random BERT; returns its path."""
    writer = GGUFWriter(path, "bert")
    writer.add_name("tiny bert")
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(N_LAYERS)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(EPSILON)
    if causal_key:
        writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_uint32("bert.pooling_type", int(pooling))
    _vocabulary(writer)
    _weights(Tensors(writer, 1), n_ctx)
    return finish(writer, path)


def write_decoder(path: Path, pooling: PoolingType | None) -> Path:
    """A random llama with byte-level BPE: an embedding model only if it names a pooling."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    n_vocab = bpe(writer, None)
    writer.add_add_eos_token(True)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    tensors = Tensors(writer, 0)
    tensors.normal("token_embd.weight", n_vocab, 32, scale=1.0)
    tensors.ones("output_norm.weight", 32)
    transformer(writer, tensors, "llama", 2, 32, n_vocab)
    return finish(writer, path)


def finish(writer: GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary(writer: GGUFWriter) -> None:
    normal = [TokenType.NORMAL] * (len(VOCABULARY) - len(SPECIALS))
    kinds = [TokenType.CONTROL, TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([*kinds, *normal])
    writer.add_token_type_count(2)
    writer.add_bos_token_id(CLS)
    writer.add_sep_token_id(SEP)
    writer.add_unk_token_id(UNK)
    writer.add_pad_token_id(PAD)


def _weights(tensors: Tensors, n_ctx: int) -> None:
    def norm(name: str) -> None:
        values = 1 + 0.1 * tensors.random.standard_normal(WIDTH)
        tensors.writer.add_tensor(name + ".weight", values.astype(np.float32))
        tensors.normal(name + ".bias", WIDTH)

    def linear(name: str, n_out: int, n_in: int) -> None:
        tensors.normal(name + ".weight", n_out, n_in, scale=0.3)
        tensors.normal(name + ".bias", n_out)

    tensors.normal("token_embd.weight", len(VOCABULARY), WIDTH, scale=1.0)
    tensors.normal("token_types.weight", 2, WIDTH, scale=0.3)
    tensors.normal("position_embd.weight", n_ctx, WIDTH, scale=0.3)
    norm("token_embd_norm")
    for layer in range(N_LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            linear(block + name, WIDTH, WIDTH)
        norm(block + "attn_output_norm")
        linear(block + "ffn_up", INNER, WIDTH)
        linear(block + "ffn_down", WIDTH, INNER)
        norm(block + "layer_output_norm")


class Twin:
    """BERT, slowly: one text at a time, in float64."""

    def __init__(self, path: Path) -> None:
        self.weights = {
            tensor.name: np.array(tensor.data, np.float64) for tensor in GGUFReader(path).tensors
        }

    def states(self, tokens: list[int]) -> np.ndarray:
        """Vectors of the last layer, (n_tokens, width)."""
        weights = self.weights
        x = weights["token_embd.weight"][tokens] + weights["token_types.weight"][0]
        x = self.norm("token_embd_norm", x + weights["position_embd.weight"][: len(tokens)])
        for layer in range(N_LAYERS):
            at = f"blk.{layer}."
            split = [
                self.linear(at + name, x).reshape(len(x), HEADS, -1).swapaxes(0, 1)
                for name in ("attn_q", "attn_k", "attn_v")
            ]
            q, k, v = split
            scores = np.exp(q @ k.swapaxes(1, 2) / math.sqrt(WIDTH // HEADS))
            mixed = (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(x.shape)
            x = self.norm(at + "attn_output_norm", x + self.linear(at + "attn_output", mixed))
            up = self.linear(at + "ffn_up", x)
            up *= 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
            x = self.norm(at + "layer_output_norm", x + self.linear(at + "ffn_down", up))
        return x

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x /= np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON)
        return x * self.weights[name + ".weight"] + self.weights[name + ".bias"]
