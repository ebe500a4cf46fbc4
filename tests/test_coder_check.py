"""A coder's check: what it is, what it declares, and which site or scale fits in its place."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_study
import torch
from documented import check_records
from safetensors.torch import save_file
from typer.testing import CliRunner

from lite_interp import study
from lite_interp.cli import app
from lite_interp.coder_check import check_coder, demo_corpus, trying, warnings
from lite_interp.coder_check.declared import compare, factors_of
from lite_interp.coder_check.report import is_better
from lite_interp.coder_check.sites import canonical, everywhere, layer_of, near, points_of
from lite_interp.corpus import CorpusSettings, build_contexts
from lite_interp.documents import Skips, read_documents
from lite_interp.fit import Sample, Site, read_sample
from lite_interp.loading import CacheJob
from lite_interp.records import Hookpoint
from lite_interp.sae import Fit, SparseCoder, load_coder, measure_fit
from lite_interp.subject import load_subject
from lite_interp.tokenizer import load_tokenizer

D = tiny.D_MODEL


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return tiny_study.write_parts(tmp_path_factory.mktemp("check"))


@pytest.fixture(scope="module")
def subject(parts):
    return load_subject(parts.subject, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def shard(parts):
    tokenizer = load_tokenizer(parts.subject)
    return next(
        iter(
            build_contexts(
                read_documents([parts.corpus], "text", Skips()),
                tokenizer.encode_many,
                tokenizer.bos_id,
                CorpusSettings(n_ctx=tiny_study.N_CTX, add_bos=tokenizer.adds_bos),
                tokenizer.bos_id,
            )
        )
    )


def at(subject, name, shard):
    """Activations at a hookpoint that count."""
    point = subject.resolve(name)
    return read_sample(iter([shard]), subject, Site(point, point, frozenset(range(4)))).x


def check(parts, coder, hookpoint=""):
    job = CacheJob(
        study.SubjectSection(model=str(parts.subject), device="cpu", dtype="float32"),
        study.CoderSection(path=str(coder), hookpoint=hookpoint),
        study.CorpusSection(paths=(str(parts.corpus),), n_ctx=tiny_study.N_CTX),
    )
    return check_coder(job, tiny_study.Told())


def of_one_site(x):
    """A narrow coder of some activations: their mean and their two largest directions, +u and -u.

    Elsewhere in the subject these directions are no special ones.
    """
    mean = x.mean(0)
    directions = torch.linalg.svd(x - mean, full_matrices=False).Vh[:2]
    pairs = torch.cat([directions, -directions])
    return {
        "W_enc": pairs.T.numpy().copy(),
        "b_enc": (-pairs @ mean).numpy(),
        "W_dec": pairs.numpy().copy(),
        "b_dec": mean.numpy(),
    }


def write_of(folder, x, hook, **config):
    """That coder as a SAELens coder, which subtracts nothing."""
    tiny.write_saelens(
        folder,
        tensors=of_one_site(x),
        apply_b_dec_to_input=False,
        metadata={"hook_name": hook},
        **config,
    )
    return folder


def is_own(report, each):
    """Whether it is the coder as it is, where it says it belongs."""
    return not each.way.name and (str(each.reads), str(each.writes)) == (
        report.reads,
        report.writes,
    )


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result.stdout, result.stderr


# --- a coder that fits ---


def test_coder_that_fits_is_described_without_a_warning(parts):
    report = check(parts, parts.coder)
    assert report.fits and warnings(report) == [] and report.best is None
    assert report.reads == report.writes == "model.layers.1.output"
    assert report.fit.l0 == pytest.approx(4, abs=0.1)
    agrees = {each.what: each.agrees for each in report.declared}
    assert agrees == {"width read": True, "latents": True, "k": True, "hookpoint": True}
    assert sum(is_own(report, each) for each in report.tried) == 1


def test_densities_are_those_of_the_firings(parts, subject, shard):
    report = check(parts, parts.coder)
    coder, x = load_coder(parts.coder), at(subject, "layers.1", shard)
    encoded = coder.encode(x)
    density = torch.zeros(coder.n_latents)
    for values, latents in zip(encoded.values, encoded.indices, strict=True):
        density[latents[values > 0]] += 1 / len(x)
    assert report.densities.silent == 0.5  # of `trained_like` half never fire
    assert report.densities.often == (density > 0.1).float().mean()
    assert list(report.densities.quantiles) == [0.1, 0.5, 0.9, 0.99]
    for share, value in report.densities.quantiles.items():
        assert value == pytest.approx(float(density[density > 0].quantile(share)), rel=1e-4)


# --- a wrong site ---


def test_wrong_hookpoint_is_named_with_the_one_that_fits(parts, subject, shard, tmp_path):
    coder = write_of(tmp_path, at(subject, "layers.1.mlp", shard), "blocks.1.hook_mlp_out")
    right = check(parts, coder)
    assert right.fits and not right.best
    report = check(parts, coder, "layers.1.self_attn")
    assert not report.fits
    assert str(report.best.reads) == "model.layers.1.mlp.output" and not report.best.way.name
    assert report.best.fit == right.fit
    told = "\n".join(warnings(report))
    assert "does not reconstruct model.layers.1.self_attn.output: FVU" in told
    assert "likely wrong site: reading model.layers.1.mlp.output gives FVU" in told
    assert "--hookpoint model.layers.1.mlp.output" in told
    assert "its config says hookpoint blocks.1.hook_mlp_out" in told


def test_wrong_layer_in_the_files_is_found(parts, subject, shard, tmp_path):
    x = at(subject, "layers.1.mlp", shard)
    for wrong in ("blocks.0.hook_mlp_out", "blocks.2.hook_mlp_out"):
        report = check(parts, write_of(tmp_path / wrong, x, wrong))
        assert str(report.best.reads) == "model.layers.1.mlp.output"


def test_coder_without_hookpoint_is_looked_for_in_every_layer(parts, subject, shard, tmp_path):
    coder = write_of(tmp_path, at(subject, "layers.1", shard), "")
    report = check(parts, coder)
    assert report.reads == "" and report.fit is None and not report.fits
    assert str(report.best.reads) == "model.layers.1.output"
    assert "its files do not say where it reads" in warnings(report)[0]
    assert "--hookpoint model.layers.1.output" in warnings(report)[1]


def test_name_that_the_subject_has_not_is_no_error(parts, subject, shard, tmp_path):
    coder = write_of(tmp_path, at(subject, "layers.1.mlp", shard), "blocks.1.hook_mlp_in")
    report = check(parts, coder)
    assert str(report.best.reads) == "model.layers.1.mlp.output"
    assert warnings(report)[0].startswith("subject has no such hookpoint")


def test_widths_that_do_not_fit_are_a_line(parts, tmp_path):
    coder = tiny.write_saelens(tmp_path, tensors=tiny.random_weights(5, 20, 0))
    report = check(parts, coder)
    assert report.tried == [] and report.fit is None
    assert "it reads width 5, and model.layers.1.output has width 8" in warnings(report)[0]


def test_transcoder_of_another_layer_is_found(parts, subject, shard, tmp_path):
    reads, writes = (
        subject.resolve(name) for name in ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    )
    sample = read_sample(iter([shard]), subject, Site(reads, writes, frozenset(range(4))))
    tensors = of_one_site(sample.x)
    # The decoder that maps these latents best to the output.
    p = torch.relu(sample.x @ torch.tensor(tensors["W_enc"]) + torch.tensor(tensors["b_enc"]))
    ones = torch.cat([p, torch.ones(len(p), 1)], 1)
    best = torch.linalg.lstsq(ones, sample.y, driver="gelsd").solution.numpy()
    tensors |= {"W_dec": best[:-1].copy(), "b_dec": best[-1].copy()}
    hooks = {"hook_name": "blocks.0.mlp.hook_in", "hook_name_out": "blocks.0.hook_mlp_out"}
    coder = tiny.write_saelens(tmp_path, "transcoder", tensors, metadata=hooks)
    report = check(parts, coder)
    # The norms of a fresh model have no gain yet: what is before it is the same tensor.
    assert (report.best.reads.module, report.best.writes) == (reads.module, writes)
    told = "\n".join(warnings(report))
    assert f"reading {report.best.reads} and writing {writes}" in told
    assert "--hookpoint" not in told  # which would move the input alone


# --- a wrong scale ---


def test_scale_that_is_not_folded_is_named(parts, subject, shard, tmp_path):
    x = at(subject, "layers.1", shard)
    hook = "blocks.1.hook_resid_post"
    report = check(parts, write_of(tmp_path, x * 25, hook, norm_scaling_factor=25.0))
    assert not report.fits
    assert (report.best.way.name, report.best.way.reads) == ("norm_scaling_factor", 25)
    told = "\n".join(warnings(report))
    assert "the likely wrong scale of the input: norm_scaling_factor, x 25 gives FVU" in told
    right = check(parts, write_of(tmp_path / "right", x, hook))
    assert report.best.fit.fvu == pytest.approx(right.fit.fvu, rel=1e-4)


def test_scale_that_stands_in_config_and_weights_is_named(parts, subject, shard, tmp_path):
    x = at(subject, "layers.1", shard) / 25
    coder = write_of(tmp_path, x, "blocks.1.hook_resid_post", norm_scaling_factor=25.0)
    tried = {each.way.name: each.fit.fvu for each in check(parts, coder).tried if each.way.name}
    right = check(parts, write_of(tmp_path / "right", x * 25, "blocks.1.hook_resid_post"))
    own = next(each.fit.fvu for each in right.tried if is_own(right, each))
    assert tried["1 / norm_scaling_factor"] == pytest.approx(own, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "length"), [("1 / mean norm", 1.0), ("sqrt(d) / mean norm", D**0.5), ("sqrt(d)", None)]
)
def test_scales_of_training_are_found(name, length):
    draw = torch.Generator().manual_seed(0)
    spread = torch.tensor([30.0, 20, *[1] * (D - 2)])
    x = 40 * torch.tensor([1.0, -1] * (D // 2)) + spread * torch.randn(200, D, generator=draw)
    norm = float(x.norm(dim=-1).mean())
    made = of_one_site(x * (length / norm if length else D**0.5))
    tensors = {key: torch.tensor(value) for key, value in made.items()}
    coder = SparseCoder("saelens", "sha256:", "a", "a", **tensors, activation="relu")
    sample = Sample("id", x, x, norm, 1.0)
    point = Hookpoint("a", "output")
    found = [trying.tried(way, sample, (point, point)) for way in trying.ways(coder, sample, {})]
    best = min(found, key=lambda each: each.fit.fvu)
    assert best.way.name == name
    others = [each for each in found if each is not best and "normalisation" not in each.way.name]
    assert best.fit.fvu < 0.5 * min(each.fit.fvu for each in others)


def test_bias_that_is_subtracted_or_not_is_named(parts, subject, shard, tmp_path):
    x = at(subject, "layers.1", shard)
    tensors = of_one_site(x)
    coder = tiny.write_saelens(
        tmp_path, tensors=tensors, apply_b_dec_to_input=True, metadata={"hook_name": "layers.1"}
    )
    named = {each.way.name: each.fit.fvu for each in check(parts, coder).tried if each.way.name}
    right = check(parts, write_of(tmp_path / "right", x, "layers.1"))
    name = "nothing subtracted before the encoder"
    own = next(each.fit.fvu for each in right.tried if is_own(right, each))
    assert named[name] == pytest.approx(own)
    assert "b_dec subtracted before the encoder" in {each.way.name for each in right.tried}


@pytest.mark.parametrize(
    ("own", "other", "better"),
    [(2.0, 0.3, True), (0.95, 0.8, False), (0.8, 0.3, True), (0.8, 0.5, False), (0.29, 0.01, False),
     (math.nan, 0.5, True), (2.0, 0.91, False), (2.0, math.nan, False)],
)  # fmt: skip
def test_what_is_worth_a_word(own, other, better):
    assert is_better(Fit(other, 4, 0, 9), Fit(own, 4, 0, 9)) is better


def test_scaled_fvu_is_that_of_weights_with_the_scale_folded(parts, subject, shard):
    """The slow twin: scale in the weights, not in the activations."""
    point = subject.resolve("layers.1")
    sample = read_sample(iter([shard]), subject, Site(point, point, frozenset(range(4))))
    coder = load_coder(parts.coder)
    for s in (0.3, 4.0):
        folded = dataclasses.replace(
            coder,
            W_enc=coder.W_enc * s,
            W_dec=coder.W_dec / s,
            b_dec=coder.b_dec / s,
            pre_bias=coder.pre_bias / s,
        )
        way = trying.Way("scale", coder, s, s)
        got = trying.tried(way, sample, (point, point)).fit
        wanted = measure_fit(folded, sample.x)
        assert got.fvu == pytest.approx(wanted.fvu, rel=1e-4, abs=1e-6)
        assert got.l0 == wanted.l0


def test_number_of_latents_is_compared_with_what_is_declared(parts, subject, shard, tmp_path):
    x = at(subject, "layers.1", shard)
    report = check(parts, write_of(tmp_path / "a", x, "blocks.1.hook_resid_post", l0=5.0))
    assert report.fits and not [line for line in warnings(report) if "L0" in line]
    report = check(parts, write_of(tmp_path / "b", x, "blocks.1.hook_resid_post", l0=60))
    assert [line for line in warnings(report) if "it declares L0 60" in line]


def test_nothing_that_fits_is_said(parts, tmp_path):
    coder = tiny.write_saelens(tmp_path, tensors=tiny.random_weights(D, 32, 3))
    report = check(parts, coder)
    assert not report.fits and report.best is None
    assert "none of the sites and scales" in warnings(report)[1]


def test_neurons_are_partial_and_not_looked_for_elsewhere(parts):
    report = check(parts, "neurons:1:4")
    assert report.tried == [] and report.best is None
    assert not [line for line in warnings(report) if "none of the sites" in line]


# --- parts ---


def test_one_pass_reads_what_many_would(parts, subject, shard):
    points = [point for layer in range(3) for point in points_of(layer, subject)]
    reader = trying.prefetched(subject, points)
    for point in points:
        site = Site(point, point, frozenset(range(4)))
        fast, slow = (read_sample(iter([shard]), each, site) for each in (reader, subject))
        assert torch.equal(fast.x, slow.x) and fast.id == slow.id
    assert reader.kept and not hasattr(subject, "kept")


def test_few_points_are_kept_at_a_time(monkeypatch, subject):
    monkeypatch.setattr(trying, "MAX_POINTS", 4)
    pairs = [(point, point) for layer in range(3) for point in points_of(layer, subject)]
    runs = list(trying._few_points(pairs))
    assert sum(runs, []) == pairs and max(map(len, runs)) == 4


def test_few_contexts_hold_the_tokens_asked_for(shard):
    few = trying.few_contexts(shard, 100)
    assert 100 <= few.lengths.sum() < 100 + tiny_study.N_CTX
    rows = {tuple(row) for row in shard.token_ids.tolist()}
    assert {tuple(row) for row in few.token_ids.tolist()} <= rows
    assert len(trying.few_contexts(shard, 10**9).lengths) == len(shard.lengths)


def test_neighbours_are_of_the_layers_around_and_each_tensor_is_one(parts, subject):
    coder = load_coder(parts.coder)
    own = (subject.resolve("layers.1"),) * 2
    sites = near(own, 1, coder, subject)
    names = [str(reads) for reads, _ in sites]
    assert "model.layers.0.output" in names and "model.layers.1.input" not in names
    assert "model.layers.1.mlp.output" in names and "model.layers.2.output" in names
    assert "model.layers.1.output" not in names and len(set(sites)) == len(sites)
    assert not [name for name in names if "down_proj" in name]  # 16 wide
    assert near(own, None, coder, subject) == [] and near(None, 99, coder, subject) == []
    far = everywhere((Hookpoint("model.layers.1.mlp", "output"),) * 2, coder, subject)
    assert {str(reads) for reads, _ in far} == {
        f"model.layers.{layer}{part}" for layer in range(3) for part in (".mlp.output", ".output")
    } - {"model.layers.1.mlp.output"}


def test_input_of_a_layer_is_the_output_of_the_one_before(subject):
    assert str(canonical(subject.resolve("layers.2.input"), subject)) == "model.layers.1.output"
    assert str(canonical(subject.resolve("layers.0.input"), subject)) == "model.layers.0.input"
    names = [
        "blocks.9.hook_resid_post",
        "layers.9.mlp",
        "resid_post.9",
        "embed_tokens",
        "layers.9x",
    ]
    assert [layer_of(name) for name in names] == [9, 9, 9, None, None]


def test_config_is_hostile_text(parts, subject):
    coder = load_coder(parts.coder)

    def of(config):
        coder_of = dataclasses.replace(coder, provenance={"config": config})
        declared = compare(coder_of, subject, "model.layers.1.output", True, Fit(0.1, 4.0, 0, 9))
        return {each.what: each for each in declared}, factors_of(coder_of)

    deep: dict = {}
    deep["norm_factor"] = deep
    for config in (None, [], {"k": []}, deep, {"k": math.nan, "l0": math.inf, "layer": True}):
        of(config)
    found, _ = of({"model_name": "x\x1b[2J" + "y" * 999, "l0": "many", "k": -3})
    assert "\x1b" not in found["model"].declared and len(found["model"].declared) <= 80
    assert found["L0"].agrees is None and found["k"].agrees is None
    _, factors = of(
        {
            "norm_scaling_factor": 0.5,
            "activation_scaler": {"scaling_factor": -1},
            "dataset_average_activation_norm": {"in": 2, "out": 1e99},
            "norm_factor": True,
        }
    )
    assert factors == {"norm_scaling_factor": 0.5, "sqrt(d) / in": D**0.5 / 2}


def test_instruct_and_base_are_told_apart(parts, subject):
    coder = load_coder(parts.coder)
    told = dataclasses.replace(coder, provenance={"config": {"model_name": "org/gemma-2b"}})

    def agrees(name):
        named = dataclasses.replace(subject, name=name)
        return compare(told, named, "model.layers.1.output", True, None)[0].agrees

    assert [agrees(name) for name in ("gemma-2b", "gemma-2b-it", "snapshot")] == [True, False, None]


# --- the command line ---


def doctor(parts, *more, code=0):
    fixed = ("--subject", parts.subject, "--corpus", parts.corpus, "--context", tiny_study.N_CTX)
    return call("doctor", *fixed, *more, code=code)


def test_doctor_prints_what_it_found(parts, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    before = set(Path(parts.subject.parent).rglob("*"))
    out, err = doctor(parts, "--coder", parts.coder)
    assert re.search(r"^FVU +0\.\d+", out, re.MULTILINE)
    assert re.search(r"^latents +32 +32 +agrees", out, re.MULTILINE)
    assert "(its own)" in out and "It fits" in out and "loading the subject" in err
    assert max(map(len, out.splitlines())) <= 80
    assert before == set(Path(parts.subject.parent).rglob("*"))


def test_doctor_as_json(parts):
    out, _ = doctor(parts, "--coder", parts.coder, "--json")
    (found,) = check_records("doctor", out, all_fields=False)
    assert found["fits"] and found["warnings"] == [] and found["coder"]["format"] == "sparsify"
    assert found["best"] is None and found["fit"]["n_tokens"] > 1000
    assert {"reads", "writes", "change", "fvu", "l0"} <= set(found["tried"][0])
    assert found["declared"][0] == {
        "what": "width read",
        "declared": "8",
        "found": "8",
        "agrees": True,
    }


def test_doctor_says_nowhere_in_json_as_null(parts, tmp_path):
    coder = tiny.write_saelens(tmp_path, metadata={"hook_name": "nonsense"})
    found = json.loads(doctor(parts, "--coder", coder, "--json")[0])
    assert found["reads"] is None and found["fit"] is None and not found["fits"]


def test_doctor_refuses_in_one_line(parts, tmp_path):
    of_engine = ("--engine", "x")
    for wrong in (
        (*of_engine, "--coder", "y", "--subject", "z"),
        (*of_engine, "--hookpoint", "layers.1"),
        ("--coder", "y"),
        ("--subject", "y"),
        (),
    ):
        _, err = call("doctor", *wrong, "--json", code=2)
        assert "--engine, or --coder with --subject" in err
    _, err = doctor(parts, "--coder", tmp_path, code=1)
    assert "no sparse coder that is read" in err
    (tmp_path / "empty.txt").write_text("")
    empty = ("--coder", parts.coder, "--subject", parts.subject, "--corpus", tmp_path / "empty.txt")
    assert call("doctor", *empty, code=1)[1].startswith("Error: ")
    save_file({"W_dec": torch.full((2, 2), np.nan)}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text("{}")
    _, err = doctor(parts, "--coder", tmp_path, code=1)
    assert err.startswith("Error: ")


def test_the_demo_corpus_is_there():
    assert demo_corpus().is_file()
