"""Neuronpedia: the folder that its own exporter writes and its importer reads.

    <modelId>/<sourceId>/release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl
                         features/batch-<n>.jsonl.gz
                         activations/batch-<n>.jsonl.gz
                         explanations/batch-<n>.jsonl.gz

Its importer takes the keys of a file's first line for the columns of the whole file, so every line
of ours has the same keys. Batch n of the three kinds is about the same latents, as its batch
explainer wants it. A batch without any activation or explanation has no such file.

Facts: github.com/hijohnnylin/neuronpedia ebb8426, apps/webapp (prisma, lib/db/import.ts) and
utils/neuronpedia-utils.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from gzip import GzipFile
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lite_interp.db import export_rows
from lite_interp.export.base import Export, Latent, Row, source_of, values_of
from lite_interp.export.neuronpedia_heads import CREATOR, Place, cuid, heads, place_of
from lite_interp.export.writing import gzip_file, json_line
from lite_interp.outside.formats import EXPLAINER as IMPORTED

BATCH = 1024
"""Latents in a batch."""
N_TOP = 20
"""Windows in the group of the strongest."""
N_INTERVALS = 5
"""Equal intervals from 0 to the greatest activation that the other windows are sorted into."""
N_IN_INTERVAL = 5
"""Windows of an interval, those that fire most."""
EMPTY_LISTS = (
    "vector", "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1",
    "correlated_neurons_indices", "correlated_neurons_pearson", "correlated_neurons_l1",
    "correlated_features_indices", "correlated_features_pearson", "correlated_features_l1",
    "logits_hist_data_bar_heights", "logits_hist_data_bar_values", "decoder_weights_dist",
)  # fmt: skip
"""Fields of a feature that a results file cannot fill."""


def write(export: Export, out: Path) -> None:
    """Write all files of a source, a batch of latents in memory at most as far as it is written."""
    place = place_of(export)
    for name, row in heads(export, place).items():
        (out / f"{name}.jsonl").write_bytes(json_line(row))
    kinds: set[tuple[str, str]] = set()
    for number, batch in enumerate(_batches(export.latents(explained=False))):
        with ExitStack() as files:
            batch_files = _Files(out, number, files)
            for latent in batch:
                _write_latent(export, place, latent, batch_files, kinds)
    if kinds:
        types = ", ".join(sorted({kind for kind, _ in kinds if kind}))
        models = ", ".join(sorted({model for _, model in kinds if model}))
        export.lost.append(
            f"the instance must know these explanation types: {types or 'none'}; and models: "
            f"{models or 'none'}"
        )


def _batches(latents: Iterator[Latent]) -> Iterator[Iterator[Latent]]:
    for first in latents:
        yield _chain(first, islice(latents, BATCH - 1))


def _chain(first: Latent, rest: Iterator[Latent]) -> Iterator[Latent]:
    yield first
    yield from rest


class _Files:
    """The files of one batch, each opened by its first line."""

    def __init__(self, out: Path, number: int, files: ExitStack) -> None:
        self._out, self._number, self._files = out, number, files
        self._open: dict[str, GzipFile] = {}

    def add(self, kind: str, row: Row) -> None:
        """Write one line."""
        if kind not in self._open:
            (self._out / kind).mkdir(exist_ok=True)
            path = self._out / kind / f"batch-{self._number}.jsonl.gz"
            self._open[kind] = self._files.enter_context(gzip_file(path))
        self._open[kind].write(json_line(row))


def _write_latent(
    export: Export, place: Place, latent: Latent, files: _Files, kinds: set[tuple[str, str]]
) -> None:
    files.add("features", _feature(export, place, latent))
    windows = export_rows.windows(export.db, export.cache.id, latent.stats.latent)
    for window, interval in _chosen(windows, latent):
        files.add("activations", _activation(export, place, latent, window, interval))
    for explanation in latent.explanations:
        if explanation["text"] is not None:
            row = _explanation(export, place, latent, explanation)
            kinds.add((row["typeName"], row["explanationModelName"]))
            files.add("explanations", row)


def _of(place: Place, latent: Latent) -> Row:
    index = str(latent.stats.latent)
    return {"modelId": place.model, "layer": place.source, "index": index}


def _feature(export: Export, place: Place, latent: Latent) -> Row:
    stats, known = latent.stats, latent.details
    width = stats.max_value / max(1, len(stats.histogram))
    positive = (known.promoted if known else None) or ()
    negative = (known.suppressed if known else None) or ()
    neighbours = known.decoder_neighbours if known else ()
    return {
        **_of(place, latent),
        **{name: [] for name in EMPTY_LISTS},
        "sourceSetName": place.source_set,
        "creatorId": CREATOR,
        "createdAt": place.created,
        "maxActApprox": stats.max_value,
        "hasVector": False,
        "vectorLabel": None,
        "vectorDefaultSteerStrength": 10.0,
        "hookName": export.cache.hookpoint,
        "topkCosSimIndices": [other for other, _ in neighbours],
        "topkCosSimValues": [cosine for _, cosine in neighbours],
        "pos_str": [text for text, _ in positive],
        "pos_values": [logit for _, logit in positive],
        "neg_str": [text for text, _ in negative],
        "neg_values": [logit for _, logit in negative],
        "frac_nonzero": stats.density,
        "freq_hist_data_bar_heights": [float(count) for count in stats.histogram],
        "freq_hist_data_bar_values": [
            float(f"{(place + 0.5) * width:.6g}") for place in range(len(stats.histogram))
        ],
    }


class _Interval(NamedTuple):
    """The group of a window."""

    low: float
    high: float
    contains: float


TOP = _Interval(-1.0, -1.0, -1.0)
"""What stands for the group of the strongest."""


def _chosen(windows: list[Row], latent: Latent) -> Iterator[tuple[Row, _Interval]]:
    """The strongest windows, then some of each interval of activation, the strongest first."""
    yield from ((window, TOP) for window in windows[:N_TOP])
    stats = latent.stats
    bins = np.array_split(np.array(stats.histogram, np.float64), N_INTERVALS)
    shares = [float(part.sum()) / max(1, stats.n_firings) for part in bins]
    width = max(stats.max_value / N_INTERVALS, 1e-30)
    inside: list[list[Row]] = [[] for _ in range(N_INTERVALS)]
    for window in windows[N_TOP:]:
        inside[min(N_INTERVALS - 1, int(window["max_value"] / width))].append(window)
    for number in reversed(range(N_INTERVALS)):
        interval = _Interval(number * width, (number + 1) * width, shares[number])
        yield from ((window, interval) for window in inside[number][:N_IN_INTERVAL])


def _activation(
    export: Export, place: Place, latent: Latent, window: Row, interval: _Interval
) -> Row:
    values = window["acts"]
    peak = max(range(len(values)), key=values.__getitem__, default=0)
    return {
        **_of(place, latent),
        "id": cuid("activation", export.cache.id, window["id"]),
        "tokens": window["tokens"],
        "values": values,
        "maxValue": max(values, default=0.0),
        "maxValueTokenIndex": peak,
        "minValue": min(values, default=0.0),
        "binMin": interval.low,
        "binMax": interval.high,
        "binContains": interval.contains,
        "qualifyingTokenIndex": peak,
        "dataIndex": str(window["context"]),
        "dataSource": export.cache.corpus.name,
        "lossValues": [],
        "logitContributions": None,
        "dfaValues": [],
        "dfaTargetIndex": None,
        "dfaMaxValue": None,
        "zIndices": [],
        "zValues": [],
        "creatorId": CREATOR,
        "createdAt": place.created,
    }


def _explanation(export: Export, place: Place, latent: Latent, explanation: Row) -> Row:
    model, kind = model_and_type(explanation)
    scores = ", ".join(
        f"{name} {value:.3g}" for name, value in values_of(export, latent, explanation)
    )
    return {
        **_of(place, latent),
        "id": cuid("explanation", explanation["id"]),
        "description": explanation["text"],
        "authorId": CREATOR,
        "triggeredById": None,
        "typeName": kind,
        "explanationModelName": model,
        "notes": f"lite-interp: {scores}" if scores else "lite-interp",
        "umap_x": 0.0,
        "umap_y": 0.0,
        "umap_cluster": 0,
        "umap_log_feature_sparsity": 0.0,
    }


def model_and_type(explanation: Row) -> tuple[str, str | None]:
    """What `explanationModelName` and `typeName` say of who wrote an explanation.

    Of an imported one they are what its source, `model/type`, was made from: so it comes back as it
    was.
    """
    if explanation["explainer"] == IMPORTED:
        model, slash, kind = source_of(explanation).rpartition("/")
        return (model, kind) if slash and model and kind else (source_of(explanation), None)
    return explanation["engine"] or "lite-interp", explanation["explainer"]
