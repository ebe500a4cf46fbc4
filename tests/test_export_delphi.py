"""Delphi's folders out and in: what its loader reads, and firings that come back as they were."""

import json
import shutil

import numpy as np
import pytest
import tiny_study
from safetensors.numpy import load_file, save_file
from tiny_export import FIRINGS, write_file
from typer.testing import CliRunner

from lite_interp import pipeline
from lite_interp.cli import app
from lite_interp.db import cached, caches, studies
from lite_interp.db.file import open_results, read_results
from lite_interp.errors import LiteInterpError, UsageError
from lite_interp.export import delphi_cache
from lite_interp.export.base import ExportJob
from lite_interp.export.delphi_cache import splits
from lite_interp.export.running import export_results
from lite_interp.outside import cache_importing, delphi_files
from lite_interp.outside.cache_importing import import_caches, is_delphi_cache
from lite_interp.outside.importing import ImportJob, import_explanations


@pytest.fixture(scope="module")
def cached_study(tmp_path_factory):
    """A cache of 32 latents with short contexts, and the subject that it is of."""
    folder = tmp_path_factory.mktemp("cached")
    parts = tiny_study.write_parts(folder)
    pipeline.cache_corpus(folder / "cached.db", tiny_study.cache_job(parts), tiny_study.Told())
    return folder


@pytest.fixture
def run(cached_study, tmp_path):
    """Its cache as Delphi's folder `latents`."""
    export(cached_study / "cached.db", "delphi-cache", tmp_path / "latents")
    return tmp_path


def export(results, kind, out, **job):
    told = tiny_study.Told()
    return export_results(results, "", ExportJob(kind, str(out), **job), told), told.lines


def bring_in(results, run, cached_study):
    told = tiny_study.Told()
    found = import_caches(results, [run], str(cached_study / "subject"), told)
    return found, told.lines


def everything(path):
    """Tokens, firings and statistics of the only cache of a file."""
    with read_results(path) as db:
        (cache,) = caches.load_caches(db)
        lengths, tokens = caches.load_tokens(db, cache.corpus)
        firings = {
            latent: (found.contexts.tolist(), found.positions.tolist(), found.values.tolist())
            for latent, found in cached.iterate_firings(db, cache)
        }
        stats = [caches.load_latent(db, cache.id, latent) for latent in range(cache.n_latents)]
    return lengths.tolist(), tokens.tolist(), firings, stats


def test_a_cache_comes_back_as_it_was(cached_study, run, tmp_path):
    (done,), told = bring_in(tmp_path / "new.db", run, cached_study)
    ours = everything(cached_study / "cached.db")
    theirs = everything(tmp_path / "new.db")
    assert ours[:3] == theirs[:3]
    assert len(ours[2]) > 10
    # Masked positions are not in the files: densities are over all tokens.
    for one, other in zip(ours[3], theirs[3], strict=True):
        assert (one.n_firings, one.max_value, one.histogram) == (
            other.n_firings, other.max_value, other.histogram
        )  # fmt: skip
    assert done.is_new
    assert done.n_dropped == 0
    assert done.n_firings == sum(len(found[0]) for found in ours[2].values())
    assert any("firings imported" in line for line in told)
    (again,), told = bring_in(tmp_path / "new.db", run, cached_study)
    assert again == done._replace(is_new=False)
    assert any("already there" in line for line in told)


def test_many_shards_and_blocks_are_one(cached_study, run, tmp_path, monkeypatch):
    bring_in(tmp_path / "one.db", run, cached_study)
    monkeypatch.setattr(delphi_files, "BLOCK", 37)
    monkeypatch.setattr(cache_importing, "BLOCK", 37)
    monkeypatch.setattr(cache_importing, "_contexts_in_shard", lambda n_ctx: 7)
    bring_in(tmp_path / "many.db", run, cached_study)
    assert everything(tmp_path / "one.db") == everything(tmp_path / "many.db")
    with read_results(tmp_path / "many.db") as db:
        (cache,) = caches.load_caches(db)
        assert len(caches.shard_places(db, cache.corpus.id)) > 5


