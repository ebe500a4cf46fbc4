"""Results in the files of others: rows, the same bytes each time, hostile texts, all or none."""

import csv
import gzip
import io
import json
import os
import unicodedata

import pytest
import tiny_export
import tiny_study
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_export import EVIL, write_file
from tiny_results import CACHE, make_examples
from typer.testing import CliRunner

from lite_interp.cli import app
from lite_interp.db import caches, export_rows, studies
from lite_interp.db.file import open_results, read_results
from lite_interp.errors import LiteInterpError, ResultsError, UsageError
from lite_interp.export.base import ExportJob
from lite_interp.export.circuit_tracer import feature
from lite_interp.export.csv_table import cell
from lite_interp.export.formats import FORMATS
from lite_interp.export.markdown import escaped
from lite_interp.export.running import export_results
from lite_interp.export.writing import json_text, staged, tidy
from lite_interp.outside.cells import plain_cell, safe_cell
from lite_interp.overview import latent_rows

TEXTS = st.text(alphabet=st.one_of(st.sampled_from("'=+-@\t\r\n ＝\ufeff1a"), st.characters()))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write_file(tmp_path_factory.mktemp("results") / "results.db")


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    return tiny_export.hostile(tmp_path_factory.mktemp("evil") / "results.db")


def export(results, kind, out, **job):
    told = tiny_study.Told()
    done = export_results(results, "", ExportJob(kind, str(out), **job), told)
    return done, told.lines


def files(folder):
    """Every file of an export with its bytes."""
    if folder.is_file():
        return {"": folder.read_bytes()}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_are_those_of_the_table_of_list(results, tmp_path):
    export(results, "jsonl", tmp_path / "out.jsonl")
    rows = lines(tmp_path / "out.jsonl")
    assert [(row["latent"], row["explanation"], row["failure"]) for row in rows] == [
        (0, "names of years", None),
        (1, None, "no_windows"),
        (2, "a cat", None),
    ]
    with read_results(results) as db:
        listed = latent_rows(db, caches.the_cache(db), "raw")
    # `list` names arms and adds up the cost of a latent; the rest is the same.
    for row, other in zip(rows, listed, strict=True):
        shared = set(row) & set(other) - {"tokens", "seconds"}
        assert len(shared) > (30 if row["explanation"] else 5)
        assert {key: row[key] for key in shared} == {key: other[key] for key in shared}
    first = rows[0]
    assert (first["source"], first["engine"], first["prompt"]) == ("llm", "e", "p")
    assert (first["n_firings"], first["max_value"], first["raw"]) == (5, 3.0, " meaning 0.")
    assert first["top_tokens"] == [[" year", 0.75], ["=x", 0.25]]
    assert {tuple(row) for row in rows} == {tuple(sorted(first))}


