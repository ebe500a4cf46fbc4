"""Delphi's own cache of activations on this machine, as its users get it, on tokens that are given.

    <peer's python> bench/cache_peer.py --subject PATH --tokens FILE.npy --coder DIR --layer L
        [--dtype bfloat16|float32] [--batch 32] [--threads 2] [--no-compile] [--check N]
    python bench/cache_peer.py --make-wide DIR --latents 65536 --k 32 --d-in 576

Delphi needs an environment of its own, Python 3.11; `constraints.txt` keeps torch to its build for
the CPU, and `--no-deps` leaves out vllm and bitsandbytes, which caching never imports:

    python3.11 -m venv .venv-delphi
    .venv-delphi/bin/pip install -c constraints.txt torch transformers accelerate gguf
    .venv-delphi/bin/pip install --no-deps eai-delphi==0.1.3 eai-sparsify==1.3.3
    .venv-delphi/bin/pip install -c constraints.txt jaxtyping simple-parsing natsort einops \
        datasets schedulefree orjson faiss-cpu blobfile asyncer sentence-transformers

What runs is Delphi's: `load_hooks_sparse_coders` with its default of compiling, `LatentCache` and
its hook, its dense buffer in the subject's dtype, its filter (|activation| > 1e-5), its counts of
firings, its concatenation at the end. Not timed: loading, one batch as warm-up, and
`generate_statistics_cache`, which its command line runs too. `save_splits` is timed apart.
No part of Delphi is changed. Only `load_artifacts` is not called, since it imports vllm and asks
for CUDA: the subject is loaded by the same call of `AutoModel`, with `cpu` and the dtype given.
The coder is cast to float32 before Delphi reads it, as most are published: sparsify computes in the
file's number format, and fails on a coder in float16 when the subject runs in bfloat16 or float32.
Delphi drops contexts behind the last full batch; `tokens` counts those that it ran. It never stops
the forward pass early. Its command line would also take BOS out of the tokens; here they come as
they are.

`--check N` also reads the first N contexts with lite_interp (PYTHONPATH) and compares firings.
Human lines go to stderr. The last line, on stdout, is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import platform
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

N_SPLITS = 5
"""Files of one hookpoint; Delphi's default."""
PACKAGES = ("eai-delphi", "eai-sparsify", "torch", "transformers")


def make_wide(folder: Path, n_latents: int, k: int, d_in: int, seed: int = 0) -> None:
    """Write a random coder in sparsify's layout: unit directions, the encoder is the decoder."""
    random = torch.Generator().manual_seed(seed)
    directions = torch.randn(n_latents, d_in, generator=random)
    directions /= directions.norm(dim=1, keepdim=True)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "encoder.weight": directions,
        "encoder.bias": torch.zeros(n_latents),
        "W_dec": directions.clone(),
        "b_dec": torch.zeros(d_in),
    }
    save_file(tensors, folder / "sae.safetensors")
    config = {
        "activation": "topk",
        "expansion_factor": 0,
        "normalize_decoder": True,
        "num_latents": n_latents,
        "k": k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": d_in,
    }
    (folder / "cfg.json").write_text(json.dumps(config))


def load_model(path: Path, dtype: str) -> Any:
    """The subject without its head, as Delphi's `load_artifacts` loads it, but on the CPU."""
    from transformers import AutoModel

    place = path if path.is_dir() else path.parent
    files = [path] if path.is_file() else sorted(path.glob("*.gguf"))
    return AutoModel.from_pretrained(
        str(place),
        device_map={"": "cpu"},
        dtype=getattr(torch, dtype),
        **({"gguf_file": files[0].name} if files else {}),
    )


def load_encoder(
    model: Any, coder: Path, layer: int, dtype: str, compiled: bool
) -> tuple[dict, bool]:
    """Delphi's encode function of a sparsify coder at the output of a layer.

    Delphi takes the hookpoint from the folder's name and the number format from the file.
    """
    from delphi.config import CacheConfig, ConstructorConfig, RunConfig, SamplerConfig
    from delphi.sparse_coders import load_hooks_sparse_coders

    name = f"layers.{layer}"
    with tempfile.TemporaryDirectory() as folder:
        tensors = load_file(coder / "sae.safetensors")
        written = {key: tensor.to(getattr(torch, dtype)) for key, tensor in tensors.items()}
        (Path(folder) / name).mkdir()
        save_file(written, Path(folder) / name / "sae.safetensors")
        shutil.copy(coder / "cfg.json", Path(folder) / name)
        config = RunConfig(
            CacheConfig(),
            ConstructorConfig(),
            SamplerConfig(),
            model="",
            sparse_model=folder,
            hookpoints=[name],
        )
        return load_hooks_sparse_coders(model, config, compile=compiled)


def cache_all(model: Any, encoders: dict, transcode: bool, tokens: torch.Tensor, batch: int) -> Any:
    """A new LatentCache after its run over all contexts (n, n_ctx)."""
    from delphi.latents import LatentCache

    cache = LatentCache(model, encoders, batch_size=batch, transcode=transcode)
    cache.run(tokens.numel(), tokens)
    return cache