def test_what_is_unknown_of_an_imported_cache_is_said(cached_study, run, tmp_path):
    bring_in(tmp_path / "new.db", run, cached_study)
    with read_results(tmp_path / "new.db") as db:
        settings = json.loads(db.execute("select settings from caches").fetchone()[0])
        coder = next(db.query("select * from coders"))
        (cache,) = caches.load_caches(db)
        ours = next(iter(studies.load_explanations(db, cache.id)), None)
    assert ours is None
    assert settings["imported"]["from"] == "delphi"
    assert "coder weights" in settings["imported"]["unknown"]
    assert settings["imported"]["config"]["cache_ctx_len"] == tiny_study.N_CTX
    assert (coder["format"], coder["activation"]) == ("unknown", "unknown")
    assert json.loads(coder["fit"])["fvu"] is None
    assert cache.hookpoint == "model.layers.1.output"
    with read_results(cached_study / "cached.db") as db:
        (real,) = caches.load_caches(db)
    assert len({cache.id, real.id, cache.coder_id, real.coder_id}) == 4
    assert cache.corpus.tokenizer_hash == real.corpus.tokenizer_hash
    info = CliRunner().invoke(app, ["info", str(tmp_path / "new.db")])
    assert info.exit_code == 0, info.output
    assert "FVU unknown" in info.stdout
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "new.db"), "3"])
    assert shown.exit_code == 0, shown.output


def test_an_imported_cache_can_be_explained_by_others_and_exported_again(
    cached_study, run, tmp_path
):
    new = tmp_path / "new.db"
    bring_in(new, run, cached_study)
    people = tmp_path / "people.jsonl"
    people.write_text(json.dumps({"latent": 3, "explanation": "cats", "coder": "layers.1"}) + "\n")
    (done,) = import_explanations(new, "", ImportJob([people]), tiny_study.Told())
    assert done.n_new == 1
    export(new, "delphi-cache", tmp_path / "again")
    first = sorted((run / "latents" / "layers.1").glob("*.safetensors"))
    again = sorted((tmp_path / "again" / "layers.1").glob("*.safetensors"))
    assert [path.name for path in first] == [path.name for path in again]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_the_files_are_what_delphis_loader_wants(run, cached_study):
    folder = run / "latents" / "layers.1"
    names = sorted(path.stem for path in folder.glob("*.safetensors"))
    edges = sorted(tuple(map(int, name.split("_"))) for name in names)
    assert edges == [(0, 5), (6, 11), (12, 18), (19, 24), (25, 31)]
    _, tokens, firings, _ = everything(cached_study / "cached.db")
    for first, last in edges:
        tensors = load_file(folder / f"{first}_{last}.safetensors")
        assert tensors["locations"].dtype == np.uint16
        assert tensors["activations"].dtype == np.float16
        assert tensors["tokens"].dtype == np.int64
        assert tensors["tokens"].tolist() == tokens
        # As its loader does: latents in their order, each with its rows, positions and values.
        order = np.argsort(tensors["locations"][:, 2], kind="stable")
        places = tensors["locations"][order].astype(np.int64)
        values = tensors["activations"][order]
        for latent in np.unique(places[:, 2]):
            own = places[:, 2] == latent
            found = [places[own, 0].tolist(), places[own, 1].tolist(), values[own].tolist()]
            assert tuple(found) == firings[latent + first]
    config = json.loads((folder / "config.json").read_text())
    needed = {"dataset_repo", "dataset_split", "dataset_name", "dataset_column", "batch_size",
              "cache_ctx_len", "n_tokens", "n_splits", "model_name"}  # fmt: skip
    assert needed <= set(config)


