"""`--json` of every command: one record a line, with the fields that docs/cli.md lists."""

import dataclasses
import io
import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import test_cli
import tiny_report
import tiny_study
import typer
from documented import RECORDS, check_records, compared, printed
from test_cli import CACHE, EXPLAIN, SCORE, call
from tiny_score_rows import EVIL

from lite_interp import fetch, manifests, tools
from lite_interp.cli import app
from lite_interp.cli.records import plain, print_records
from lite_interp.loss import Loss

bag_of_words = test_cli.bag_of_words
WITHOUT = {"demo", "serve"}
"""Commands that print no records."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny study and its results."""
    folder = tmp_path_factory.mktemp("records")
    tiny_study.write_study(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools, "open_embedder", tiny_study.BagOfWords)
        out, _ = call("run", folder / "study.toml", "--json")
    (folder / "run.jsonl").write_text(out, encoding="utf-8")
    return folder


@pytest.fixture
def results(folder, tmp_path):
    return Path(shutil.copy(folder / "study.db", tmp_path / "results.db"))


@pytest.fixture
def whole(tmp_path):
    """A file with everything that a page shows."""
    return tiny_report.make_results(tmp_path / "whole.db")


def test_every_command_that_prints_records_says_what_is_in_them():
    def commands(command, name=""):
        inner = getattr(command, "commands", {})
        if not inner:
            yield name, command
        for word, each in inner.items():
            yield from commands(each, f"{name} {word}".strip())

    found = dict(commands(typer.main.get_command(app)))
    with_json = {
        name for name, command in found.items() if any(p.name == "as_json" for p in command.params)
    }
    assert set(RECORDS) == with_json - WITHOUT
    assert set(found) - with_json - WITHOUT == set()
    fields = [each for kinds in RECORDS.values() for each in kinds.values()]
    assert all(meaning for each in fields for meaning in each.values())


def test_run_and_list(folder, results):
    ran = (folder / "run.jsonl").read_text(encoding="utf-8")
    rows = check_records("run", ran)
    assert check_records("list", call("list", results, "--json")[0]) == rows
    assert len(rows) == 8


def test_show(whole, results):
    rows = check_records("show", call("show", whole, 1, "--json")[0])
    assert [row["kind"] for row in rows][:3] == ["latent", "explanation", "explanation"]
    windows = [row for row in rows if row["kind"] == "window"]
    assert [sum(row["role"] == role for row in windows) for role in ("shown", "held_out")] == [2, 1]
    assert all(len(row["tokens"]) == len(row["values"]) for row in windows)
    judged = {name for row in windows for name in row["detection"]}
    assert judged <= {row["id"] for row in rows if row["kind"] == "explanation"}
    assert judged
    # A latent that nobody explained, and that has no details.
    (row,) = check_records("show", call("show", results, 31, "--json")[0], {"latent"})
    assert row["n_firings"] == 0


def test_info(results):
    rows = check_records("info", call("info", results, "--json")[0])
    counts = next(row for row in rows if row["kind"] == "counts")
    assert counts["n_explanations"] == 8
    assert [row["command"] for row in rows if row["kind"] == "run"] == ["cache", "explain", "score"]


def test_agree_and_compare(whole, results):
    check_records("agree", call("agree", whole, "--json")[0], {"scorers"})
    check_records("compare", call("compare", results, "--json")[0], {"arm"})
    out, _ = call("compare", results, "llm", "token_list", "--json")
    check_records("compare", out, {"comparison", "latent"})


def test_search_and_fires(results):
    text = json.loads(call("list", results, "--json")[0].splitlines()[0])["explanation"]
    word = max((text or "").replace(",", " ").split(), key=len)
    check_records("search", call("search", results, word, "--json")[0])
    check_records("fires", call("fires", results, "a tiny text of words", "--json")[0])


def test_export_import_and_report(results, whole, tmp_path):
    args = ("--out", tmp_path / "out.jsonl", "--json")
    (row,) = check_records("export", call("export", results, "jsonl", *args)[0])
    assert row["n_files"] == 1
    latent = json.loads(call("list", results, "--json")[0].splitlines()[0])["latent"]
    said = tmp_path / "said.jsonl"
    said.write_text(json.dumps({"latent": latent, "explanation": "words", "source": "Anna"}))
    (row,) = check_records("import", call("import", results, said, "--json")[0], {"source"})
    assert (row["source"], row["n_new"], row["n_known"]) == ("Anna", 1, 0)
    (row,) = check_records("report", call("report", whole, "-o", tmp_path / "r.html", "--json")[0])
    assert row["n_bytes"] == (tmp_path / "r.html").stat().st_size


