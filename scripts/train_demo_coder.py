"""Train, measure and ship the demo's sparse coder.

Needs eai-sparsify, which lite-interp itself does not: give it an environment of its own, e.g.

    python -m venv build/demo/env
    build/demo/env/bin/pip install -e . eai-sparsify==1.3.3

Steps, each a subcommand (see `--help` for what they take):

    collect   run the subject over a corpus, keep what the hookpoint gives at positions that count
    train     train the sparse coder on what was collected, save it as float16 in sparsify's layout
    measure   FVU, L0 and densities of the saved coder on what was collected from unseen text

The positions that count: all but the first of each context and those with a norm above OUTLIER
times the median. Contexts never join documents. The tokenizer adds no BOS token and none is added
here. sparsify's own trainer is not used, because it runs the subject anew for every batch, cannot
leave out positions and takes its gradients through index_add_, which is slow on a CPU; its classes
write the configuration and, in `measure`, read the result back.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import zstandard
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor

OUTLIER = 10.0
SHORTEST_CONTEXT = 16


# --- collect --------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a JSON Lines file, zstd-compressed if its name ends in .zst."""
    data = path.read_bytes()
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return [json.loads(line) for line in data.decode("utf-8").splitlines()]


def cut(tokens: list[int], length: int) -> Iterator[list[int]]:
    """A document as contexts of `length` tokens; a short rest is dropped."""
    for start in range(0, len(tokens), length):
        context = tokens[start : start + length]
        if len(context) >= SHORTEST_CONTEXT:
            yield context


@torch.inference_mode()
def collect(
    subject: Path,
    gguf: str,
    hookpoint: str,
    corpus: Path,
    out: Path,
    part: int,
    parts: int,
    context: int,
    batch: int,
) -> None:
    """Write activations (positions, width) in bfloat16 and what they belong to.

    `source` (positions,) holds the index of each position's source in the sorted list of sources.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(subject, gguf_file=gguf)
    model = AutoModelForCausalLM.from_pretrained(subject, gguf_file=gguf, dtype=torch.bfloat16)
    model = model.eval().base_model
    layer = int(hookpoint.removeprefix("layers."))
    model.layers = torch.nn.ModuleList(list(model.get_submodule("layers").children())[: layer + 1])
    model.norm = torch.nn.Identity()

    rows = read_rows(corpus)
    names = sorted({row["source"] for row in rows})
    contexts = [
        (names.index(row["source"]), tokens)
        for row in rows
        for tokens in cut(tokenizer(row["text"], verbose=False).input_ids, context)
    ]
    contexts = contexts[part::parts]
    total = sum(len(tokens) for _, tokens in contexts)
    contexts.sort(key=lambda item: -len(item[1]))
    print(f"{len(rows)} rows, {len(contexts)} contexts, {total} tokens", flush=True)

    kept: list[Tensor] = []
    source_of: list[Tensor] = []
    started, done = time.monotonic(), 0
    for start in range(0, len(contexts), batch):
        chosen = contexts[start : start + batch]
        ids = torch.zeros(len(chosen), len(chosen[0][1]), dtype=torch.long)
        real = torch.zeros_like(ids, dtype=torch.bool)
        for i, (_, tokens) in enumerate(chosen):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            real[i, : len(tokens)] = True
        done += int(real.sum())
        # Attention is causal and the filling stands last, so real positions never see it.
        hidden = model(ids, use_cache=False).last_hidden_state
        real[:, 0] = False
        kept.append(hidden[real].clone())
        source_of.append(torch.tensor([s for s, _ in chosen])[:, None].expand_as(real)[real])
        if (start // batch) % 50 == 0:
            seconds = time.monotonic() - started
            print(f"{done}/{total} tokens, {done / seconds:.0f} a second", flush=True)

    activations = torch.cat(kept)
    norms = activations.float().norm(dim=1)
    ordinary = norms <= OUTLIER * norms.median()
    print(f"{len(norms)} positions, median norm {norms.median():.1f}, largest {norms.max():.1f}")
    print(f"left out as outliers: {int((~ordinary).sum())}")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            "activations": activations[ordinary].contiguous(),
            "source": torch.cat(source_of)[ordinary].to(torch.uint8).contiguous(),
        },
        out,
        metadata={"sources": json.dumps(names), "hookpoint": hookpoint, "tokens": str(total)},
    )


# --- train ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How to train."""

    latents: int = 4096
    k: int = 24
    batch: int = 1024
    steps: int = 1800
    rate: float = 1e-3
    warm_up: int = 20
    blur: float = 0.3
    dead_after: int = 100_000
    aux_weight: float = 1 / 32
    aux_latents: int = 256
    aux_k: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Weights:
    """A TopK sparse coder: encoder and decoder (latents, width), biases (latents,) and (width,)."""

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor

    def all(self) -> list[Tensor]:
        """The four tensors, in a fixed order."""
        return [self.encoder, self.encoder_bias, self.decoder, self.decoder_bias]