def test_large_values_are_exact_and_named_latents_alone_are_written(tmp_path):
    results = write_file(tmp_path / "results.db")
    _, told = export(results, "delphi-cache", tmp_path / "out")
    folder = tmp_path / "out" / "layers.1"
    tensors = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
    found = {}
    for path, each in zip(sorted(folder.glob("*.safetensors")), tensors, strict=True):
        first = int(path.stem.split("_")[0])
        for (row, position, latent), value in zip(
            each["locations"].tolist(), each["activations"].tolist(), strict=True
        ):
            places, values = found.setdefault(latent + first, ([], []))
            places.append(row * 8 + position)
            values.append(value)
    assert found == {0: FIRINGS[0], 2: ([1, 8, 41], [70016.0, 1.0, 2.5])}
    # Beyond float16, Delphi's own type: its file would hold an infinity.
    assert {str(each["activations"].dtype) for each in tensors} == {"float16", "float32"}
    assert any(
        "short contexts: 6 are filled up" in line or "are filled up" in line for line in told
    )
    assert any("no multiple of Delphi's windows" in line for line in told)
    export(results, "delphi-cache", tmp_path / "two", latents=(2,))
    n = [
        len(load_file(path)["activations"])
        for path in sorted((tmp_path / "two" / "layers.1").glob("*.safetensors"))
    ]
    assert sum(n) == 3


def test_files_are_cut_so_that_one_fits_in_memory(monkeypatch):
    assert list(splits(10, {})) == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]
    assert list(splits(3, {0: 5})) == [(0, 1), (1, 2), (2, 3)]
    monkeypatch.setattr(delphi_cache, "SPLIT_FIRINGS", 10)
    counts = {0: 4, 1: 6, 2: 1, 3: 50, 4: 1, 9: 10}
    cut = list(splits(20, counts))
    assert cut[:2] == [(0, 2), (2, 3)]
    assert [latent for first, end in cut for latent in range(first, end)] == list(range(20))
    for first, end in cut:
        assert end - first == 1 or sum(counts.get(at, 0) for at in range(first, end)) <= 10


def test_explanations_and_verdicts_as_delphi_writes_them(tmp_path):
    results = write_file(tmp_path / "results.db")
    export(results, "delphi", tmp_path / "out")
    found = {
        str(path.relative_to(tmp_path / "out")): json.loads(path.read_text(encoding="utf-8"))
        for path in (tmp_path / "out").rglob("*.txt")
    }
    assert sorted(found) == [
        f"{folder}/layers.1_latent{latent}.txt"
        for folder in ("explanations", "scores/detection", "scores/embedding")
        for latent in (0, 2)
    ]
    assert found["explanations/layers.1_latent0.txt"] == "names of years"
    rows = found["scores/detection/layers.1_latent0.txt"]
    assert [(row["activating"], row["prediction"], row["correct"]) for row in rows[:2]] == [
        (True, True, True),
        (True, False, False),
    ]
    # Of the silent windows one was not judged; their order is that of their names.
    answers = [(row["activating"], row["prediction"], row["correct"]) for row in rows[2:]]
    assert sorted(answers, key=str) == [(False, False, True), (False, None, None)]
    assert rows[0]["probability"] == pytest.approx(1 / (1 + np.exp(-1.5)))
    assert (rows[0]["str_tokens"], rows[0]["activations"]) == (
        [" in", " the1", " year"],
        [0.0, 0.5, 2.0],
    )
    assert [row["distance"] for row in rows] == [0, 0, -1, -1]
    similar = found["scores/embedding/layers.1_latent0.txt"]
    assert sorted(row["similarity"] for row in similar) == [-0.5, 0.0, 0.25, 0.5]


def test_explanations_come_back_and_are_not_imported_twice(cached_study, tmp_path):
    """In every format that `import` reads."""
    results = shutil.copy(cached_study / "cached.db", tmp_path / "results.db")
    people = tmp_path / "people.jsonl"
    rows = [
        {"latent": 3, "explanation": "=SUM(A1), a formula", "source": "Anna"},
        {"latent": 1, "explanation": "'=quoted' <b>& more</b> \u202eevil", "source": "@Ben"},
        {"latent": 5, "explanation": "naïve café 年 🎉", "source": "-C"},
    ]
    people.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_explanations(results, "", ImportJob([people]), tiny_study.Told())
    for kind, inside in (
        ("jsonl", ""), ("csv", ""), ("neuronpedia", "subject/1-coder-layers.1/explanations"),
        ("delphi", "explanations"),
    ):  # fmt: skip
        out = tmp_path / f"{kind}.out"
        export(results, kind, out)
        found = out / inside if inside else out
        paths = sorted(found.iterdir()) if kind == "neuronpedia" else [found]
        known = import_explanations(results, "", ImportJob(paths), tiny_study.Told())
        empty = shutil.copy(cached_study / "cached.db", tmp_path / f"{kind}.db")
        new = import_explanations(empty, "", ImportJob(paths), tiny_study.Told())
        assert sum(each.n_new for each in new) == 3
        texts = []
        for path in (results, empty):
            with read_results(path) as db:
                (cache,) = caches.load_caches(db)
                every = studies.load_explanations(db, cache.id)
                texts.append(sorted({(each.latent, each.text) for each in every}))
        assert texts[0] == texts[1]
        if kind != "delphi":  # it does not say who
            assert [(each.source, each.n_new, each.n_known) for each in known] == [
                ("-C", 0, 1), ("@Ben", 0, 1), ("Anna", 0, 1)
            ]  # fmt: skip