def test_share_and_annotate(whole, tmp_path):
    copy = tmp_path / "copy.db"
    (row,) = check_records("share", call("share", whole, "-o", copy, "--json")[0])
    assert row["bytes_after"] == copy.stat().st_size
    assert call("annotate", whole, "--status", "--json") == ("", "")


def test_merge(whole, tmp_path):
    other = tiny_report.make_results(tmp_path / "other.db")
    out, _ = call("merge", whole, other, "--json")
    check_records("merge", out, {"file", "results"})
    assert set(RECORDS["merge"]) == {"file", "conflict", "results"}


def test_the_steps_of_a_study(folder, tmp_path):
    path = tmp_path / "steps.db"
    (row,) = check_records("cache", call("cache", path, *CACHE(folder), "--json")[0])
    assert (row["complete"], row["n_latents"]) == (True, 32)
    explain = ("explain", path, "--explainer", "token_list", *EXPLAIN(folder), "--json")
    rows = check_records("explain", call(*explain)[0], {"explanation"})
    assert len(rows) == 4
    assert check_records("explain", call(*explain)[0], {"explanation"}) == rows
    rows = check_records("score", call("score", path, *SCORE(folder), "--json")[0], {"mean"})
    assert {row["way"] for row in rows} == {"detection", "embedding"}
    planned = call("score", path, *SCORE(folder, controls=3), "--explain-plan", "--json")[0]
    check_records("score", planned, {"unit"})
    assert RECORDS["explain"]["unit"] == RECORDS["score"]["unit"]


def test_models(monkeypatch, tmp_path):
    known = manifests.load_manifests()
    monkeypatch.setenv("LITE_INTERP_MODELS", str(tmp_path))
    rows = check_records("models list", call("models", "list", "--json")[0])
    assert [row["name"] for row in rows] == [each.name for each in known]
    name = known[0].name
    monkeypatch.setattr("lite_interp.demo.installed", lambda manifest: tmp_path / manifest.name)
    (row,) = check_records("models fetch", call("models", "fetch", name, "--json")[0])
    assert row["installed"] == str(tmp_path / name)
    monkeypatch.setattr(fetch, "installed", lambda manifest: None)
    out, err = call("models", "verify", name, "--json", code=1)
    (row,) = check_records("models verify", out)
    assert row["problems"][0].startswith("missing: ")
    assert "models with wrong or missing files: 1" in err


def test_a_quantised_model_has_what_a_loss_has():
    fields = [field.name for field in dataclasses.fields(Loss)]
    assert list(RECORDS["models quantize"]["record"]) == ["path", "bytes", "name", *fields]


# How they are printed


def lines(monkeypatch, records, encoding="utf-8"):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, newline=""))
    print_records(records)
    sys.stdout.flush()
    return raw.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_hostile_texts_are_safe_lines_of_json(monkeypatch, encoding):
    record = {"text": EVIL, EVIL: ["\x00\ud800\u2028\u0085", {"n": math.nan, "m": -math.inf}]}
    raw = lines(monkeypatch, [record, {"a": 1}], encoding)
    assert raw.count(b"\n") == 2
    first, second = printed(raw.decode(encoding))
    assert second == {"a": 1}
    name, text = list(first)[1], first["text"]
    assert text == name == plain(EVIL)
    assert "\u202e" in text and "↵" in text and "\x1b" not in text
    assert first[name] == ["��↵↵", {"n": None, "m": None}]


def test_texts_of_any_language_stay_as_they_are(monkeypatch):
    record = {"text": "年 שלום 👨\u200d👩 é", "pair": (1, 2.5, None, True)}
    (found,) = printed(lines(monkeypatch, [record]).decode())
    assert found == {**record, "pair": [1, 2.5, None, True]}
    assert "年 שלום 👨\\u200d👩 é".encode() in lines(monkeypatch, [record])


def test_fields_that_are_not_documented_are_found():
    documented = {"latent", "WAY", "WAY_low"}
    assert compared(documented, {"latent", "a", "a_low"}) == (set(), set())
    assert compared(documented, {"latent", "a@b=1", "a@b=1_low"}) == (set(), set())
    assert compared(documented, {"a", "a_low"}) == ({"latent"}, set())
    assert compared(documented, {"latent", "a"}) == ({"WAY_low"}, set())
    assert compared({"latent"}, {"latent", "x"}) == (set(), {"x"})
    assert compared(documented, {"latent", "a", "a_low", "b_low"}) == (set(), {"b_low"})
