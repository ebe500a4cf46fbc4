"""circuit-tracer: labels of features for its graphs, and the pages of features that it shows.

    clerps.json               [[feature, label], …]: the text of `qParams.clerps` in a graph's file
    features/index.json.gz    {layer: {"filename": …, "offsets": […]}}
    features/layer_<n>.bin    for each latent 4 bytes of length, then that many of gzip JSON

A graph calls a feature by one number, the Cantor pairing of layer and index,
(layer + index)(layer + index + 1) / 2 + index. A latent without a page takes no byte.

Facts: github.com/safety-research/circuit-tracer, frontend/graph_models.py, local_server.py and
assets (util-cg.js, init-feature-examples.js).
"""

from __future__ import annotations

import struct
from array import array
from pathlib import Path
from typing import Any

from lite_interp.db import export_rows
from lite_interp.export.base import Export, Latent, Row
from lite_interp.export.writing import gzipped, json_text
from lite_interp.render import one_row

N_EXAMPLES = 20
"""Windows on a page."""


def write(export: Export, out: Path) -> None:
    """Write labels and pages; a latent without statistics worth a page still has its place."""
    layer = export.layer
    (out / "features").mkdir()
    offsets = array("Q", [0])
    name = f"layer_{layer}.bin"
    n_others = 0
    with (
        (out / "features" / name).open("wb") as pages,
        (out / "clerps.json").open("w", encoding="utf-8", newline="\n") as labels,
    ):
        labels.write("[")
        separator = ""
        for latent in export.latents(explained=False):
            index = latent.stats.latent
            _fill(offsets, index, pages.tell())
            best = latent.best()
            label = one_row(best["text"]) if best else ""
            if label:
                labels.write(separator + json_text([str(feature(layer, index)), label]))
                separator = ",\n"
            n_others += max(0, sum(each["text"] is not None for each in latent.explanations) - 1)
            windows = export_rows.windows(export.db, export.cache.id, index)[:N_EXAMPLES]
            page = gzipped(json_text(_page(export, latent, label, windows)).encode("utf-8"))
            pages.write(struct.pack("<I", len(page)) + page)
        labels.write("]\n")
        _fill(offsets, export.cache.n_latents, pages.tell())
    index_of_layers = {str(layer): {"filename": name, "offsets": offsets.tolist()}}
    (out / "features" / "index.json.gz").write_bytes(
        gzipped(json_text(index_of_layers).encode("utf-8"))
    )
    if n_others:
        export.lost.append(f"one label a latent: {n_others:,} other explanations are left out")


def _fill(offsets: array[int], index: int, end: int) -> None:
    """Let every latent up to `index` begin where the pages end now, if it has no place yet."""
    offsets.extend([end] * (index + 1 - len(offsets)))


def feature(layer: int, index: int) -> int:
    """The number by which a graph calls a feature."""
    return (layer + index) * (layer + index + 1) // 2 + index


def _page(export: Export, latent: Latent, label: str, windows: list[Row]) -> dict[str, Any]:
    known = latent.details
    return {
        "layer": export.layer,
        "index": latent.stats.latent,
        "label": label,
        "top_logits": [text for text, _ in (known.promoted if known else None) or ()],
        "bottom_logits": [text for text, _ in (known.suppressed if known else None) or ()],
        "act_min": 0.0,
        "act_max": latent.stats.max_value,
        "activation_frequency": latent.stats.density,
        "examples_quantiles": [
            {
                "quantile_name": "Top activations",
                "examples": [
                    {
                        "tokens": window["tokens"],
                        "tokens_acts_list": window["acts"],
                        "train_token_ind": max(
                            range(len(window["acts"])), key=window["acts"].__getitem__, default=0
                        ),
                        "is_repeated_datapoint": False,
                    }
                    for window in windows
                ],
            }
        ],
    }
