"""Quantised copies: made whole or not at all, timed on a sample, compared in judged margins."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_gguf
from documented import check_records
from gguf import GGUFReader
from typer.testing import CliRunner

from lite_interp import doctor, fetch, loss, requantize
from lite_interp.cli import app
from lite_interp.data import models_folder
from lite_interp.engine import EngineSettings, open_engine, quantize, speed
from lite_interp.engine.gguf_file import read_header
from lite_interp.errors import EngineError, LiteInterpError, UsageError
from lite_interp.ids import hash_file
from lite_interp.manifests import find_manifest

SMALL = EngineSettings(n_ctx=1024, n_batch=64, n_ubatch=64, n_parallel=4, n_threads=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tiny llama of 32 bits."""
    return tiny_gguf.write(tmp_path_factory.mktemp("source") / "tiny.gguf", "llama")


@pytest.fixture
def quick(monkeypatch):
    """Samples and prompts so short that nothing is measured but everything is done."""
    monkeypatch.setattr(speed, "MAX_ROUNDS", 3)
    monkeypatch.setattr(speed, "N_TOKENS", 16)
    monkeypatch.setattr(speed.measure, "__defaults__", (("q4_0", "q8_0"), 16, 0.0, 1))
    monkeypatch.setattr(loss, "PROMPT_TOKENS", 16)
    monkeypatch.setattr(loss.compare, "__defaults__", (SMALL, 0.0))


@pytest.fixture
def installed(source, monkeypatch, tmp_path):
    """A models folder of its own with one model, `tiny`."""
    monkeypatch.setenv("LITE_INTERP_MODELS", str(tmp_path / "models"))
    folder = models_folder() / "tiny"
    folder.mkdir(parents=True)
    path = Path(shutil.copy(source, folder / "tiny.gguf"))
    (models_folder() / "tiny.toml").write_text(
        'name = "tiny"\nroles = ["subject", "engine"]\nlicence = "CC0 \\"1.0\\""\n'
        'description = "Tiny."\naliases = ["small"]\n'
        f'[[files]]\npath = "tiny.gguf"\nsize = {path.stat().st_size}\n'
        f'sha256 = "{hash_file(path)[7:]}"\n'
    )
    return path


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result.stdout, result.stderr


# --- making a copy ---


@pytest.mark.parametrize(("name", "tolerance"), [("q8_0", 0.1), ("Q4_0", 3.0)])
def test_a_copy_is_an_engine_that_gives_nearly_the_same_numbers(source, tmp_path, name, tolerance):
    target = quantize.quantize(source, tmp_path / "copy.gguf", name)
    assert quantize.quantisation_of(read_header(target)) == name.lower()
    assert target.stat().st_size < source.stat().st_size
    numbers = []
    for path in (source, target):
        with open_engine(path, SMALL) as engine:
            numbers.append(engine.logprobs([1, 2], [[3, 4, 5, 6, 7], [8, 9]])[0])
    apart = np.abs(numbers[0] - numbers[1]).max()
    assert 0 < apart < tolerance
    assert [path.name for path in tmp_path.iterdir()] == ["copy.gguf"]


def test_weights_of_another_width_fall_back(source, tmp_path):
    target = quantize.quantize(source, tmp_path / "copy.gguf", "q4_k_m")
    kinds = {tensor.tensor_type.name for tensor in GGUFReader(target).tensors}
    assert "Q5_0" in kinds
    assert "Q4_K" not in kinds


def test_a_copy_can_be_made_of_a_copy(source, tmp_path):
    less = quantize.quantize(source, tmp_path / "less.gguf", "q4_0")
    assert quantize.raises_bits(read_header(less), "q8_0")
    assert not quantize.raises_bits(read_header(less), "q2_k")
    assert not quantize.raises_bits(read_header(source), "q8_0")
    more = quantize.quantize(less, tmp_path / "more.gguf", "q8_0")
    assert more.stat().st_size > less.stat().st_size


def refused(error, *parts, **options):
    """What is said when a copy is refused; one line that names what is wrong."""
    with pytest.raises(error) as caught:
        quantize.quantize(*parts, **options)
    assert "\n" not in str(caught.value)
    return f"{caught.value} / {caught.value.hint}"


