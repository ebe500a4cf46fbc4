"""Neuronpedia's files: the exact names, fields and types, the first-line rule, and the way back.

The schema below is that of its importer and database: which fields a line has, of which type, and
which may be null. An instance checks nothing more before it stores a line.
"""

import gzip
import json
import shutil

import pytest
import tiny_export
import tiny_study
from tiny_export import write_file
from tiny_results import CACHE, make_examples, store_latent

from lite_interp.db import caches, studies
from lite_interp.db.file import open_results, read_results
from lite_interp.errors import UsageError
from lite_interp.export import neuronpedia
from lite_interp.export.base import ExportJob
from lite_interp.export.running import export_results
from lite_interp.outside.belonging import of_this_coder
from lite_interp.outside.fields import Record
from lite_interp.outside.formats import read_outside

TEXT, NUMBER, WHOLE, YES, TEXTS, NUMBERS, WHOLES = [
    "text",
    "number",
    "whole",
    "yes",
    "texts",
    "numbers",
    "wholes",
]

SCHEMA = {
    "release": {
        "name": TEXT, "description": TEXT, "descriptionShort": TEXT, "creatorName": TEXT,
        "creatorNameShort": TEXT, "creatorId": TEXT, "visibility": TEXT, "isNewUi": YES,
        "featured": YES, "urls": TEXTS, "creatorEmail": TEXT, "defaultSourceSetName": TEXT,
        "defaultSourceId": TEXT, "defaultUmapSourceIds": TEXTS, "createdAt": TEXT,
    },
    "model": {
        "id": TEXT, "displayNameShort": TEXT, "displayName": TEXT, "creatorId": TEXT,
        "instruct": YES, "tlensId": TEXT, "dimension": WHOLE, "visibility": TEXT,
        "defaultSourceSetName": TEXT, "defaultSourceId": TEXT, "inferenceEnabled": YES,
        "layers": WHOLE, "neuronsPerLayer": WHOLE, "owner": TEXT, "website": TEXT,
        "createdAt": TEXT, "updatedAt": TEXT,
    },
    "sourceset": {
        "modelId": TEXT, "name": TEXT, "creatorId": TEXT, "hasDashboards": YES,
        "visibility": TEXT, "description": TEXT, "type": TEXT, "creatorName": TEXT,
        "urls": TEXTS, "creatorEmail": TEXT, "releaseName": TEXT, "defaultOfModelId": TEXT,
        "defaultRange": WHOLE, "defaultShowBreaks": YES, "showDfa": YES, "showCorrelated": YES,
        "showHeadAttribution": YES, "showUmap": YES, "createdAt": TEXT,
    },
    "source": {
        "id": TEXT, "modelId": TEXT, "setName": TEXT, "creatorId": TEXT, "hasDashboards": YES,
        "inferenceEnabled": YES, "saelensConfig": TEXT, "saelensRelease": TEXT,
        "saelensSaeId": TEXT, "hfRepoId": TEXT, "hfFolderId": TEXT, "visibility": TEXT,
        "num_prompts": WHOLE, "num_tokens_in_prompt": WHOLE, "dataset": TEXT, "notes": TEXT,
        "hasUmap": YES, "hasUmapLogSparsity": YES, "hasUmapClusters": YES, "createdAt": TEXT,
    },
    "features": {
        "modelId": TEXT, "layer": TEXT, "index": TEXT, "sourceSetName": TEXT, "creatorId": TEXT,
        "createdAt": TEXT, "maxActApprox": NUMBER, "hasVector": YES, "vector": NUMBERS,
        "vectorLabel": TEXT, "vectorDefaultSteerStrength": NUMBER, "hookName": TEXT,
        "topkCosSimIndices": WHOLES, "topkCosSimValues": NUMBERS,
        "neuron_alignment_indices": WHOLES, "neuron_alignment_values": NUMBERS,
        "neuron_alignment_l1": NUMBERS, "correlated_neurons_indices": WHOLES,
        "correlated_neurons_pearson": NUMBERS, "correlated_neurons_l1": NUMBERS,
        "correlated_features_indices": WHOLES, "correlated_features_pearson": NUMBERS,
        "correlated_features_l1": NUMBERS, "neg_str": TEXTS, "neg_values": NUMBERS,
        "pos_str": TEXTS, "pos_values": NUMBERS, "frac_nonzero": NUMBER,
        "freq_hist_data_bar_heights": NUMBERS, "freq_hist_data_bar_values": NUMBERS,
        "logits_hist_data_bar_heights": NUMBERS, "logits_hist_data_bar_values": NUMBERS,
        "decoder_weights_dist": NUMBERS,
    },
    "activations": {
        "id": TEXT, "modelId": TEXT, "layer": TEXT, "index": TEXT, "tokens": TEXTS,
        "values": NUMBERS, "maxValue": NUMBER, "maxValueTokenIndex": WHOLE, "minValue": NUMBER,
        "binMin": NUMBER, "binMax": NUMBER, "binContains": NUMBER, "qualifyingTokenIndex": WHOLE,
        "dataIndex": TEXT, "dataSource": TEXT, "lossValues": NUMBERS, "logitContributions": TEXT,
        "dfaValues": NUMBERS, "dfaTargetIndex": WHOLE, "dfaMaxValue": NUMBER, "zIndices": WHOLES,
        "zValues": NUMBERS, "creatorId": TEXT, "createdAt": TEXT,
    },
    "explanations": {
        "id": TEXT, "modelId": TEXT, "layer": TEXT, "index": TEXT, "description": TEXT,
        "authorId": TEXT, "triggeredById": TEXT, "typeName": TEXT, "explanationModelName": TEXT,
        "notes": TEXT, "umap_x": NUMBER, "umap_y": NUMBER, "umap_cluster": WHOLE,
        "umap_log_feature_sparsity": NUMBER,
    },
}  # fmt: skip
"""File → its fields with their types, all of them; `embedding` is left out where there is none."""

