"""A plan is what will happen; an engine is loaded only for work; where its settings come from."""

from __future__ import annotations

import sqlite3

import pytest
import tiny_study
from test_cli import call

from lite_interp import tools
from lite_interp.cost import shared_out
from lite_interp.records import Usage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planned")
    tiny_study.write_study(folder)
    return folder


@pytest.fixture(scope="module")
def cached(folder):
    path = folder / "planned.db"
    call(
        "cache", path, "--subject", folder / "subject", "--coder", folder / "coder",
        "--corpus", folder / "corpus.jsonl", "--context", tiny_study.N_CTX, "--force",
    )  # fmt: skip
    return path


@pytest.fixture(autouse=True)
def bag_of_words(monkeypatch):
    monkeypatch.setattr(tools, "open_embedder", tiny_study.BagOfWords)
    monkeypatch.setenv("COLUMNS", "100")


def explain_options(folder):
    return (
        "--engine", folder / "engine.gguf", "--n", 6, "--min-density", 0, "--max-density", 1,
        "--width", 8, "--shown", 3, "--active", 4, "--silent", 4, "--n-ctx", 1024,
        "--explainer", "token_list", "--explainer", "llm",
    )  # fmt: skip


def total(out):
    """The last row of a plan, as numbers: items, tokens, written, calls, largest, logits."""
    words = out.strip().splitlines()[-1].replace(",", "").split()
    assert words[1] == "units"
    return [int(word) for word in words[2:8]]


def spent(path, table):
    with sqlite3.connect(path) as connection:
        (row,) = connection.execute(
            f"select sum(prompt_tokens), sum(output_tokens), count(*) from {table}"
        )
    connection.close()
    return row


def test_a_plan_is_what_happens(folder, cached):
    options = explain_options(folder)
    out, _ = call("explain", cached, *options, "--explain-plan")
    items, tokens, written, calls, largest, logits = total(out)
    call("explain", cached, *options)
    assert spent(cached, "explanations")[0] == tokens
    assert 0 < spent(cached, "explanations")[1] <= written
    assert spent(cached, "explanations")[2] == items + 6 == 12
    assert 0 < largest <= 512 and calls > 6 and logits <= written + calls
    score = ("--scorers", "detection", "--engine", folder / "engine.gguf", "--n-ctx", 1024)
    out, _ = call("score", cached, *score, "--explain-plan")
    items, tokens, written, calls, largest, logits = total(out)
    n_trials = out.count("detection")
    assert (written, items) == (0, 8 * n_trials)
    assert 0 < logits - items <= 2 * n_trials  # behind a root and behind a prefix
    assert "latents" in out.splitlines()[0]
    call("score", cached, *score)
    assert spent(cached, "trials") == (tokens, 0, n_trials)
    assert total(call("score", cached, *score, "--explain-plan")[0])[:4] == [0, 0, 0, 0]


def test_a_finished_command_loads_no_weights(folder, cached, monkeypatch):
    call("explain", cached, *explain_options(folder))
    score = ("--scorers", "detection", "--engine", folder / "engine.gguf", "--n-ctx", 1024)
    call("score", cached, *score)

    def fail(path, settings):
        raise AssertionError("loaded")

    monkeypatch.setattr(tools, "open_engine", fail)
    assert "nothing left to do" in call("explain", cached, *explain_options(folder))[1]
    assert "nothing left to do" in call("score", cached, *score)[1]


def test_a_plan_of_nothing_is_refused(folder, cached):
    options = explain_options(folder)[:-2]
    _, err = call("explain", cached, *options, "--explain-plan", code=2)
    assert "nothing to plan" in err


def test_settings_of_the_engine_are_taken_from_options(folder, cached):
    options = explain_options(folder)
    small = call("explain", cached, *options, "--seed", 3, "--set", "n_batch=64", "--explain-plan")
    assert total(small[0])[4] == 64
    for text, code, error in (
        ("n_batch", 2, "--set wants key=value: n_batch"),
        ("n_bitch=3", 2, "n_bitch"),
        ("n_batch=many", 2, "n_batch"),
        ("n_parallel=900", 1, "out of range: 900"),
        ("kv_type=q4_0", 1, "q4_0 change the numbers too much"),
        ("kv_type=q8_0", 1, "q8_0 need flash attention"),
    ):
        _, err = call("explain", cached, *options, "--set", text, code=code)
        assert error in err, err
    out, _ = call(
        "explain", cached, *options, "--seed", 3, "--explain-plan",
        "--set", "flash_attention=true", "--set", "kv_type=q8_0",
    )  # fmt: skip
    assert total(out)[0] == 6


def test_a_server_is_one_of_this_machine_and_has_no_plan(folder, cached):
    here = explain_options(folder)[2:]
    for address, code, error, hint in (
        (
            "http://192.0.2.1:8080",
            1,
            "not on this machine: http://192.0.2.1:8080",
            "--allow-remote",
        ),
        ("http://[", 1, "no URL of a server", "http://127.0.0.1:8080"),
    ):
        _, err = call("explain", cached, "--engine", address, *here, code=code)
        assert error in err and hint in err
    options = ("--engine", "http://127.0.0.1:8080", *here, "--explain-plan")
    _, err = call("explain", cached, *options, code=2)
    assert "a plan is made for a GGUF file, not for a server" in err


def test_the_log_of_llama_cpp_goes_to_a_file(folder, cached, tmp_path):
    log = tmp_path / "log.txt"
    options = (*explain_options(folder), "--seed", 4, "--explain-plan")
    _, err = call("--log", log, "explain", cached, *options)
    assert "lite_interp.engine.library: " in log.read_text(encoding="utf-8")
    assert "llama" not in err
    _, err = call("-v", "explain", cached, *options)
    assert "lite_interp.engine.library: " in err
    _, err = call("--log", tmp_path / "no" / "log.txt", "list", cached, code=2)
    assert "cannot log to this file" in err


def test_what_was_shared_is_counted_once():
    parts = [Usage(10, 3, 1.0), Usage(20, 4, 3.0)]
    assert shared_out(Usage(70, 7, 8.0), parts) == [Usage(50, 3, 2.0), Usage(20, 4, 6.0)]
    assert shared_out(Usage(0, 0, 4.0), [Usage(0, 0, 0.0)] * 2) == [Usage(0, 0, 2.0)] * 2