def save_all(cache: Any) -> dict[str, Any]:
    """What Delphi's files take on disk, and how long writing them lasts."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        try:
            cache.save_splits(n_splits=N_SPLITS, save_dir=Path(folder))
        except ValueError as error:  # a split in which nothing fired
            return {"saved_bytes": None, "save_seconds": None, "save_error": str(error)}
        seconds = time.perf_counter() - started
        sizes = [file.stat().st_size for file in Path(folder).rglob("*.safetensors")]
    return {"saved_bytes": sum(sizes), "save_seconds": round(seconds, 3)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One run, and what it found."""
    torch.set_num_threads(options.threads)
    tokens = torch.from_numpy(np.load(options.tokens, allow_pickle=False)).long()
    if len(tokens) < options.batch:
        sys.exit(f"fewer contexts than one batch: {len(tokens)}")
    model = load_model(options.subject, options.dtype)
    encoders, transcode = load_encoder(
        model, options.coder, options.layer, options.coder_dtype, options.compile
    )
    cache_all(model, encoders, transcode, tokens[: options.batch], options.batch)
    started = time.perf_counter()
    cache = cache_all(model, encoders, transcode, tokens, options.batch)
    seconds = time.perf_counter() - started
    (point,) = cache.cache.latent_activations
    n_tokens = cache.cache.tokens[point].numel()
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    found = {
        "tokens": n_tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(n_tokens / seconds, 1),
        "firings": len(cache.cache.latent_activations[point]),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit),
        **save_all(cache),
        "hookpoint": point,
        "n_latents": cache.width,
        "dtype": options.dtype,
        "coder_dtype": options.coder_dtype,
        "batch": options.batch,
        "threads": torch.get_num_threads(),
        "compile": options.compile,
    }
    if options.check:
        cache = cache_all(model, encoders, transcode, tokens[: options.check], options.check)
        found["check"] = check(cache.cache, point, options)
    found["versions"] = {name: importlib.metadata.version(name) for name in PACKAGES}
    found["versions"]["python"] = platform.python_version()
    return found


def check(cache: Any, point: str, options: argparse.Namespace) -> dict[str, Any]:
    """Firings of Delphi's cache against ours, on the same contexts.

    `near` of those that only one has: the activation is within 1 % of the smallest that fired at
    the same token on the other side, so that it lost its place among the k largest by rounding.
    """
    from lite_interp.sae import load_coder
    from lite_interp.subject import load_subject

    tokens, places = cache.tokens[point], cache.latent_locations[point]
    n_ctx = tokens.shape[1]
    subject = load_subject(options.subject, device="cpu", dtype=options.dtype)
    at = subject.resolve(f"layers.{options.layer}")
    read = subject.read(tokens, torch.full((len(tokens),), n_ctx), [at])[at]
    own = load_coder(options.coder).firings(read.flatten(0, 1))
    theirs = _table(
        places[:, 0] * n_ctx + places[:, 1], places[:, 2], cache.latent_activations[point]
    )
    ours = _table(own.rows, own.latents, own.values)
    common = ours.keys() & theirs.keys()
    alone = [(ours, theirs, key) for key in ours.keys() - common]
    alone += [(theirs, ours, key) for key in theirs.keys() - common]
    least = {id(side): _least(side) for side in (ours, theirs)}
    near = [
        having[key] <= 1.01 * least[id(lacking)].get(key[0], 0.0) for having, lacking, key in alone
    ]
    gaps = [abs(ours[key] - theirs[key]) / abs(theirs[key]) for key in common]
    return {
        "tokens": tokens.numel(),
        "ours": len(ours),
        "theirs": len(theirs),
        "share_equal": round(len(common) / len(ours.keys() | theirs.keys()), 6),
        "of_the_rest_near": f"{sum(near)} of {len(near)}",
        "median_relative_difference": float(np.median(gaps)),
        "max_relative_difference": float(np.max(gaps)),
    }


def _table(rows: Any, latents: Any, values: Any) -> dict[tuple[int, int], float]:
    """Activation of each (token, latent)."""
    return dict(
        zip(zip(rows.tolist(), latents.tolist(), strict=True), values.float().tolist(), strict=True)
    )


def _least(table: dict[tuple[int, int], float]) -> dict[int, float]:
    """Smallest activation of each token."""
    least: dict[int, float] = {}
    for (row, _), value in table.items():
        least[row] = min(value, least.get(row, value))
    return least


def main() -> None:
    """Write a coder, or run Delphi once."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subject", type=Path, help="GGUF file, or folder in Hub layout")
    parser.add_argument("--tokens", type=Path, help="(n_contexts, n_ctx) int64, .npy")
    parser.add_argument("--coder", type=Path, help="folder of a sparsify coder, with cfg.json")
    parser.add_argument("--layer", type=int, help="its output is read, whatever the folder says")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument(
        "--coder-dtype", choices=["float32", "bfloat16"], default="float32", help="it is cast first"
    )
    parser.add_argument("--batch", type=int, default=32, help="contexts; Delphi's default is 32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--check", type=int, default=0, metavar="N", help="contexts to compare")
    parser.add_argument("--make-wide", type=Path, metavar="DIR", help="write a random coder here")
    parser.add_argument("--latents", type=int, default=65536)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--d-in", type=int, default=576)
    options = parser.parse_args()
    if options.make_wide:
        make_wide(options.make_wide, options.latents, options.k, options.d_in)
        return
    for name in ("subject", "tokens", "coder", "layer"):
        if getattr(options, name) is None:
            parser.error(f"--{name} is needed")
    with contextlib.redirect_stdout(sys.stderr):
        found = measure(options)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