NULL = {
    "creatorEmail", "tlensId", "website", "defaultOfModelId", "saelensConfig", "saelensRelease",
    "saelensSaeId", "hfRepoId", "hfFolderId", "vectorLabel", "logitContributions",
    "dfaTargetIndex", "dfaMaxValue", "triggeredById", "typeName",
}  # fmt: skip
"""Fields that may be null, those that the database allows."""


def is_of(value, kind) -> bool:
    if kind in (TEXTS, NUMBERS, WHOLES):
        return isinstance(value, list) and all(is_of(each, kind[:-1]) for each in value)
    if kind == YES or isinstance(value, bool):
        return kind == YES and isinstance(value, bool)
    plain = {TEXT: str, WHOLE: int, NUMBER: (int, float)}
    return isinstance(value, plain[kind])


def check(folder) -> dict[str, list[dict]]:
    """Every line of an export by kind, each checked against the schema."""
    found: dict[str, list[dict]] = {kind: [] for kind in SCHEMA}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        kind = path.parent.name if path.name.startswith("batch-") else path.stem
        assert path.name in (f"{kind}.jsonl", path.name if path.name.endswith(".jsonl.gz") else "")
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert data.endswith(b"\n")
        assert b"\\u0000" not in data
        rows = [json.loads(line) for line in data.decode().splitlines()]
        if path.suffix != ".gz":
            assert len(rows) == 1
        for row in rows:
            # The keys of the first line are the columns of the whole file.
            assert set(row) == set(rows[0]) == set(SCHEMA[kind]), path
            for name, value in row.items():
                if value is None:
                    assert name in NULL, f"{path}: {name}"
                else:
                    assert is_of(value, SCHEMA[kind][name]), f"{path}: {name}: {value!r}"
        found[kind] += rows
    return found


def export(results, out, **job):
    told = tiny_study.Told()
    return export_results(results, "", ExportJob("neuronpedia", str(out), **job), told), told.lines


@pytest.fixture
def results(tmp_path):
    return write_file(tmp_path / "results.db")


def test_every_file_fits_the_schema(results, tmp_path):
    done, told = export(results, tmp_path / "out")
    assert done.path == str(tmp_path / "out" / "s" / "1-c")
    found = check(tmp_path / "out" / "s" / "1-c")
    assert [row["index"] for row in found["features"]] == ["0", "1", "2", "3"]
    assert {row["index"] for row in found["activations"]} == {"0", "2"}
    assert [row["description"] for row in found["explanations"]] == ["names of years", "a cat"]
    for rows in found.values():
        for row in rows:
            assert row.get("modelId", "s") == "s"
            assert row.get("layer", "1-c") == "1-c"
    ids = [row["id"] for kind in ("activations", "explanations") for row in found[kind]]
    assert len(set(ids)) == len(ids)
    assert all(len(each) == 25 and each[0] == "c" and each.isalnum() for each in ids)
    (source,), (sourceset,) = found["source"], found["sourceset"]
    (release,), (model,) = found["release"], found["model"]
    assert (source["id"], source["setName"], sourceset["name"]) == ("1-c", "c", "c")
    assert sourceset["releaseName"] == release["name"]
    assert (model["id"], model["defaultSourceId"]) == ("s", "1-c")
    assert any("must know these explanation types: llm; and models: e" in line for line in told)


def test_a_hostile_file_fits_the_schema_too(tmp_path):
    evil = tiny_export.hostile(tmp_path / "results.db")
    export(evil, tmp_path / "out")
    (folder,) = (tmp_path / "out" / "s").iterdir()
    assert folder.name == "1-cmd-c-calc-a0-31m"
    check(folder)


