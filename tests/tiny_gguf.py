"""Tiny random GGUF models with vocabularies of their own: no download, written in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}[INST] {{ message.content }} [/INST]{% endfor %}"
)
BPE_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BPE_DEFINED = ("<|tool|>",)
BPE_WORDS = ("Yes", "No", "ĠYes", "ĠNo", "the", "Ġthe", "Ġcat", "ĊĊ", "Text")
SPM_PIECES = ("Yes", "No", "▁Yes", "▁No", "▁the", "the", "▁cat", "▁Text", "Text", "▁▁")


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte in a byte-level BPE vocabulary."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, n = [], 0
    for byte in range(256):
        letters.append(chr(byte) if byte in kept else chr(256 + n))
        n += byte not in kept
    return letters


def bpe(writer: GGUFWriter, template: str | None) -> int:
    """256 bytes, some words with the merges that lead to them, special tokens. No BOS."""
    tokens, merges = byte_letters(), []
    for word in BPE_WORDS:
        # A word behind a space is merged from the space and the word, as that merge comes first.
        parts = [word[0], word[1:]] if word[1:] in BPE_WORDS else list(word)
        left = parts[0]
        for part in parts[1:]:
            if left + part not in tokens:
                tokens.append(left + part)
                merges.append(f"{left} {part}")
            left += part
    kinds = [TokenType.NORMAL] * len(tokens)
    tokens += [*BPE_SPECIALS, *BPE_DEFINED]
    kinds += [TokenType.CONTROL] * len(BPE_SPECIALS) + [TokenType.USER_DEFINED] * len(BPE_DEFINED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    if template:
        writer.add_chat_template(template)
    return len(tokens)


def spm(writer: GGUFWriter, template: str | None) -> int:
    """Unknown, begin, end, 256 bytes, letters, some words. BOS, and a space put in front."""
    pieces = dict.fromkeys([*"abcdefghijklmnopqrstuvwxyzTYN.:!<|>_[]/", "▁", "▁c", "th", "Te"])
    for word in SPM_PIECES:
        pieces |= dict.fromkeys(word[: i + 1] for i in range(len(word)))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    kinds += [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(pieces)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(len(token)) for token in tokens])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    if template:
        writer.add_chat_template(template)
    return len(tokens)


class Tensors:
    """Adds random and all-one tensors from one seeded generator."""

    def __init__(self, writer: GGUFWriter, seed: int) -> None:
        self.writer, self.random = writer, np.random.default_rng(seed)

    def normal(self, name: str, *shape: int, scale: float = 0.08) -> None:
        values = self.random.standard_normal(shape) * scale
        self.writer.add_tensor(name, values.astype(np.float32))

    def ones(self, name: str, size: int) -> None:
        self.writer.add_tensor(name, np.ones(size, np.float32))


def write(
    path: Path,
    architecture: str,
    vocabulary=bpe,
    template: str | None = CHATML,
    n_ctx: int = 1024,
    with_weights: bool = True,
) -> Path:
    """A random model of architecture `llama`, `gemma3` (window 16), `mamba`, or in name alone."""
    writer = GGUFWriter(path, architecture)
    n_layer, width = (6 if architecture == "gemma3" else 2), 32
    writer.add_name(f"tiny {architecture}")
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(width)
    writer.add_block_count(n_layer)
    n_vocab = vocabulary(writer, template)
    tensors = Tensors(writer, 0)
    if with_weights:
        tied = architecture != "llama"  # then the embedding makes the logits, too
        tensors.normal("token_embd.weight", n_vocab, width, scale=0.3 if tied else 1.0)
        tensors.ones("output_norm.weight", width)
        (mamba if architecture == "mamba" else transformer)(
            writer, tensors, architecture, n_layer, width, n_vocab
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def transformer(writer, tensors, architecture, n_layer, width, n_vocab) -> None:
    heads, kv_heads, inner = 2, 1, 64
    size = width // heads
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(size)
    writer.add_key_length(size)
    writer.add_value_length(size)
    if architecture == "gemma3":
        writer.add_sliding_window(16)
    else:
        tensors.normal("output.weight", n_vocab, width, scale=0.3)
    for layer in range(n_layer):
        block = f"blk.{layer}."
        tensors.ones(block + "attn_norm.weight", width)
        tensors.normal(block + "attn_q.weight", heads * size, width, scale=0.3)
        tensors.normal(block + "attn_k.weight", kv_heads * size, width, scale=0.3)
        tensors.normal(block + "attn_v.weight", kv_heads * size, width, scale=0.3)
        tensors.normal(block + "attn_output.weight", width, heads * size, scale=0.3)
        tensors.ones(block + "ffn_norm.weight", width)
        tensors.normal(block + "ffn_gate.weight", inner, width, scale=0.3)
        tensors.normal(block + "ffn_up.weight", inner, width, scale=0.3)
        tensors.normal(block + "ffn_down.weight", width, inner, scale=0.3)
        if architecture == "gemma3":
            tensors.ones(block + "attn_q_norm.weight", size)
            tensors.ones(block + "attn_k_norm.weight", size)
            tensors.ones(block + "post_attention_norm.weight", width)
            tensors.ones(block + "post_ffw_norm.weight", width)


def mamba(writer, tensors, _architecture, n_layer, width, _n_vocab) -> None:
    inner, state, rank, kernel = 2 * width, 8, 4, 4
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_layer_norm_rms_eps(1e-5)
    for layer in range(n_layer):
        block = f"blk.{layer}."
        tensors.ones(block + "attn_norm.weight", width)
        tensors.normal(block + "ssm_in.weight", 2 * inner, width, scale=0.3)
        tensors.normal(block + "ssm_conv1d.weight", inner, kernel, scale=0.3)
        tensors.normal(block + "ssm_conv1d.bias", inner)
        tensors.normal(block + "ssm_x.weight", rank + 2 * state, inner, scale=0.3)
        tensors.normal(block + "ssm_dt.weight", inner, rank)
        tensors.normal(block + "ssm_dt.bias", inner)
        decay = -np.abs(tensors.random.standard_normal((inner, state))) - 0.1  # must be negative
        writer.add_tensor(block + "ssm_a", decay.astype(np.float32))
        tensors.normal(block + "ssm_d", inner)
        tensors.normal(block + "ssm_out.weight", width, inner, scale=0.3)