def scatter_rows(indices: Tensor, values: Tensor, rows: Tensor, latents: int) -> Tensor:
    """The sum over n and j of values[n, j] * rows[n], for each latent indices[n, j].

    indices and values (n, k), rows (n, width) -> (latents, width). It is the product of a sparse
    matrix with `rows`; written as an embedding bag over latents it is far faster than index_add_.
    """
    flat = indices.flatten()
    by_latent = flat.argsort()
    offsets = torch.bincount(flat, minlength=latents).cumsum(0).roll(1)
    offsets[0] = 0
    return torch.nn.functional.embedding_bag(
        by_latent // indices.shape[1],
        rows,
        offsets,
        per_sample_weights=values.flatten()[by_latent],
        mode="sum",
    )


def chosen_dots(indices: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
    """rows[n] @ weight[indices[n, j]] for each n and j: (n, k), without gathering (n, k, width)."""
    n, k = indices.shape
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        rows,
        weight,
        indices.flatten(),
        torch.arange(0, n * k, k),
        torch.arange(n).repeat_interleave(k),
        0,
    ).view(n, k)


def encode(weights: Weights, centred: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Turn centred (n, width) into values and indices of the k largest latents, both (n, k).

    They are chosen in bfloat16, for speed, and then computed in float32.
    """
    wide = torch.addmm(
        weights.encoder_bias.bfloat16(), centred.bfloat16(), weights.encoder.bfloat16().T
    )
    indices = wide.topk(k, dim=1, sorted=False).indices
    values = chosen_dots(indices, weights.encoder, centred) + weights.encoder_bias[indices]
    return values.relu(), indices


def gradients(
    weights: Weights, x: Tensor, dead: Tensor, recipe: Recipe
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """FVU of a batch x (n, width), the indices of the firing latents, the gradients of the weights.

    The loss is the FVU plus, with a small weight, the FVU left when latents that have been dead for
    long (indices `dead`) try to explain the residual (Gao and others, arXiv 2406.04093).
    """
    centred = x - weights.decoder_bias
    values, indices = encode(weights, centred, recipe.k)
    found = torch.nn.functional.embedding_bag(
        indices, weights.decoder, per_sample_weights=values, mode="sum"
    )
    error = found - centred
    variance = (x - x.mean(0)).square().sum()
    slope = error * (2 / variance)
    slope_values = chosen_dots(indices, weights.decoder, slope) * (values > 0)
    encoder = scatter_rows(indices, slope_values, centred, recipe.latents)
    encoder_bias = torch.zeros_like(weights.encoder_bias)
    encoder_bias.index_add_(0, indices.flatten(), slope_values.flatten())
    decoder = scatter_rows(indices, values, slope, recipe.latents)
    decoder_bias = slope.sum(0) - encoder_bias @ weights.encoder

    if len(dead):
        few = dead[torch.randperm(len(dead))[: recipe.aux_latents]]
        acts = (centred @ weights.encoder[few].T + weights.encoder_bias[few]).relu()
        if len(few) > recipe.aux_k:
            acts *= acts >= acts.topk(recipe.aux_k, dim=1).values[:, -1:]
        missed = acts @ weights.decoder[few] + error
        slope = missed * (2 * recipe.aux_weight / variance)
        slope_values = (slope @ weights.decoder[few].T) * (acts > 0)
        encoder[few] += slope_values.T @ centred
        encoder_bias[few] += slope_values.sum(0)
        decoder[few] += acts.T @ slope

    # Rows of the decoder keep unit norm: a change along the row itself would be undone.
    decoder -= (decoder * weights.decoder).sum(1, keepdim=True) * weights.decoder
    fired = indices[values > 0]
    return error.square().sum() / variance, fired, [encoder, encoder_bias, decoder, decoder_bias]


def rate_at(step: int, recipe: Recipe) -> float:
    """Linear warm-up, constant until half of the steps, then linear decay to zero."""
    left = (recipe.steps - step) / (recipe.steps / 2)
    return recipe.rate * min(1.0, (step + 1) / recipe.warm_up, left)


def read_activations(paths: list[Path]) -> Tensor:
    """Everything collected, (positions, width) in bfloat16."""
    return torch.cat([load_file(path)["activations"] for path in paths])


def start_from_data(centred: Tensor, mean: Tensor, recipe: Recipe) -> Weights:
    """Weights whose rows are directions of activations, centred (n, width), blurred a little.

    The encoder is the decoder times the one factor that makes the first reconstruction best.
    """
    decoder = centred[: recipe.latents] + recipe.blur * torch.randn_like(centred[: recipe.latents])
    decoder /= decoder.norm(dim=1, keepdim=True)
    weights = Weights(decoder.clone(), torch.zeros(recipe.latents), decoder, mean.clone())
    others = centred[recipe.latents : recipe.latents + 2048]
    values, indices = encode(weights, others, recipe.k)
    found = torch.nn.functional.embedding_bag(
        indices, decoder, per_sample_weights=values, mode="sum"
    )
    weights.encoder.mul_((found * others).sum() / found.square().sum())
    return weights


def train_weights(activations: Tensor, recipe: Recipe) -> tuple[Weights, float]:
    """The trained weights and the scale by which activations were divided for training."""
    torch.manual_seed(recipe.seed)
    count, width = activations.shape
    sample = activations[torch.randperm(count)[:100_000]].float()
    mean = sample.mean(0)
    scale = float((sample - mean).square().mean().sqrt())

    weights = start_from_data((sample - mean) / scale, mean / scale, recipe)
    optimizer = torch.optim.Adam(weights.all(), lr=recipe.rate, betas=(0.9, 0.999), fused=True)

    order = torch.randperm(count)
    at, idle = 0, torch.zeros(recipe.latents, dtype=torch.long)
    started, running = time.monotonic(), 0.0
    for step in range(recipe.steps):
        if at + recipe.batch > count:
            order, at = torch.randperm(count), 0
        x = activations[order[at : at + recipe.batch]].float() / scale
        at += recipe.batch
        dead = (idle > recipe.dead_after).nonzero().flatten()
        fvu, fired, slopes = gradients(weights, x, dead, recipe)
        for parameter, slope in zip(weights.all(), slopes, strict=True):
            parameter.grad = slope
        optimizer.param_groups[0]["lr"] = rate_at(step, recipe)
        optimizer.step()
        weights.decoder.div_(weights.decoder.norm(dim=1, keepdim=True))
        idle += recipe.batch
        idle[fired] = 0
        running = float(fvu) if step == 0 else 0.95 * running + 0.05 * float(fvu)
        if step % 50 == 0 or step == recipe.steps - 1:
            rate = (step + 1) * recipe.batch / (time.monotonic() - started)
            print(
                f"step {step}/{recipe.steps}: FVU {running:.4f}, dead {len(dead)}, "
                f"{rate:.0f} activations a second",
                flush=True,
            )
    return weights, scale


def train(activations: list[Path], out: Path, hookpoint: str, **settings: Any) -> None:
    """Train and save `out`/`hookpoint`/{cfg.json, sae.safetensors} in float16."""
    recipe = Recipe(**settings)
    started = time.monotonic()
    data = read_activations(activations)
    print(f"{len(data)} activations of width {data.shape[1]}, {recipe}", flush=True)
    weights, scale = train_weights(data, recipe)
    print(f"trained in {time.monotonic() - started:.0f} s")

    folder = out / hookpoint
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "encoder.weight": weights.encoder,
        "encoder.bias": weights.encoder_bias * scale,
        "W_dec": weights.decoder,
        "b_dec": weights.decoder_bias * scale,
    }
    save_file(
        {name: tensor.half().contiguous() for name, tensor in tensors.items()},
        folder / "sae.safetensors",
    )
    config = SparseCoderConfig(num_latents=recipe.latents, k=recipe.k, expansion_factor=0)
    (folder / "cfg.json").write_text(
        json.dumps({**config.to_dict(), "d_in": data.shape[1]}, indent=2) + "\n"
    )


# --- measure --------------------------------------------------------------------------------------


@torch.inference_mode()
def measure(activations: list[Path], coder: Path, batch: int, out: Path | None) -> None:
    """Print (and write as JSON) what the saved coder does, read by sparsify's own class."""
    sparse_coder = SparseCoder.load_from_disk(coder).float()
    files = [load_file(path) for path in activations]
    x = torch.cat([file["activations"] for file in files])
    source = torch.cat([file["source"] for file in files])
    with safe_open(activations[0], "pt") as first:
        names = json.loads(first.metadata()["sources"])
    mean = x.float().mean(0)

    fires = torch.zeros(sparse_coder.num_latents)
    missed = torch.zeros(len(names), dtype=torch.float64)
    total = torch.zeros(len(names), dtype=torch.float64)
    for start in range(0, len(x), batch):
        part = x[start : start + batch].float()
        code = sparse_coder.encode(part)
        found = sparse_coder.decode(code.top_acts, code.top_indices)
        fires += torch.bincount(
            code.top_indices[code.top_acts > 0], minlength=sparse_coder.num_latents
        )
        which = source[start : start + batch].long()
        missed.index_add_(0, which, (part - found).square().sum(1).double())
        total.index_add_(0, which, (part - mean).square().sum(1).double())

    density = fires / len(x)
    edges = [0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    figures = {
        "positions": len(x),
        "fvu": float(missed.sum() / total.sum()),
        "fvu_by_source": {
            name: round(float(missed[i] / total[i]), 4) for i, name in enumerate(names)
        },
        "l0": float(fires.sum() / len(x)),
        "dead_fraction": float((fires == 0).float().mean()),
        "density_quantiles": {
            str(q): float(density.quantile(q)) for q in (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
        },
        "latents_by_density": {
            f"({low:g}, {high:g}]": int(((density > low) & (density <= high)).sum())
            for low, high in pairwise(edges)
        },
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if out is not None:
        out.write_text(text + "\n")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    steps = parser.add_subparsers(dest="step", required=True)

    step = steps.add_parser("collect")
    step.add_argument("--subject", type=Path, required=True, help="folder that holds the GGUF file")
    step.add_argument("--gguf", required=True, help="name of the GGUF file")
    step.add_argument("--hookpoint", default="layers.9")
    step.add_argument("--corpus", type=Path, required=True)
    step.add_argument("--out", type=Path, required=True)
    step.add_argument("--part", type=int, default=0, help="which of the parts, from 0")
    step.add_argument("--parts", type=int, default=1, help="take every PARTS-th context")
    step.add_argument("--context", type=int, default=256)
    step.add_argument("--batch", type=int, default=16)

    step = steps.add_parser("train")
    step.add_argument("--activations", type=Path, nargs="+", required=True)
    step.add_argument("--hookpoint", default="layers.9")
    step.add_argument("--out", type=Path, required=True, help="folder to write HOOKPOINT/ into")
    for field in fields(Recipe):
        kind = float if isinstance(field.default, float) else int
        name = "--" + field.name.replace("_", "-")
        step.add_argument(name, type=kind, default=field.default, help="default %(default)s")

    step = steps.add_parser("measure")
    step.add_argument("--activations", type=Path, nargs="+", required=True)
    step.add_argument("--coder", type=Path, required=True, help="folder with cfg.json")
    step.add_argument("--batch", type=int, default=2048)
    step.add_argument("--out", type=Path, help="JSON file to write")

    given = vars(parser.parse_args())
    torch.set_num_threads(given.pop("threads"))
    {"collect": collect, "train": train, "measure": measure}[given.pop("step")](**given)


if __name__ == "__main__":
    main()