def test_what_cannot_be_done_is_refused_in_one_line(source, tmp_path, monkeypatch):
    target = tmp_path / "copy.gguf"
    assert re.search("q5_9.*q4_0, ", refused(UsageError, source, target, "q5_9"))
    text = tmp_path / "text.gguf"
    text.write_text("no model")
    assert "no GGUF" in refused(EngineError, text, target, "q4_0")
    assert "cannot be read" in refused(EngineError, tmp_path, target, "q4_0")
    bert = tiny_gguf.write(tmp_path / "bert.gguf", "bert")
    assert "cannot write text" in refused(EngineError, bert, target, "q4_0")
    assert "no such folder" in refused(EngineError, source, tmp_path / "a" / "b.gguf", "q4_0")
    less = quantize.quantize(source, tmp_path / "less.gguf", "q4_0")
    assert "q4_0 already" in refused(EngineError, less, target, "q4_0")
    before = less.read_bytes()
    assert "exists already" in refused(EngineError, source, less, "q8_0")
    assert less.read_bytes() == before
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(quantize.shutil, "disk_usage", lambda _: full)
    assert "not enough room" in refused(EngineError, source, target, "q4_0")
    assert not target.exists()


def test_a_failure_leaves_nothing_behind(source, tmp_path, monkeypatch, capfd):
    nameless = tiny_gguf.write(tmp_path / "other.gguf", "nonesuch")
    target = tmp_path / "copy.gguf"
    assert "unknown model architecture" in refused(EngineError, nameless, target, "q4_0")

    def cut(_source, path, _quantisation, _n_threads):
        path.write_bytes(source.read_bytes()[:-100])

    monkeypatch.setattr(quantize, "convert", cut)
    assert "cut short" in refused(EngineError, source, target, "q4_0")

    def interrupted(_source, path, _quantisation, _n_threads):
        path.write_bytes(b"GGUF")
        raise KeyboardInterrupt

    monkeypatch.setattr(quantize, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantize.quantize(source, target, "q4_0")
    assert [path.name for path in tmp_path.iterdir()] == ["other.gguf"]
    assert capfd.readouterr() == ("", "")


def test_a_disk_that_is_full_is_one_line(source):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(EngineError, match="could not be made") as caught:
        quantize.convert(source, Path("/dev/full"), "q4_0", 1)
    assert "room" in caught.value.hint


# --- timing on a sample ---


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba"])
def test_a_sample_has_some_layers_and_no_text(architecture, tmp_path):
    path = tiny_gguf.write(tmp_path / "whole.gguf", architecture)
    n_layers = read_header(path).metadata[f"{architecture}.block_count"]
    sample = tmp_path / "sample.gguf"
    assert speed.write_sample(path, sample, 2) == 2 / n_layers
    whole, few = GGUFReader(path), GGUFReader(sample)
    assert {tensor.name.split(".")[1] for tensor in few.tensors if "blk" in tensor.name} == {
        "0",
        "1",
    }
    assert "tokenizer.ggml.tokens" not in few.fields
    last = next(tensor for tensor in few.tensors if tensor.name.startswith("blk.1."))
    name = last.name.replace("blk.1.", f"blk.{int(1.5 * n_layers / 2)}.")
    (same,) = [tensor for tensor in whole.tensors if tensor.name == name]
    assert np.array_equal(same.data, last.data)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba"])
def test_each_quantisation_gets_a_speed(architecture, tmp_path, monkeypatch):
    monkeypatch.setattr(speed.tempfile, "tempdir", str(tmp_path))
    path = tiny_gguf.write(tmp_path / "whole.gguf", architecture)
    found = speed.measure(path, ("q4_0", "q8_0"), n_tokens=16, seconds=0.0, n_threads=1)
    assert found[0].own
    assert found[0].ratio == 1
    assert {each.quantisation for each in found[1:]} == {"q4_0", "q8_0"}
    assert found[1].ratio >= found[2].ratio
    for each in found:
        assert 0 < each.lowest <= each.tokens_per_second <= each.highest
        assert each.n_rounds == speed.MIN_ROUNDS
    assert [each.name for each in tmp_path.iterdir()] == ["whole.gguf"]


def test_a_quantisation_that_cannot_be_made_is_left_out(source, monkeypatch, caplog):
    def refuse(_source, _target, name, _n_threads):
        raise EngineError(f"{name} could not be made")

    monkeypatch.setattr(speed, "convert", refuse)
    (own,) = speed.measure(source, ("q4_0",), n_tokens=16, seconds=0.0, n_threads=1)
    assert own.own
    assert "q4_0 could not be made" in caplog.text


def test_a_model_that_gives_no_sample_is_one_line(tmp_path, monkeypatch):
    path = tiny_gguf.write(tmp_path / "vocabulary.gguf", "llama", with_weights=False)
    with pytest.raises(EngineError, match="vocabulary"):
        speed.measure(path)
    whole = tiny_gguf.write(tmp_path / "whole.gguf", "llama")
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(speed.shutil, "disk_usage", lambda _: full)
    with pytest.raises(EngineError, match="not enough room"):
        speed.measure(whole)


def test_rounds_go_there_and_back_and_the_first_does_not_count():
    calls = []

    def action(name):
        calls.append(name)
        return float(len(calls))

    times = speed.interleave({name: lambda name=name: action(name) for name in "ab"}, 0.0)
    assert "".join(calls) == "ab" + "ba" + "ab" + "ba"
    assert times == {"a": [4.0, 5.0, 8.0], "b": [3.0, 6.0, 7.0]}


# --- what it costs ---


def test_the_questions_are_balanced_and_no_text_fits_by_accident():
    texts = [loss._texts(number) for number in range(len(loss.QUESTIONS))]
    flat = [text for four in texts for text in four]
    assert len(flat) == len(loss.fitting()) == 40
    assert all(flat.count(text) == 2 for text in flat)
    assert all(len(set(four)) == 4 for four in texts)
    assert loss.fitting().sum() == 20


def test_a_difference_is_told_in_margins():
    margins = np.where(loss.fitting(), 1.0, -1.0) + np.linspace(0, 0.1, 40)
    other = margins + 0.5
    other[0], other[1] = -3.0, math.nan
    found = loss.difference(loss.Answers(margins, [2.0, 4.0, 2.0]), loss.Answers(other, [1.0] * 3))
    assert (found.n_questions, found.n_failed) == (39, 1)
    assert found.greatest_difference == pytest.approx(4.0)
    assert found.mean_difference == pytest.approx((4 + 38 * 0.5) / 39)
    assert found.share_changed == pytest.approx(1 / 39)
    assert 0 < found.correlation < 1
    assert found.auroc[0].value == 1
    assert found.auroc[1].value < 1
    assert found.speed_ratio == 2
    lines = "\n".join(loss.loss_lines(found))
    assert "39 built-in questions, 1 not answered" in lines
    assert "did not tell" not in lines


def test_an_engine_that_says_the_same_to_everything_has_no_correlation():
    flat = loss.Answers(np.zeros(40), [1.0])
    found = loss.difference(flat, flat)
    assert math.isnan(found.correlation)
    assert "did not tell" in loss.loss_lines(found)[-1]
    nothing = loss.Answers(np.full(40, math.nan), [1.0])
    with pytest.raises(EngineError):
        loss.difference(nothing, flat)


@pytest.mark.parametrize("memory", [1 << 40, 0])
def test_two_files_judge_together_or_one_after_the_other(source, quick, monkeypatch, memory):
    monkeypatch.setattr(loss, "available_memory", lambda: memory)
    found = loss.compare(source, source)
    assert found.n_questions == 40
    assert found.mean_difference == 0
    assert found.correlation == pytest.approx(1)
    assert found.auroc[0] == found.auroc[1]
    assert min(found.tokens_per_second) > 0


# --- names ---


def test_a_copy_of_an_installed_model_has_a_name(installed):
    made = requantize.quantize_model("small", "Q4_0")
    assert made == (requantize.Made(installed, made.path, "tiny-q4_0"))
    assert fetch.model_path("tiny-q4_0", "engine") == made.path
    manifest = find_manifest("tiny-q4_0", "subject")
    assert fetch.verify(manifest) == []
    assert manifest.licence == 'CC0 "1.0"'
    assert "tiny" in manifest.description
    for again in ("q4_0", "Q4_0"):
        with pytest.raises(EngineError, match="model exists already: tiny-q4_0"):
            requantize.quantize_model("tiny", again)


def test_a_name_that_cannot_be_given_leaves_nothing_behind(installed, monkeypatch):
    before = sorted(models_folder().rglob("*"))

    def broken(*_arguments):
        raise EngineError("no")

    with monkeypatch.context() as patch, pytest.raises(EngineError):
        patch.setattr(requantize, "_write_manifest", broken)
        requantize.quantize_model("tiny", "q4_0")
    with monkeypatch.context() as patch, pytest.raises(EngineError):
        patch.setattr(quantize, "convert", broken)
        requantize.quantize_model("tiny", "q4_0")
    assert sorted(models_folder().rglob("*")) == before


def test_a_copy_of_a_file_stands_beside_it_or_where_it_is_wanted(source, tmp_path):
    path = Path(shutil.copy(source, tmp_path / "My model.gguf"))
    made = requantize.quantize_model(str(path), "q8_0")
    assert (made.path, made.name) == (tmp_path / "My model-q8_0.gguf", "")
    made = requantize.quantize_model(str(path), "q8_0", tmp_path / "x.gguf")
    assert made.path == tmp_path / "x.gguf"
    for wrong in (str(tmp_path), str(tmp_path / "none.gguf"), "nonesuch"):
        with pytest.raises(LiteInterpError) as caught:
            requantize.quantize_model(wrong, "q8_0")
        assert "\n" not in str(caught.value)


# --- the command line ---


def test_doctor_prints_facts_and_a_table(installed, quick, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out, err = call("doctor", "--engine", "tiny")
    assert max(map(len, out.split("\n\n")[0].splitlines())) <= 80
    assert re.search(r"^cores +\d+ physical", out, re.MULTILINE)
    assert re.search(r"^unknown \(this file\) .* 1\.00$", out, re.MULTILINE)
    assert re.search(r"^q4_0 +[\d,]+ ", out, re.MULTILINE)
    assert "timing" in err
    out, _ = call("doctor", "--engine", installed, "--json")
    (found,) = check_records("doctor", out, all_fields=False)
    assert found["engine"]["quantisation"] == "unknown"
    assert {each["quantisation"] for each in found["speeds"]} == {"unknown", "q4_0", "q8_0"}
    assert set(found) == {"machine", "engine", "speeds", "faster", "command"}


def made_speed(name, ratio):
    return speed.Speed(name, ratio == 1, 100 * ratio, 90 * ratio, 110 * ratio, ratio, 3)


def test_doctor_names_what_is_much_faster():
    speeds = [made_speed("q4_1", 1), made_speed("q4_0", 2.2), made_speed("q8_0", 1.6)]
    told = "\n".join(doctor.advice(speeds, "my model.gguf"))
    assert "q4_0 evaluates prompts 2.2 times as fast as q4_1" in told
    assert "lite-interp models quantize 'my model.gguf' q4_0" in told
    (told,) = doctor.advice([made_speed("q4_1", 1), made_speed("q4_0", 1.4)], "m")
    assert "keep the file" in told


def test_doctor_refuses_in_one_line(tmp_path):
    _, err = call("doctor", "--engine", tmp_path / "none.gguf", code=1)
    assert "no such file" in err.replace("\n", " ")


def test_quantize_says_where_it_is_and_what_it_costs(installed, quick):
    out, err = call("models", "quantize", "tiny", "q8_0")
    assert "installed as tiny-q8_0: --engine tiny-q8_0" in out
    assert "margins on 40 built-in questions" in out
    assert "AUROC on these questions" in out
    assert "warning" not in err
    listed, _ = call("models", "list", "--json")
    rows = {row["name"]: row for row in map(json.loads, listed.splitlines())}
    assert rows["tiny-q8_0"]["installed"].endswith("tiny-q8_0.gguf")
    assert call("models", "verify", "tiny-q8_0")[0] == "tiny-q8_0: ok\n"
    _, err = call("models", "quantize", "tiny-q8_0", "f16", "-o", installed.with_name("x.gguf"))
    assert "cannot bring back" in err
    _, err = call("models", "quantize", "tiny", "q8_0", code=1)
    assert "model exists already: tiny-q8_0" in err
    _, err = call("models", "quantize", "tiny", "q9", code=2)
    assert "no such quantisation: q9" in err