def test_named_latents_have_a_row_in_any_case_and_one_explainer_may_be_wanted(results, tmp_path):
    export(results, "jsonl", tmp_path / "a", latents=(3, 0, 3))
    rows = lines(tmp_path / "a")
    assert [(row["latent"], row["failure"]) for row in rows] == [
        (0, None),
        (3, "not explained yet"),
    ]
    export(results, "jsonl", tmp_path / "last", latents=(2,))
    (row,) = lines(tmp_path / "last")
    assert (row["latent"], row["detection"], row["embedding"]) == (2, 0.8125, 0.8125)
    export(results, "jsonl", tmp_path / "b", explainer="nobody")
    assert (tmp_path / "b").read_bytes() == b""
    with pytest.raises(UsageError, match="no such latent: 4"):
        export(results, "jsonl", tmp_path / "c", latents=(0, 4))


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_is_the_same_each_time_and_says_what_it_does_not_hold(results, tmp_path, kind):
    # A latent whose greatest activation is above 65,504 does not keep its file from being exact.
    done, told = export(results, kind, tmp_path / "a")
    again, _ = export(results, kind, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert (done.n_files, done.n_bytes) == (again.n_files, again.n_bytes)
    assert done.n_bytes == sum(map(len, files(tmp_path / "a").values()))
    assert any(line.startswith("not in it: ") for line in told)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    for data in files(tmp_path / "a").values():
        if data[:2] == b"\x1f\x8b":
            assert data[4:8] == bytes(4), "a time in the head of a gzip file"
            assert not data[3], "a name in the head of a gzip file"


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_overwritten_unless_it_is_wanted(results, tmp_path, kind):
    out = tmp_path / "out"
    export(results, kind, out)
    before = files(out)
    with pytest.raises(UsageError, match="it is there already") as refused:
        export(results, kind, out)
    assert "--force" in refused.value.hint
    export(results, kind, out, force=True)
    assert files(out) == before
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_is_not_whole_has_no_name(results, tmp_path, monkeypatch, kind, error):
    whole = FORMATS[kind]

    def broken(found, place):
        whole.write(found, place)
        raise error

    monkeypatch.setitem(FORMATS, kind, whole._replace(write=broken))
    with pytest.raises((KeyboardInterrupt, LiteInterpError)) as stopped:
        export(results, kind, tmp_path / "out")
    if isinstance(stopped.value, LiteInterpError):
        assert str(stopped.value).startswith("cannot be written: ")
        assert "No space left" in str(stopped.value)
    assert os.listdir(tmp_path) == []
    monkeypatch.setitem(FORMATS, kind, whole)
    export(results, kind, tmp_path / "out")
    before = files(tmp_path / "out")
    monkeypatch.setitem(FORMATS, kind, whole._replace(write=broken))
    with pytest.raises((KeyboardInterrupt, LiteInterpError)):
        export(results, kind, tmp_path / "out", force=True)
    assert files(tmp_path / "out") == before


def test_force_does_not_cost_anybody_a_folder_of_something_else(results, tmp_path):
    home = tmp_path / "home"
    (home / "thesis").mkdir(parents=True)
    (home / "thesis" / "last.txt").write_text("years of work")
    for kind in ("delphi", "circuit-tracer"):
        with pytest.raises(UsageError, match="holds something else"):
            export(results, kind, home, force=True)
    with pytest.raises(UsageError, match="a folder is there already"):
        export(results, "csv", home, force=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="a file is there already"):
        export(results, "delphi", tmp_path / "file", force=True)
    (tmp_path / "link").symlink_to(home)
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        export(results, "delphi", tmp_path / "link", force=True)
    assert (home / "thesis" / "last.txt").read_text() == "years of work"
    with pytest.raises(LiteInterpError, match="no such folder"):
        export(results, "csv", tmp_path / "not" / "there" / "x")
    with pytest.raises(LiteInterpError, match="no such folder"):
        export(results, "neuronpedia", tmp_path / "not" / "there")


def test_a_folder_that_cannot_be_renamed_leaves_the_old_one(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")
    renames = []
    plain = type(out).rename

    def rename(self, target):
        renames.append(self)
        if len(renames) == 2:
            raise OSError(13, "Permission denied")
        return plain(self, target)

    monkeypatch.setattr(type(out), "rename", rename)
    with pytest.raises(LiteInterpError, match="Permission denied"), staged(out, True) as new:
        new.mkdir()
        (new / "a").write_text("new")
    assert (out / "a").read_text() == "old"


@given(TEXTS)
@example("=1")
@example("'=1")
@example("''=1")
@example("'\t")
@example("\n+1")
@example("'")
def test_a_cell_made_safe_can_be_had_back(text):
    assert plain_cell(safe_cell(text)) == text
    first = safe_cell(text).lstrip("\ufeff" + "".join(map(chr, range(33))))[:1]
    assert first not in tuple("=+-@＝＋－＠")
    assert safe_cell(text)[:1] not in tuple("=+-@\t\r")


@pytest.mark.parametrize("text", ["'tis", "''quoted''", "a=1", "", "'", "1-2", "–5"])
def test_a_harmless_cell_stays_as_it_is(text):
    assert safe_cell(text) == plain_cell(text) == text


def test_numbers_stay_numbers_in_a_table(results, tmp_path):
    assert cell(-1.5) == -1.5
    assert cell("-1.5") == "'-1.5"
    assert cell(float("nan")) == cell(None) == ""
    export(results, "csv", tmp_path / "out.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text(encoding="utf-8"))))
    assert [float(row["density"]) for row in rows] == [5 / 36, 0.0, 3 / 36]
    assert rows[0]["detection"] == "0.8125"
    assert rows[0]["top_tokens"] == '[[" year",0.75],["=x",0.25]]'
    assert rows[1]["detection"] == ""


def test_a_parquet_file_has_types_and_whole_texts(results, evil, tmp_path):
    import pyarrow.parquet

    export(results, "parquet", tmp_path / "out.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert str(table.schema.field("detection").type) == "double"
    assert str(table.schema.field("detection_n").type) == "int64"
    first = table.to_pylist()[0]
    assert first["top_tokens"] == [
        {"token": " year", "value": 0.75},
        {"token": "=x", "value": 0.25},
    ]
    assert (first["latent"], first["settings"], first["flags"]) == (0, '{"n_words":24}', ["rare"])
    export(evil, "parquet", tmp_path / "evil.parquet")
    found = pyarrow.parquet.read_table(tmp_path / "evil.parquet").to_pylist()
    assert found[0]["explanation"] == EVIL.replace("\x00", "\ufffd")


def test_without_pyarrow_parquet_is_refused_in_one_line(results, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pyarrow, which is not installed"):
        export(results, "parquet", tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_the_table_of_markdown(results, tmp_path):
    export(results, "markdown", tmp_path / "out.md")
    assert (tmp_path / "out.md").read_text(encoding="utf-8").splitlines() == [
        r"| latent | density | explanation | source | detection | embedding | diagnosis |",
        "| ---: | ---: | --- | --- | ---: | ---: | --- |",
        r"| 0 | 13.89% | names of years | llm | .81 | .81 | good |",
        r"| 1 | 0.00% | *none: no\_windows* | llm | – | – | unsure |",
        r"| 2 | 8.33% | a cat | llm | .81 | .81 | good |",
    ]


def test_labels_and_pages_of_circuit_tracer(results, tmp_path):
    assert [feature(0, 0), feature(1, 0), feature(0, 1), feature(3, 4)] == [0, 1, 2, 32]
    done, told = export(results, "circuit-tracer", tmp_path / "out")
    labels = json.loads((tmp_path / "out" / "clerps.json").read_text(encoding="utf-8"))
    assert labels == [[str(feature(1, 0)), "names of years"], [str(feature(1, 2)), "a cat"]]
    folder = tmp_path / "out" / "features"
    index = json.loads(gzip.decompress((folder / "index.json.gz").read_bytes()))
    assert list(index) == ["1"]
    data, offsets = (folder / index["1"]["filename"]).read_bytes(), index["1"]["offsets"]
    assert len(offsets) == 5
    assert offsets[0] == 0
    assert offsets[-1] == len(data)
    pages = []
    for low, high in zip(offsets, offsets[1:], strict=False):
        length = int.from_bytes(data[low : low + 4], "little")
        assert low + 4 + length == high
        pages.append(json.loads(gzip.decompress(data[low + 4 : high])))
    assert [page["index"] for page in pages] == [0, 1, 2, 3]
    (examples,) = pages[0]["examples_quantiles"]
    assert [each["tokens_acts_list"][-1] for each in examples["examples"]] == [3.0, 2.0, 1.0]
    assert examples["examples"][0]["train_token_ind"] == 2
    assert (pages[0]["top_logits"], pages[0]["bottom_logits"]) == ([" years"], [" cat"])
    assert (pages[0]["act_max"], pages[3]["act_max"]) == (3.0, 0.0)
    assert pages[3]["examples_quantiles"][0]["examples"] == []
    export(results, "circuit-tracer", tmp_path / "two", latents=(2,))
    index = json.loads(
        gzip.decompress((tmp_path / "two" / "features" / "index.json.gz").read_bytes())
    )
    offsets = index["1"]["offsets"]
    assert offsets[:3] == [0, 0, 0]
    assert offsets[3] == offsets[4] > 0


def test_a_hookpoint_without_a_layer_is_refused(results, tmp_path):
    import shutil

    other = shutil.copy(results, tmp_path / "other.db")
    with open_results(other) as db:
        db.execute("update coders set hookpoint = 'model.embed_tokens.output'")
    for kind in ("circuit-tracer", "neuronpedia"):
        with pytest.raises(UsageError, match="hookpoint has no layer"):
            export(other, kind, tmp_path / "out")
    export(other, "neuronpedia", tmp_path / "out", source_id="0-res")


def texts_in(data):
    """Every text of a file as its reader sees it."""
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    return data


@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"parquet", "delphi-cache"}))
def test_hostile_texts_cannot_leave_their_place(evil, tmp_path, kind):
    export(evil, kind, tmp_path / "out")
    for name, data in files(tmp_path / "out").items():
        if name.endswith(".bin"):
            length = int.from_bytes(data[:4], "little")
            data = gzip.decompress(data[4 : 4 + length])
        text = texts_in(data).decode("utf-8")
        assert "\x00" not in text
        for character in text:
            assert unicodedata.category(character) != "Cc" or character == "\n", name
            if kind != "csv":  # it has no escapes, and its texts come back as they were
                assert character not in "\u202e\u2066\u2028", name
        assert all(unicodedata.category(part) not in ("Cs",) for part in text)


def test_hostile_texts_come_back_from_json_as_they_were(evil, tmp_path):
    export(evil, "jsonl", tmp_path / "out")
    first = lines(tmp_path / "out")[0]
    assert first["explanation"] == EVIL.replace("\x00", "\ufffd")
    assert first["engine"] == "@evil\u202e|<img src=x>"
    export(evil, "csv", tmp_path / "out.csv")
    data = (tmp_path / "out.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(data)))
    assert len(data.splitlines()) == len(rows) + 1
    assert rows[0]["explanation"].startswith("'=HYPERLINK")
    assert rows[0]["engine"].startswith("'@evil")
    for row in rows:
        for value in row.values():
            assert not value.startswith(("=", "+", "@", "\t", "\r")), value
            if value.startswith("-"):
                float(value)


def test_hostile_texts_in_markdown_are_text(evil, tmp_path):
    export(evil, "markdown", tmp_path / "out.md")
    table = (tmp_path / "out.md").read_text(encoding="utf-8")
    rows = table.splitlines()
    n_columns = rows[0].count(" | ")
    for row in rows:
        assert row.replace(r"\|", "").count("|") == n_columns + 2
    assert "<script" not in table
    assert "<img" not in table
    assert r"\[a\]\(http\:" in table
    assert escaped("a&b\u202e\x1b") == "a&amp;b··" or escaped("a&b") == "a&amp;b"


def test_a_megabyte_of_one_token(tmp_path):
    long = "x" * (1 << 20)
    results = write_file(tmp_path / "long.db", (long, "a"), (long, "b", "c"))
    for kind in FORMATS:
        export(results, kind, tmp_path / kind)
        assert all(data for data in files(tmp_path / kind).values())
    assert max(map(len, (tmp_path / "markdown").read_text().splitlines())) < 2000
    assert lines(tmp_path / "jsonl")[0]["explanation"] == long


def test_json_is_harmless_to_print_and_loses_nothing():
    value = {"b": [1.5, float("nan"), None, True], "a": "\x9b\u202e\u2028\u200d\ud800\x00é\x1b\n"}
    text = json_text(value)
    assert text.startswith('{"a":')
    assert all(character.isprintable() for character in text)
    assert json.loads(text) == tidy(value)
    assert tidy(value)["a"] == "\x9b\u202e\u2028\u200d\ufffd\ufffdé\x1b\n"
    assert tidy(float("inf")) is None


@given(st.recursive(st.text() | st.integers() | st.booleans() | st.none(), st.lists))
def test_json_comes_back(value):
    assert json.loads(json_text(value)) == tidy(value)


def test_a_file_with_broken_json_is_damaged_and_not_a_bug(results, tmp_path):
    import shutil

    for statement, kind in (
        ("update windows set tokens = '[1'", "neuronpedia"),
        ("update windows set acts = '[1]'", "circuit-tracer"),
        ("update explanations set settings = '{'", "jsonl"),
        ("update scores set metrics = ''", "csv"),
        ("update scores set metrics = '[]'", "csv"),
        ("delete from latents where latent = 0", "jsonl"),
        ("update latents set histogram = '[\"x\"]'", "neuronpedia"),
        ("update latent_details set promoted = '[1]'", "circuit-tracer"),
        ("update latent_details set top_tokens = '[[1, 2]]'", "parquet"),
        ("update latent_details set flags = '{'", "csv"),
        (f"update windows set acts = '[1,1,1{'0' * 400}]'", "neuronpedia"),
    ):
        other = shutil.copy(results, tmp_path / "other.db")
        with open_results(other) as db:
            db.execute(statement)
        with pytest.raises(ResultsError, match="the file is damaged"):
            export(other, kind, tmp_path / "out")
        assert os.listdir(tmp_path) == ["other.db"]


def test_very_many_latents_are_not_held_in_memory(tmp_path, monkeypatch):
    """Never more than two latents are there at once, whatever the format."""
    import gc

    from lite_interp.export.base import Latent

    results = write_file(tmp_path / "results.db")
    with open_results(results) as db:
        db.execute("update coders set n_latents = 700")
        db.execute(
            """insert into latents (cache_id, latent, n_firings, n_contexts, density, max_value,
                                    mean_value, histogram)
               with recursive n(i) as (select 4 union all select i + 1 from n where i < 699)
               select ?, i, 0, 0, 0, 0, 0, '[]' from n""",
            [CACHE],
        )
        for latent in range(4, 200):
            examples = make_examples(latent, peaks=(1.0, 0.0))
            studies.store_example_set(db, CACHE, examples)
            db.execute(
                """insert into explanations select 'b2:x' || ?, cache_id, ?, ?, explainer,
                   prompt_id, engine_id, settings, text, raw, failure, prompt_tokens,
                   output_tokens, seconds, detail from explanations where latent = 0""",
                [latent, latent, examples.id],
            )
    most = 0
    whole = export_rows.explanations

    def counting(db, cache_id, latent):
        nonlocal most
        if latent % 50 == 0:
            gc.collect()
            most = max(most, sum(type(each) is Latent for each in gc.get_objects()))
        return whole(db, cache_id, latent)

    monkeypatch.setattr(export_rows, "explanations", counting)
    for kind in ("jsonl", "csv", "markdown", "neuronpedia", "circuit-tracer", "delphi"):
        done, _ = export(results, kind, tmp_path / kind)
        assert done.n_bytes
    assert 1 <= most <= 2
    assert len(lines(tmp_path / "jsonl")) == 199


def test_the_command_exports_and_refuses_in_one_line(results, tmp_path, monkeypatch):
    out = tmp_path / "out.csv"
    done = CliRunner().invoke(app, ["export", str(results), "csv", "-o", str(out), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["format"], found["path"], found["n_files"]) == ("csv", str(out), 1)
    assert found["n_bytes"] == out.stat().st_size
    assert found["left_out"] == [FORMATS["csv"].lost]
    for arguments, wrong in (
        (["cvs", "-o", str(tmp_path / "x")], "no such format: cvs"),
        (["csv", "-o", str(out)], f"it is there already: {out}"),
        (["csv", "-o", str(tmp_path / "x"), "--latents", "9"], "no such latent: 9"),
        (["csv", "-o", str(tmp_path / "x"), "--cache", "zz"], "no cache has an id"),
    ):
        refused = CliRunner().invoke(app, ["export", str(results), *arguments])
        assert refused.exit_code == 2, refused.output
        assert refused.stderr.startswith(f"Error: {wrong}")
    assert sorted(os.listdir(tmp_path)) == ["out.csv"]
    told = " ".join(CliRunner().invoke(app, ["export", "--help"]).stdout.split())
    assert all(kind in told for kind in FORMATS)
