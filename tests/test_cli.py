"""The whole command line on a tiny study: what it prints, where, and what it refuses."""

import csv
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import tiny_gguf
import tiny_study
from typer.testing import CliRunner

from lite_interp import scoring, tools
from lite_interp.cli import app
from lite_interp.db import file as db_file
from lite_interp.db.file import open_results
from lite_interp.migrations import SCHEMA_VERSION

ESCAPE = "\x1b["


@pytest.fixture(autouse=True)
def bag_of_words(monkeypatch):
    monkeypatch.setattr(tools, "open_embedder", tiny_study.BagOfWords)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny study with its models."""
    folder = tmp_path_factory.mktemp("study")
    tiny_study.write_study(folder)
    return folder


def call(*arguments, code=0):
    """Run a command in this process; gives stdout and stderr."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def ran(folder):
    """What `run` printed; the file is `study.db` in the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools, "open_embedder", tiny_study.BagOfWords)
        patch.setenv("COLUMNS", "80")
        return call("run", folder / "study.toml")


@pytest.fixture
def results(ran, folder, tmp_path):
    """A copy of the finished file."""
    return Path(shutil.copy(folder / "study.db", tmp_path / "results.db"))


def test_run_prints_a_table_and_says_the_rest_on_stderr(ran):
    out, err = ran
    lines = out.splitlines()
    assert lines[1].split()[:6] == ["latent", "density", "explanation", "det", "null", "emb"]
    assert "diagnosis" in lines[1].split()
    assert max(map(len, lines[: lines.index("", 2)])) <= 80
    found = re.findall(r"^(\w+), (\w+) \((\w+)\): mean AUROC", out, re.MULTILINE)
    assert ("token_list", "detection", "relative") in found
    assert len(found) >= 6
    assert len(re.findall(r"^ *\d+ +\d+\.\d\d%", out, re.MULTILINE)) == 8
    assert "loading the subject subject" in err
    assert "explaining (llm): 4 in" in err
    assert "scoring (detection)" in err
    assert ESCAPE not in out + err


def test_a_second_run_says_the_same_and_changes_nothing(ran, folder):
    before = tiny_study.dump(folder / "study.db")
    out, err = call("run", folder / "study.toml")
    assert out == ran[0]
    assert err.count("nothing left to do") >= 5
    assert tiny_study.dump(folder / "study.db") == before
    assert sorted(path.name for path in folder.glob("study.*")) == ["study.db", "study.toml"]


def test_list_gives_json_lines(results):
    out, err = call("list", results, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert len(rows) == 8
    assert {row["explainer"] for row in rows} == {"token_list", "llm"}
    for row in rows:
        assert (row["explanation"] is None) == (row["failure"] is not None)
        assert 0 < row["density"] < 1
    scored = [row for row in rows if row["explainer"] == "token_list"]
    for row in scored:
        assert 0 <= row["detection_low"] <= row["detection"] <= row["detection_high"] <= 1
        assert row["detection"] - row["detection_null"] == pytest.approx(
            row["detection_difference"]
        )
        assert (row["detection_n"], row["detection_n_failed"]) == (12, 0)
        assert row["tokens"] > 0
        assert -1 <= row["embedding"] <= 1


def test_list_gives_csv(results):
    out, _ = call("list", results, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    found = [json.loads(line) for line in call("list", results, "--json")[0].splitlines()]
    assert [row["latent"] for row in rows] == [str(row["latent"]) for row in found]
    assert [row["explanation"] for row in rows] == [row["explanation"] or "" for row in found]


def test_list_sorts_and_filters_by_any_column(results):
    def values(*options, column="detection"):
        out, _ = call("list", results, "--json", *options)
        return [json.loads(line).get(column) for line in out.splitlines()]

    there = [value for value in values() if value is not None]
    assert values("--sort", "detection")[: len(there)] == sorted(there)
    assert values("--sort", "detection", "--down")[: len(there)] == sorted(there, reverse=True)
    assert values("--where", "detection>=0.5") == [v for v in values() if v and v >= 0.5]
    assert values("--where", "detection>2") == []
    assert len(values("--where", "detection>0", "--where", "latent<10")) <= len(there)
    assert set(values("--explainer", "llm", column="explainer")) == {"llm"}
    assert len(values("--limit", "3")) == 3
    relative = values("--variant", "relative", "--explainer", "token_list")
    assert len(relative) == 4
    assert relative != values("--explainer", "token_list")


def test_list_as_a_table_fits_the_terminal(results):
    out, _ = call("list", results)
    assert max(map(len, out.splitlines())) <= 80


def test_show_without_colour_writes_strength_as_digits(results):
    latent = json.loads(call("list", results, "--json")[0].splitlines()[0])["latent"]
    out, err = call("show", results, latent)
    assert err == ""
    assert out.startswith(f"latent {latent} of coder/layers.1 at model.layers.1.output\n")
    assert "windows shown to explainers" in out
    assert re.search("[¹²³⁴⁵⁶⁷⁸⁹]", out)
    assert ESCAPE not in out
    assert max(map(len, out.splitlines())) <= 80
    assert "detection (raw) AUROC" in out
    shown = out[out.index("windows shown") :].split("\n\n")[0].splitlines()[1:]
    assert len(shown) == 5
    fewer, _ = call("show", results, latent, "--windows", "2")
    shown = fewer[fewer.index("windows shown") :].split("\n\n")[0].splitlines()[1:]
    assert len(shown) == 2


def test_show_with_colour_writes_strength_as_background(results, monkeypatch):
    latent = json.loads(call("list", results, "--json")[0].splitlines()[0])["latent"]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    out, _ = call("show", results, latent)
    assert re.search("\x1b\\[38;2;26;26;26;48;2;", out)
    assert not re.search("[¹²³⁴⁵⁶⁷⁸⁹]", out)
    monkeypatch.setenv("NO_COLOR", "1")
    out, _ = call("show", results, latent)
    assert "48;2;" not in out
    assert re.search("[¹²³⁴⁵⁶⁷⁸⁹]", out)


def test_show_of_a_latent_without_explanation_says_so(results):
    out, _ = call("show", results, 31)
    assert "0 firings" in out
    assert "no explanation yet" in out


def test_info_says_what_is_in_the_file_and_who_wrote_it(results, folder):
    out, err = call("info", results)
    assert err == ""
    assert "(complete)" in out
    assert "32 latents at model.layers.1.output" in out
    assert re.search(r"explanations\s+8\n", out)
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["cache", "explain", "score"]
    assert all(line.split()[-1] == "done" for line in out.splitlines()[-3:])


def test_the_commands_one_by_one_give_what_run_gives(folder, ran, tmp_path):
    path = tmp_path / "steps.db"
    call("cache", path, *CACHE(folder))
    call("explain", path, "--explainer", "token_list", "--explainer", "llm", *EXPLAIN(folder))
    call("score", path, *SCORE(folder))
    assert tiny_study.dump(path) == tiny_study.dump(folder / "study.db")


def CACHE(folder, **changed):  # noqa: N802
    options = {
        "subject": folder / "subject",
        "coder": folder / "coder" / "layers.1",
        "corpus": folder / "corpus.jsonl",
        "context": 32,
        "device": "cpu",
        "dtype": "float32",
    }
    return flat({**options, **changed})


def EXPLAIN(folder, **changed):  # noqa: N802
    options = {
        "engine": folder / "engine.gguf",
        "n": 4,
        "min-density": 0.001,
        "max-density": 1,
        "width": 8,
        "shown": 5,
        "active": 6,
        "silent": 6,
        "n-ctx": 1024,
    }
    return flat({**options, **changed})


def SCORE(folder, **changed):  # noqa: N802
    options = {
        "engine": folder / "engine.gguf",
        "embedder": folder / "embedder",
        "controls": 2,
        "n-ctx": 1024,
    }
    return flat({**options, **changed})


def flat(options):
    return [
        word
        for name, value in options.items()
        if value is not None
        for word in ((f"--{name.replace('_', '-')}",) if value is True else (f"--{name}", value))
    ]


def test_it_runs_as_a_program(folder, ran, tmp_path):
    """A real process: data on stdout, the rest on stderr, the exit code of a mistake."""
    command = [sys.executable, "-m", "lite_interp"]
    done = subprocess.run(
        [*command, "list", str(folder / "study.db"), "--json"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 8
    done = subprocess.run(
        [*command, "show", str(tmp_path / "absent.db"), "1"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("Error: no such results file: ")


# What is refused: arguments from (folder, tmp_path), exit code, the error line, the hint.


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(data)
    return path


def cut(source: Path, target: Path) -> Path:
    return write(target, source.read_bytes()[: source.stat().st_size // 2])


def mixed_corpus(folder: Path, text: str = "") -> Path:
    write(folder / "corpus" / "binary.txt", b"\x00\x01\x02")
    write(folder / "corpus" / "latin.md", "\xe9t\xe9".encode("latin-1"))
    write(folder / "corpus" / "empty.txt", "  \n")
    if text:
        write(folder / "corpus" / "text.txt", text)
    return folder / "corpus"


def cut_subject(folder, tmp):
    tiny.write_gguf(tmp / "whole.gguf")
    return cut(tmp / "whole.gguf", tmp / "cut.gguf")


BAD_CACHES = {
    "no subject": (
        lambda f, t: {"subject": t / "absent"},
        (1, "no such file or folder: .*absent", ""),
    ),
    "a name that is no model": (
        lambda f, t: {"subject": "smollm3"},
        (2, "smollm3", "did you mean"),
    ),
    "a folder that is no model": (
        lambda f, t: {"subject": f / "embedder"},
        (1, "folder holds no language model.*embedder", "Hub layout"),
    ),
    "a subject that is cut short": (
        lambda f, t: {"subject": cut_subject(f, t)},
        (1, "cut.gguf", ""),
    ),
    "no coder": (lambda f, t: {"coder": t / "absent"}, (1, "no such folder or file", "read are")),
    "a coder of another width": (
        lambda f, t: {"coder": tiny.write_sparsify(t, "layers.1", d_in=12)},
        (1, "reads width 12, the hookpoint has width 8", "another model"),
    ),
    "a coder that does not reconstruct": (
        lambda f, t: {"coder": tiny.write_sparsify(t, "layers.1")},
        (1, "does not reconstruct.* at most 0.9", "--force"),
    ),
    "a hookpoint that is not there": (
        lambda f, t: {"hookpoint": "layers.7"},
        (1, "no such hookpoint: layers.7", "did you mean.*layers.[0-2]"),
    ),
    "no corpus": (lambda f, t: {"corpus": t / "absent.txt"}, (1, "no such file or folder", "")),
    "an empty corpus": (
        lambda f, t: {"corpus": write(t / "empty.txt", "")},
        (1, "no document has any text", ""),
    ),
    "a corpus without any text": (
        lambda f, t: {"corpus": mixed_corpus(t)},
        (1, "no document has any text", ""),
    ),
    "a text field that is not there": (
        lambda f, t: {"text-field": "txt"},
        (1, "no field with this name: corpus.jsonl:1: txt", "`text`"),
    ),
    "a context longer than the subject reads": (
        lambda f, t: {"context": 65},
        (1, "longer than the subject reads: 65", "64"),
    ),
    "a context of one token": (lambda f, t: {"context": 1}, (2, "corpus.n_ctx", "")),
    "no such device": (lambda f, t: {"device": "gpu"}, (1, "no such device: gpu", "cuda")),
    "no such dtype": (lambda f, t: {"dtype": "int8"}, (1, "no such dtype: int8", "bfloat16")),
}


def check_refusal(err: str, error: str, hint: str) -> None:
    """One error line, at most one hint, and nothing of a traceback."""
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("Error: ")]
    hints = [line for line in lines if line.startswith("hint: ")]
    assert len(errors) == 1, err
    assert re.search(error, errors[0]), err
    assert len(hints) <= 1
    assert re.search(hint, "".join(hints)), err
    assert "Traceback" not in err
    assert lines.index(errors[0]) >= len(lines) - 3, err


@pytest.mark.parametrize("name", BAD_CACHES)
def test_cache_refuses(name, folder, tmp_path):
    change, (code, error, hint) = BAD_CACHES[name]
    path = tmp_path / "results.db"
    options = CACHE(folder, **change(folder, tmp_path))
    out, err = call("cache", path, *options, code=code)
    assert out == ""
    check_refusal(err, error, hint)
    assert not list(tmp_path.glob("results*"))


def test_force_goes_on_with_a_coder_that_does_not_reconstruct(folder, tmp_path):
    coder = tiny.write_sparsify(tmp_path, "layers.1")
    path = tmp_path / "results.db"
    _, err = call("cache", path, *CACHE(folder, coder=coder), "--force")
    assert "warning: sparse coder does not reconstruct" in err
    assert path.exists()


def test_documents_that_are_no_text_are_left_out_and_counted(folder, tmp_path):
    text = "the cat sat on the mat and then they all went to other places. " * 9
    options = CACHE(folder, corpus=mixed_corpus(tmp_path, text))
    path = tmp_path / "results.db"
    _, err = call("cache", path, *options)
    (line,) = [line for line in err.splitlines() if line.startswith("left out: ")]
    assert line == (
        "left out: 1 binary (first: binary.txt); 1 broken UTF-8 (first: latin.md); "
        "1 empty (first: empty.txt)"
    )
    assert "of 1 documents" in err
    assert "3 left out" in " ".join(call("info", path)[0].split())


def newer(path: Path) -> Path:
    with open_results(path, create=True) as db:
        db.execute("insert into corpora values ('x','','','',2,0,0,0,0,0,0,0)")
    with sqlite3.connect(path) as db:
        db.execute(f"pragma user_version = {SCHEMA_VERSION + 1}")
    db.close()
    return path


def of_another_program(path: Path) -> Path:
    with sqlite3.connect(path) as db:
        db.execute("create table t (x)")
    db.close()
    return path


def damaged(path: Path) -> Path:
    return write(path, b"SQLite format 3\0" + b"\xff" * 5000)


BAD_FILES = {
    "no such file": (lambda path: path, "no such results file"),
    "no such folder": (lambda path: path / "below" / "x.db", "no such results file"),
    "a folder": (lambda path: path.mkdir() or path, "a folder, not a results file"),
    "an empty file": (lambda path: write(path, ""), "an empty file|holds no cache"),
    "a text file": (lambda path: write(path, "hello\n" * 9), "not a results file"),
    "of a newer version": (newer, "written by a newer version"),
    "of another program": (of_another_program, "a SQLite file of another program"),
    "damaged": (damaged, "damaged|not a results file|another program"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("command", ["show", "list", "info", "explain", "score", "cache"])
def test_files_that_cannot_be_used_are_refused_and_left_alone(name, command, folder, tmp_path):
    make, error = BAD_FILES[name]
    path = make(tmp_path / "results.db")
    if command == "cache":
        if name in ("no such file", "an empty file"):
            return
        error = error.replace("no such results file", "no such folder")
    before = path.read_bytes() if path.is_file() else None
    options = {
        "show": [1],
        "cache": CACHE(folder),
        "explain": EXPLAIN(folder),
        "score": SCORE(folder),
    }
    out, err = call(command, path, *options.get(command, []), code=4)
    assert out == ""
    check_refusal(err, error, "")
    if name != "an empty file":
        assert (path.read_bytes() if path.is_file() else None) == before
    if command == "cache":
        assert err.startswith("Error: "), "refused before anything is loaded"


def test_a_file_that_is_read_only_is_refused_for_writing_and_can_be_read(
    folder, results, monkeypatch
):
    real = os.access
    monkeypatch.setattr(
        db_file.os, "access", lambda path, mode: mode != os.W_OK and real(path, mode)
    )
    before = tiny_study.dump(results)
    _, err = call("score", results, *SCORE(folder), code=4)
    check_refusal(err, "the file is read-only", "copy it")
    assert tiny_study.dump(results) == before
    assert len(call("list", results, "--json")[0].splitlines()) == 8


def test_a_second_writer_is_refused_at_once(folder, results):
    with open_results(results):
        before = tiny_study.dump(results)
        _, err = call("score", results, *SCORE(folder), code=4)
        check_refusal(err, "another process is writing to this file", "wait for it")
        _, err = call("cache", results, *CACHE(folder), code=4)
        assert err.startswith("Error: another process is writing"), "before anything is loaded"
        assert len(call("list", results, "--json")[0].splitlines()) == 8
    assert tiny_study.dump(results) == before


PROMPT = """
description = "d"
[[messages]]
role = "user"
text = "{text}"
"""

BAD_EXPLAINS = {
    "a latent out of range": (
        lambda f, t: {"latents": "3,32"},
        (2, "no such latent: 32", "0 to 31"),
    ),
    "a negative latent": (lambda f, t: {"latents": "-1"}, (2, "no such latent: -1", "0 to 31")),
    "latents that are no numbers": (lambda f, t: {"latents": "a,b"}, (2, "not a list", "12,99")),
    "an unknown explainer": (
        lambda f, t: {"explainer": "tokenlist"},
        (2, "no explainer is named: tokenlist", "`token_list`"),
    ),
    "an unknown sampler": (
        lambda f, t: {"sampler": "quantile"},
        (2, "no sampler is named: quantile", "`quantiles`"),
    ),
    "an unknown engine": (
        lambda f, t: {"engine": "qwen2.5-coder-1.5b-instrukt"},
        (2, "instrukt", "did you mean `qwen2.5-coder-1.5b-instruct`"),
    ),
    "no engine": (lambda f, t: {"engine": None}, (2, "no engine is named", "--engine")),
    "an engine that is not there": (
        lambda f, t: {"engine": t / "absent.gguf"},
        (1, "no such file or folder", ""),
    ),
    "an engine that is cut short": (
        lambda f, t: {"engine": cut(f / "engine.gguf", t / "cut.gguf")},
        (1, "GGUF file is cut short: .*cut.gguf", "fetch it again"),
    ),
    "an engine that is no model": (
        lambda f, t: {"engine": f / "corpus.jsonl"},
        (1, "no GGUF model", ""),
    ),
    "an engine that cannot write": (
        lambda f, t: {"engine": tiny_gguf.write(t / "b.gguf", "bert", with_weights=False)},
        (1, "cannot write text", "decoder"),
    ),
    "a context too small for the prompt": (
        lambda f, t: {"n-ctx": 256},
        (1, "a prompt of .* does not fit", r"--n-ctx \d+"),
    ),
    "no latent of that density": (
        lambda f, t: {"min-density": "0.99"},
        (2, "no latent has a density", "widen the range"),
    ),
    "no latents": (lambda f, t: {"n": 0}, (2, "wrong option: n: ", "")),
    "a window of one token": (lambda f, t: {"width": 1}, (2, "wrong option: width: ", "")),
    "a context that cannot be": (lambda f, t: {"n-ctx": 3}, (2, "wrong option: n_ctx", "")),
    "an unknown prompt": (
        lambda f, t: {"prompt": "explain/small2"},
        (2, "no prompt is named", "explain/small"),
    ),
    "a prompt with an unknown variable": (
        lambda f, t: {"prompt": write(t / "p.toml", PROMPT.format(text="$excerpts $what"))},
        (2, r"p has an unknown variable: \$what", r"\$excerpts, .*\$words"),
    ),
    "a prompt without windows": (
        lambda f, t: {"prompt": write(t / "p.toml", PROMPT.format(text="hello"))},
        (2, r"p lacks a variable: \$excerpts", ""),
    ),
    "another subject": (
        lambda f, t: {"seed": 7, "subject": other_subject(t)},
        (1, "another tokenizer than the one that cut the corpus", "--subject"),
    ),
    "a cache that is not there": (
        lambda f, t: {"cache": "ffffffffffff"},
        (2, "no cache has an id that begins with: ffffffffffff", "there is: "),
    ),
}


def other_subject(folder: Path) -> Path:
    tiny.write_subject(folder / "other")
    path = folder / "other" / "tokenizer.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace(
            '"add_prefix_space": false', '"add_prefix_space": true'
        ),
        encoding="utf-8",
    )
    return folder / "other"


@pytest.mark.parametrize("name", BAD_EXPLAINS)
def test_explain_refuses(name, folder, results, tmp_path):
    change, (code, error, hint) = BAD_EXPLAINS[name]
    before = tiny_study.dump(results)
    options = {"explainer": "llm", "latents": None, "seed": 5, **change(folder, tmp_path)}
    out, err = call("explain", results, *EXPLAIN(folder, **options), code=code)
    assert out == ""
    check_refusal(err, error, hint)
    kept = ("explanations", "trials", "verdicts", "scores", "firings", "latents")
    after = tiny_study.dump(results)
    assert {table: after[table] for table in kept} == {table: before[table] for table in kept}
    for table, rows in before.items():
        assert set(rows) <= set(after[table])


BAD_SCORES = {
    "an unknown scorer": (
        lambda f, t: {"scorers": "detection,fuzing"},
        (2, "no scorer is named: fuzing", "there is|did you mean"),
    ),
    "an unknown explainer": (
        lambda f, t: {"explainer": "lllm"},
        (2, "no explainer is named: lllm", "`llm`"),
    ),
    "no engine": (lambda f, t: {"engine": None}, (2, "no engine is named", "--engine")),
    "an unknown embedder": (
        lambda f, t: {"embedder": "all-minilm"},
        (2, "all-minilm", "all-minilm-l6-v2"),
    ),
    "an embedder that is not installed": (
        lambda f, t: {"embedder": "all-minilm-l6-v2"},
        (1, "not installed: all-minilm-l6-v2", "models fetch all-minilm-l6-v2"),
    ),
    "latents without explanation": (
        lambda f, t: {"latents": "31"},
        (2, "there is no explanation to score", "explain"),
    ),
    "controls below none": (lambda f, t: {"controls": "-1"}, (2, "wrong option: n_controls", "")),
    "a context too small for the prompt": (
        lambda f, t: {"n-ctx": 64},
        (1, "a prompt of .* does not fit", r"--n-ctx \d+"),
    ),
    "a prompt without the window": (
        lambda f, t: {"prompt": write(t / "p.toml", PROMPT.format(text="$explanation"))},
        (2, r"p lacks a variable: \$window", ""),
    ),
    "a prompt that is none": (
        lambda f, t: {"prompt": write(t / "p.toml", "messages = 3")},
        (2, "not a prompt file: .*p.toml", "docs/prompts.md"),
    ),
}


@pytest.mark.parametrize("name", BAD_SCORES)
def test_score_refuses(name, folder, results, tmp_path):
    change, (code, error, hint) = BAD_SCORES[name]
    before = tiny_study.dump(results)
    out, err = call("score", results, *SCORE(folder, **change(folder, tmp_path)), code=code)
    assert out == ""
    check_refusal(err, error, hint)
    after = tiny_study.dump(results)
    for table in ("engines", "embedders", "prompts"):
        assert set(before.pop(table)) <= set(after.pop(table))
    assert after == before


@pytest.mark.parametrize(
    ("change", "code", "error", "hint"),
    [
        (("[coder]", "[codr]"), 2, "study.toml: unknown key: codr", "did you mean `coder`"),
        (("n_shown", "n_showm"), 2, "unknown key: examples.n_showm", "did you mean `n_shown`"),
        (("n_shown = 5", 'n_shown = "5"'), 2, "valid integer: examples.n_shown", ""),
        (("seed = 0", "seed = 0.5"), 2, "valid integer: seed", ""),
        (('paths = ["corpus.jsonl"]', "paths = []"), 2, "at least 1 item: corpus.paths|paths", ""),
        (('path = "coder/layers.1"', ""), 2, "field required: coder.path", ""),
        (("[subject]", "[subject"), 2, "not a study file: .*study.toml: .*line 3", ""),
        (('model = "engine.gguf"', ""), 2, "no engine is named", "engine"),
        (('"embedder"', '"nothing"'), 2, "nothing", "there is|did you mean"),
        (('"llm"]', '"lm"]'), 2, "no explainer is named: lm", "llm"),
        (("width = 8", 'sampler = "tops"'), 2, "no sampler is named: tops", "`top`"),
        (("n_controls", 'scorers = ["detect"]\nn_controls'), 2, "no scorer is named: detect", ""),
        (("n_controls", 'prompt = "x"\nn_controls'), 2, "no prompt is named: x", ""),
    ],
)
def test_run_refuses_a_study_before_anything_is_done(change, code, error, hint, folder, tmp_path):
    text = (folder / "study.toml").read_text(encoding="utf-8")
    assert change[0] in text
    for name in ("subject", "coder", "corpus.jsonl", "engine.gguf", "embedder"):
        (tmp_path / name).symlink_to(folder / name)
    study = write(tmp_path / "study.toml", text.replace(*change))
    out, err = call("run", study, code=code)
    assert out == ""
    check_refusal(err, error, hint)
    assert err.startswith("Error: "), "refused before anything is loaded"
    assert not (tmp_path / "study.db").exists()


def test_run_refuses_a_file_that_is_not_there(tmp_path):
    _, err = call("run", tmp_path / "absent.toml", code=2)
    check_refusal(err, "no such study file: .*absent.toml", "README")
    _, err = call("run", write(tmp_path / "broken.toml", b"\xff\xfe"), code=2)
    check_refusal(err, "not a study file", "")


def test_stages_out_of_turn_say_which_one_comes_first(folder, tmp_path):
    path = tmp_path / "results.db"
    _, err = call("explain", path, *EXPLAIN(folder), code=4)
    check_refusal(err, "no such results file", "lite-interp cache")
    assert not path.exists()
    call("cache", path, *CACHE(folder))
    _, err = call("score", path, *SCORE(folder), code=2)
    check_refusal(err, "there is no explanation to score", "lite-interp explain")
    assert call("list", path, "--json") == ("", "")


def test_reading_refuses_what_is_not_there(results):
    _, err = call("show", results, 32, code=2)
    check_refusal(err, "no such latent: 32", "0 to 31")
    _, err = call("list", results, "--sort", "detektion", code=2)
    check_refusal(err, "no column is named: detektion", "`detection`")
    _, err = call("list", results, "--where", "detection~1", code=2)
    check_refusal(err, "not a filter: detection~1", "detection>0.7")
    _, err = call("list", results, "--where", "explanation>1", code=2)
    check_refusal(err, "not a column of numbers: explanation", "")
    _, err = call("list", results, "--variant", "rel", code=2)
    check_refusal(err, "no such variant: rel", "relative")
    _, err = call("show", results, 1, "--cache", "zz", code=2)
    check_refusal(err, "no cache has an id that begins with: zz", "there is: ")


def test_a_column_that_no_row_left_has_is_still_a_column(results):
    out, _ = call("list", results, "--json", "--where", "density>2", "--sort", "detection")
    assert out == ""
    out, _ = call("list", results, "--json", "--explainer", "nobody", "--sort", "detection")
    assert out == ""


def test_mistakes_of_the_command_line_itself_have_exit_code_2(tmp_path):
    for arguments in (["show"], ["list", "x.db", "--nonsense"], ["show", "x.db", "one"], ["no"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
    assert call("--version")[0].startswith("lite-interp ")


def test_a_full_disk_is_one_line_and_what_was_stored_stays(folder, results, monkeypatch):
    before = tiny_study.dump(results)
    real = db_file._prepare

    def small(db, path):
        real(db, path)
        n_pages = db.execute("pragma page_count").fetchone()[0]
        db.execute(f"pragma max_page_count = {n_pages + 2}")

    with monkeypatch.context() as patch:
        patch.setattr(db_file, "_prepare", small)
        options = EXPLAIN(folder, explainer="token_list", n=16, active=40, silent=40)
        _, err = call("explain", results, *options, code=4)
    check_refusal(err, "the disk is full: .*results.db", "make room")
    after = tiny_study.dump(results)
    assert all(set(rows) <= set(after[table]) for table, rows in before.items())
    call("explain", results, *options)
    with sqlite3.connect(results) as db:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        n_explained = db.execute(
            "select count(distinct latent) from explanations where explainer = 'token_list'"
        ).fetchone()[0]
    assert n_explained == 16


def test_an_interrupt_is_said_and_costs_nothing(folder, results, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = tiny_study.dump(results)
    monkeypatch.setattr(scoring, "pending_trials", interrupt)
    _, err = call("score", results, *SCORE(folder), code=130)
    assert err.endswith("interrupted; the same command goes on from here\n")
    assert tiny_study.dump(results) == before
    assert "interrupted" in call("info", results)[0]