def test_lines_that_say_why_there_is_no_explanation_are_left_out_and_told(tmp_path, cached_study):
    file = write_file(tmp_path / "file.db")
    results = shutil.copy(cached_study / "cached.db", tmp_path / "results.db")
    for kind in ("jsonl", "csv"):
        export(file, kind, tmp_path / kind)
        text = (tmp_path / kind).read_text(encoding="utf-8").replace("b2:coder", "layers.1")
        (tmp_path / kind).write_text(text, encoding="utf-8")
        told = tiny_study.Told()
        import_explanations(results, "", ImportJob([tmp_path / kind]), told)
        assert "left out: 1 lines that say why there is no explanation" in told.lines


def damaged(folder, change):
    """The first file of a hookpoint with its tensors changed."""
    path = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(path)
    change(tensors)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)


def set_value(name, at, value, dtype=None):
    def change(tensors):
        tensors[name] = tensors[name].astype(dtype or tensors[name].dtype)
        tensors[name][at] = value

    return change


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (set_value("activations", 0, np.inf), "no number"),
        (set_value("activations", 0, np.nan), "no number"),
        (set_value("locations", (0, 0), 60000), "out of range"),
        (set_value("locations", (0, 1), 32), "out of range"),
        (set_value("locations", (0, 2), 6), "out of range"),
        (set_value("locations", (0, 1), -1, np.int32), "out of range"),
        (lambda tensors: set_value("locations", 0, tensors["locations"][1])(tensors), "twice"),
        (set_value("tokens", (0, 0), 10**6), "a token that the subject does not have"),
        (set_value("tokens", (0, 0), -1), "a token that the subject does not have"),
        (set_value("lengths", 0, 33), "lengths out of range"),
        (set_value("lengths", 0, 0), "lengths out of range"),
        (lambda tensors: tensors.pop("tokens"), "no tokens in it"),
        (lambda tensors: tensors.pop("locations"), "no locations in it"),
        (lambda tensors: tensors.update(lengths=np.zeros(3, np.int32)), "lengths do not fit"),
        (lambda tensors: tensors.update(activations=tensors["activations"][:-1]), "unknown shape"),
        (lambda tensors: tensors.update(tokens=tensors["tokens"][0]), "unknown shape"),
        (lambda tensors: tensors.update(tokens=tensors["tokens"][1:]), "different tokens"),
        (set_value("tokens", (0, 0), 0.5, np.float32), "no integers"),
        (lambda tensors: tensors.update(activations=tensors["locations"][:, 0]), "unknown type"),
    ],
)
def test_a_cache_that_cannot_be_is_refused_and_nothing_is_stored(
    cached_study, run, tmp_path, change, wrong
):
    damaged(run / "latents" / "layers.1", change)
    with pytest.raises(LiteInterpError) as refused:
        bring_in(tmp_path / "new.db", run, cached_study)
    assert wrong in f"{refused.value} {refused.value.hint}"
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "new.db").exists()


