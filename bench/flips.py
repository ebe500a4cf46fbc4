"""How many firings change when the subject, or the encoder, computes in bfloat16.

    python bench/flips.py [--tokens N] [--json]

The shipped subject and coder (top-k), and the same coder with a threshold that lets as many fire
(JumpReLU). The subject `smollm2-135m-instruct` must be installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

import torch
from cache import DEMO, N_CTX, full_contexts

BATCH = 16


def read(dtype: str, token_ids: Any) -> torch.Tensor:
    """(n, d) activations at the hookpoint of the shipped coder, first tokens left out."""
    from lite_interp.fetch import model_path
    from lite_interp.subject import load_subject

    subject = load_subject(model_path("smollm2-135m-instruct", "subject"), dtype=dtype)
    point = subject.resolve("layers.9")
    parts = []
    for start in range(0, len(token_ids), BATCH):
        rows = token_ids[start : start + BATCH]
        parts.append(subject.read(rows, [N_CTX] * len(rows), [point])[point][:, 1:].flatten(0, 1))
    return torch.cat(parts)


def flips(one: torch.Tensor, other: torch.Tensor) -> float:
    """Share of the firings of either that the other does not have."""
    on, off = one > 0, other > 0
    return round(float((on ^ off).sum() / (on | off).sum()), 5)


def dense(coder: Any, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(n, m) activations, the product in a number format."""
    p = (coder.prepared(x).to(dtype) @ coder.W_enc.to(dtype) + coder.b_enc.to(dtype)).float()
    active = coder.fired(p)
    if not coder.compete:
        return active
    values, latents = coder.largest(active)
    return torch.zeros_like(active).scatter_(1, latents, values)


@torch.no_grad()
def main() -> None:
    """Compare number formats."""
    from lite_interp.fetch import model_path
    from lite_interp.sae import load_coder
    from lite_interp.tokenizer import load_tokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tokenizer = load_tokenizer(model_path("smollm2-135m-instruct", "subject"))
    token_ids = full_contexts(tokenizer, options.tokens)
    exact, half = read("float32", token_ids), read("bfloat16", token_ids)
    topk = load_coder(next((DEMO / "coder").glob("layers.*")))
    p = topk.prepared(exact) @ topk.W_enc + topk.b_enc
    cut = float(p.flatten()[: 1 << 24].topk(int((1 << 24) * topk.k / topk.n_latents)).values[-1])
    thresholds = torch.full((topk.n_latents,), cut)
    jump = dataclasses.replace(topk, activation="jumprelu", k=None, threshold=thresholds)
    found = {}
    for name, coder in (("topk", topk), ("jumprelu", jump)):
        base = dense(coder, exact, torch.float32)
        found[name] = {
            "firings_a_token": round(float((base > 0).sum() / len(base)), 2),
            "encoder in bfloat16": flips(base, dense(coder, exact, torch.bfloat16)),
            "subject in bfloat16": flips(base, dense(coder, half, torch.float32)),
            "both in bfloat16": flips(base, dense(coder, half, torch.bfloat16)),
        }
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
