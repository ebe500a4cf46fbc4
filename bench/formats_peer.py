"""The same files read by the libraries that write them and by us: are activations equal?

    PYTHONPATH=. <peers' python> bench/formats_peer.py [--json] [--peer NAME] [--only WORD]

The peers need an environment of their own, Python 3.11; `constraints.txt` keeps torch to its build
for the CPU, and `--no-deps` leaves out what their loaders never import:

    python3.11 -m venv .venv-formats
    .venv-formats/bin/pip install -c constraints.txt torch transformers accelerate gguf zstandard \
        platformdirs
    .venv-formats/bin/pip install --no-deps sae-lens==6.54.12 transformer-lens==3.9.0 \
        eai-sparsify==1.3.3 dictionary-learning==0.1.0
    .venv-formats/bin/pip install -c constraints.txt einops simple-parsing natsort datasets \
        schedulefree jaxtyping wandb better-abc scipy

Each case is a random coder in a folder of its own, written and read by the peer
(`formats_cases.py`), or written as its hub has it and read by sae-lens's converter for that hub
(`formats_hubs.py`); then `load_coder` reads the same folder. Compared are float32 activations of
random inputs and reconstructions. `share_of_equal_support`: of all firings of either, those that
both have. `max_abs_difference`: of activations. A case counts as equal if the support is the same
and both differences are below 1e-4 of the largest value.

Human lines go to stderr. The last line, on stdout, is JSON. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from formats_cases import Case, dictionary_cases, saelens_cases, sparsify_cases
from formats_hubs import SKIPPED, hub_cases
from torch import Tensor

from lite_interp.errors import CoderError
from lite_interp.sae import SparseCoder, load_coder

N_TOKENS = 600
TOLERANCE = 1e-4
"""Of the largest value."""


def inputs(d_in: int, seed: int = 7) -> Tensor:
    """(N_TOKENS, d_in) with a mean and lengths that vary, so that a normalisation shows."""
    random = torch.Generator().manual_seed(seed)
    lengths = 0.5 + 2 * torch.rand(N_TOKENS, 1, generator=random)
    return lengths * (torch.randn(N_TOKENS, d_in, generator=random) + 0.4)


def ours(coder: SparseCoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Activations as one dense matrix, through `firings`; and reconstructions."""
    fired = coder.firings(x)
    acts = torch.zeros(len(x), coder.n_latents)
    acts[fired.rows, fired.latents] = fired.values
    return acts, coder.reconstruct(x)


def compare(case: Case, folder: Path) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {
        "peer": case.peer,
        "version": importlib.metadata.version(case.peer),
        "case": case.name,
        "max_abs_difference": None,
        "max_abs_difference_of_reconstructions": None,
        "share_of_equal_support": None,
    }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place, read = case.write(folder)
        try:
            coder = load_coder(place)
        except CoderError as error:
            return row | {"verdict": f"we refuse it: {error}"}
        x = inputs(coder.d_in)
        acts, rebuilt = ours(coder, x)
        their_acts, their_rebuilt = read(x)
    their_acts = their_acts / case.scale
    both = (acts > 0) & (their_acts > 0)
    share = float(both.sum() / ((acts > 0) | (their_acts > 0)).sum())
    row["share_of_equal_support"] = round(share, 6)
    row["max_abs_difference"] = _gap(acts, their_acts)
    equal = share == 1 and _near(acts, their_acts)
    if their_rebuilt is not None:
        row["max_abs_difference_of_reconstructions"] = _gap(rebuilt, their_rebuilt)
        equal &= _near(rebuilt, their_rebuilt)
    l0 = float((acts > 0).sum(1).float().mean())
    return row | {"l0": round(l0, 1), "verdict": "equal" if equal else "differs"}


def _gap(a: Tensor, b: Tensor) -> float:
    return float(f"{(a - b).abs().max():.3g}") if a.shape == b.shape else float("inf")


def _near(a: Tensor, b: Tensor) -> bool:
    return _gap(a, b) <= TOLERANCE * float(b.abs().max())


def _say(row: dict[str, Any]) -> None:
    numbers = [
        row.get(key)
        for key in (
            "share_of_equal_support",
            "max_abs_difference",
            "max_abs_difference_of_reconstructions",
        )
    ]
    shown = " | ".join("" if number is None else f"{number:g}" for number in numbers)
    print(f"| {row['peer']} | {row['case']} | {shown} | {row['verdict']} |", file=sys.stderr)


def main() -> None:
    """Run all cases, or some."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", help="sae-lens, eai-sparsify or dictionary-learning")
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for case in (*saelens_cases(), *sparsify_cases(), *dictionary_cases(), *hub_cases()):
        if options.peer not in (None, case.peer) or options.only not in case.name:
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            rows.append(compare(case, Path(folder)))
        if not options.json:
            _say(rows[-1])
    rows += [
        {"peer": peer, "case": name, "verdict": f"skipped: {reason}"}
        for peer, name, reason in SKIPPED
        if options.peer in (None, peer) and options.only in name
    ]
    print(json.dumps(rows))
    sys.exit(any(row["verdict"] == "differs" for row in rows))


if __name__ == "__main__":
    main()