def test_a_feature_says_what_the_file_knows(results, tmp_path):
    export(results, tmp_path / "out", latents=(0,))
    found = check(tmp_path / "out")
    (row,) = found["features"]
    assert row["maxActApprox"] == 3.0
    assert row["frac_nonzero"] == 5 / 36
    assert sum(row["freq_hist_data_bar_heights"]) == 5
    assert row["freq_hist_data_bar_values"][:2] == [0.075, 0.225]
    assert (row["pos_str"], row["pos_values"]) == ([" years"], [2.5])
    assert (row["neg_str"], row["neg_values"]) == ([" cat"], [-1.5])
    assert (row["topkCosSimIndices"], row["topkCosSimValues"]) == ([3], [0.5])
    top = found["activations"][0]
    assert (top["binMin"], top["binMax"], top["binContains"]) == (-1, -1, -1)
    assert (top["maxValue"], top["maxValueTokenIndex"], top["minValue"]) == (3.0, 2, 0.0)
    assert (top["tokens"], top["dataIndex"]) == ([" in", " the0", " year"], "0")
    (explanation,) = found["explanations"]
    assert explanation["notes"] == "lite-interp: detection 0.812, embedding 0.812"
    assert (explanation["explanationModelName"], explanation["typeName"]) == ("e", "llm")


def test_windows_behind_the_strongest_stand_in_their_interval(results, tmp_path, monkeypatch):
    monkeypatch.setattr(neuronpedia, "N_TOP", 1)
    export(results, tmp_path / "out", latents=(0,))
    rows = check(tmp_path / "out")["activations"]
    # Firings 3.0, 0.5, 2.0, 1.25, 0.75; intervals of 0.6; windows with peaks 3, 2 and 1.
    assert [
        (row["maxValue"], round(row["binMin"], 6), round(row["binMax"], 6)) for row in rows
    ] == [
        (3.0, -1, -1),
        (2.0, 1.8, 2.4),
        (1.0, 0.6, 1.2),
    ]
    assert [round(row["binContains"], 6) for row in rows[1:]] == [0.2, 0.2]


def test_batches_hold_the_same_latents(results, tmp_path, monkeypatch):
    monkeypatch.setattr(neuronpedia, "BATCH", 2)
    export(results, tmp_path / "out")
    folder = tmp_path / "out" / "s" / "1-c"
    indices = {}
    for path in sorted(folder.rglob("batch-*")):
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        indices[str(path.relative_to(folder))] = sorted({row["index"] for row in rows})
    assert indices == {
        "features/batch-0.jsonl.gz": ["0", "1"],
        "features/batch-1.jsonl.gz": ["2", "3"],
        "activations/batch-0.jsonl.gz": ["0"],
        "activations/batch-1.jsonl.gz": ["2"],
        "explanations/batch-0.jsonl.gz": ["0"],
        "explanations/batch-1.jsonl.gz": ["2"],
    }


def test_the_user_says_what_neuronpedia_calls_subject_and_coder(results, tmp_path):
    job = {"model_id": "gemma-2-2b", "source_id": "1-gemmascope-res-16k__l0-8"}
    done, _ = export(results, tmp_path / "out", **job)
    found = check(tmp_path / "out" / "gemma-2-2b" / "1-gemmascope-res-16k__l0-8")
    assert found["source"][0]["setName"] == "gemmascope-res-16k"
    for wrong in ({"model_id": "../x"}, {"source_id": "res"}, {"source_id": "1-a/b"}):
        with pytest.raises(UsageError, match="no id of Neuronpedia"):
            export(results, tmp_path / "out", **wrong)


def read(folder):
    return [
        record
        for path in sorted((folder / "explanations").iterdir())
        for record in read_outside(path)
        if isinstance(record, Record)
    ]


def test_our_import_reads_our_export(results, tmp_path):
    done, _ = export(results, tmp_path / "out")
    with read_results(results) as db:
        cache = caches.the_cache(db)
        texts = {(each.latent, each.text) for each in studies.load_explanations(db, CACHE)}
    found = of_this_coder(read(tmp_path / "out" / "s" / "1-c"), cache)
    assert found.flaws == []
    assert {(each.latent, each.text) for each in found.records} == texts - {(1, None)}
    assert {each.source for each in found.records} == {"e/llm"}


@pytest.mark.parametrize("source", ["gpt-4o/np_max-act", "a/b/c", "Anna", "x/", "/y", "a b"])
def test_who_wrote_an_imported_explanation_comes_back(results, tmp_path, source):
    other = shutil.copy(results, tmp_path / "other.db")
    with open_results(other) as db:
        settings = {"source": source}
        changes = {"prompt_id": None, "engine_id": None, "settings": settings}
        store_latent(
            db, make_examples(3), name="imported", explainer="import", text="dogs", **changes
        )
    export(other, tmp_path / "out", latents=(3,))
    check(tmp_path / "out")
    (record,) = read(tmp_path / "out" / "s" / "1-c")
    assert (record.latent, record.text, record.source) == (3, "dogs", source)