def test_a_file_that_is_cut_or_missing_is_refused(cached_study, run, tmp_path):
    folder = run / "latents" / "layers.1"
    paths = sorted(folder.glob("*.safetensors"))
    data = paths[0].read_bytes()
    for wrong in (data[: len(data) // 2], b"", b"\xff" * 64, data + b"x"):
        paths[0].write_bytes(wrong)
        with pytest.raises(LiteInterpError, match="cannot be read"):
            bring_in(tmp_path / "new.db", run, cached_study)
    paths[0].write_bytes(data)
    for text in ("[1]", "{", "\x00"):
        (folder / "config.json").write_text(text)
        with pytest.raises(LiteInterpError, match=r"config"):
            bring_in(tmp_path / "new.db", run, cached_study)
    (folder / "config.json").unlink()
    (folder / "6_11.safetensors").rename(folder / "7_11.safetensors")
    with pytest.raises(LiteInterpError, match="latents are missing"):
        bring_in(tmp_path / "new.db", run, cached_study)
    (folder / "7_11.safetensors").rename(folder / "6_11.safetensors")
    bring_in(tmp_path / "new.db", run, cached_study)
    assert everything(tmp_path / "new.db")[:3] == everything(cached_study / "cached.db")[:3]


def test_activations_that_are_no_firings_are_left_out_and_counted(cached_study, run, tmp_path):
    """Delphi keeps what is far from 0, on either side; a coder of ours fires above 0."""

    def change(tensors):
        tensors["activations"][:3] *= -1

    damaged(run / "latents" / "layers.1", change)
    (done,), told = bring_in(tmp_path / "new.db", run, cached_study)
    assert done.n_dropped == 3
    assert any("left out: 3 activations not above 0" in line for line in told)
    ours = everything(cached_study / "cached.db")[2]
    theirs = everything(tmp_path / "new.db")[2]
    count = [sum(len(each[0]) for each in found.values()) for found in (ours, theirs)]
    assert count[0] - count[1] == 3


def test_several_hookpoints_are_several_caches_of_one_corpus(cached_study, run, tmp_path):
    shutil.copytree(run / "latents" / "layers.1", run / "latents" / "layers.2.mlp")
    path = run / "latents" / "layers.2.mlp" / "config.json"
    path.write_text(json.dumps({"model_name": "x\x1b[2J", "bad": [1], "nan": float("nan")}))
    found, _ = bring_in(tmp_path / "new.db", run, cached_study)
    assert [each.hookpoint for each in found] == ["layers.1", "layers.2.mlp"]
    with read_results(tmp_path / "new.db") as db:
        first, second = caches.load_caches(db)
    assert first.id != second.id
    # The name of the data is not part of a corpus; its tokens are.
    assert first.corpus.id == second.corpus.id
    assert second.hookpoint == "layers.2.mlp.output"


def test_an_import_that_is_interrupted_leaves_nothing(cached_study, run, tmp_path, monkeypatch):
    told = tiny_study.Told(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        import_caches(tmp_path / "new.db", [run], str(cached_study / "subject"), told)
    assert not (tmp_path / "new.db").exists()
    bring_in(tmp_path / "new.db", run, cached_study)


def test_the_command_imports_a_cache(cached_study, run, tmp_path):
    new = tmp_path / "new.db"
    assert is_delphi_cache(run)
    assert is_delphi_cache(run / "latents" / "layers.1")
    assert not is_delphi_cache(tmp_path / "nowhere")
    refused = CliRunner().invoke(app, ["import", str(new), str(run)])
    assert refused.exit_code == 2
    assert refused.stderr.startswith("Error: the subject must be named")
    people = tmp_path / "people.jsonl"
    people.write_text('{"latent": 1, "explanation": "x"}\n')
    both = CliRunner().invoke(app, ["import", str(new), str(run), str(people)])
    assert both.exit_code == 2
    assert "by themselves" in both.stderr
    subject = ["--subject", str(cached_study / "subject")]
    done = CliRunner().invoke(app, ["import", str(new), str(run / "latents"), *subject])
    assert done.exit_code == 0, done.stderr
    assert "firings imported" in done.stderr
    with pytest.raises(UsageError, match="must be named"):
        import_caches(new, [run], "", tiny_study.Told())


def test_a_file_without_firings_has_no_cache_to_export(tmp_path):
    results = write_file(tmp_path / "results.db")
    with open_results(results) as db:
        db.execute("delete from firings")
    with pytest.raises(LiteInterpError, match="no firings or tokens"):
        export(results, "delphi-cache", tmp_path / "out")
    assert not (tmp_path / "out").exists()
