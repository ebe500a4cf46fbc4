"""The floor: a coder of the same shape and sparsity with random directions."""

import json
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
import tiny
import tiny_study
import torch
from typer.testing import CliRunner

from lite_interp import study
from lite_interp.cli import app
from lite_interp.db import caches
from lite_interp.db.file import read_results
from lite_interp.errors import CoderError
from lite_interp.intervening import Places, open_steerer
from lite_interp.loading import coder_id, coder_name, load_job
from lite_interp.pipeline import ExplainJob, cache_corpus, explain_latents
from lite_interp.sae import RANDOM, SparseCoder, check, load_coder, make_recipe, randomised

SAMPLE = "b2:sample"
CENTRE = 5 + torch.arange(tiny.D_MODEL, dtype=torch.float32)
FIRST = [0.3128562, 0.4548040, 0.5214511]
"""Beginning of the first of the directions that seed 0 draws in 8 dimensions."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return tiny_study.write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def real(parts):
    return load_coder(parts.coder)


@pytest.fixture(scope="module")
def x():
    """Activations that lie far from 0, as those of real models do."""
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(3000, tiny.D_MODEL)))
    return noise.float() + CENTRE


def make(coder, x, l0=4.0, sample=SAMPLE, seed=0):
    return randomised(coder, make_recipe(coder, x, l0, sample, seed))


def relu_coder():
    """A relu coder of no file."""
    weights = tiny.random_weights(tiny.D_MODEL, 32, 0)
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    return SparseCoder(
        format="saelens",
        hash="sha256:0",
        reads="layers.1",
        writes="layers.1",
        activation="relu",
        provenance={"path": "folder/coder", "config": {}},
        **tensors,
    )


def job_of(parts, **coder):
    job = tiny_study.cache_job(parts)
    return job._replace(coder=job.coder.model_copy(update={"random": True, **coder}))


def test_it_has_the_shape_of_the_real_one_and_random_unit_directions(real, x):
    made = make(real, x)
    assert (made.d_in, made.n_latents, made.d_out) == (real.d_in, real.n_latents, real.d_out)
    assert (made.activation, made.k, made.format) == ("topk", real.k, RANDOM)
    assert (made.reads, made.writes) == (real.reads, real.writes)
    assert torch.equal(made.W_dec, made.W_enc.T)
    assert torch.allclose(made.W_dec.norm(dim=1), torch.ones(made.n_latents))
    assert not made.b_enc.any()
    assert made.W_skip is made.gate is made.threshold is None


def test_directions_are_uniform_on_the_sphere(x):
    """Mean 0 and covariance 1/d: a box or a half of the sphere has others."""
    weights = tiny.random_weights(tiny.D_MODEL, 20_000, 0)
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    wide = replace(relu_coder(), **tensors)
    rows = make(wide, x).W_dec.double()
    assert rows.mean(0).abs().max() < 0.01
    expected = torch.eye(tiny.D_MODEL, dtype=torch.float64) / tiny.D_MODEL
    assert torch.allclose(rows.T @ rows / len(rows), expected, atol=0.005)
    # Fourth moment of a coordinate on the sphere: 3 / (d (d + 2)); of a normalised cube it is less.
    fourth = 3 / (tiny.D_MODEL * (tiny.D_MODEL + 2))
    assert (rows**4).mean().item() == pytest.approx(fourth, rel=0.02)


def test_the_seed_alone_says_which_directions(real, x):
    made, again, other = make(real, x), make(real, x), make(real, x, seed=1)
    assert made.W_enc.numpy().tobytes() == again.W_enc.numpy().tobytes()
    assert made.hash == again.hash
    assert not torch.equal(made.W_enc, other.W_enc)
    # Pinned: another machine or version draws the same.
    assert made.W_dec[0, :3].tolist() == pytest.approx(FIRST, abs=1e-6)


def test_the_name_follows_from_coder_seed_k_and_sample_but_not_from_the_mean(real, x):
    hashes = {
        made.hash
        for made in (
            real,
            make(real, x),
            make(real, x, seed=1),
            make(real, x, sample="b2:other"),
            make(replace(real, k=5), x),
            make(replace(real, hash="sha256:1"), x),
        )
    }
    assert len(hashes) == 6
    assert make(real, x + 1e-6).hash == make(real, x).hash


def test_as_many_latents_fire_as_of_a_coder_that_fixes_no_number(x):
    relu = replace(relu_coder(), b_enc=torch.full((32,), -25.0))
    fired = int((relu.encode(x).values > 0).sum()) / len(x)
    assert 1 < fired < 10
    made = make(relu, x, l0=fired)
    assert made.k == round(fired)
    assert int((made.encode(x).values > 0).sum()) == made.k * len(x)
    assert make(relu, x, l0=0.0).k == 1


def test_firings_are_spread_over_latents_although_activations_have_a_mean(real, x):
    """Slow twin: cosines with what is left of each token when the mean is taken out."""
    made = make(real, x)
    fired = made.firings(x)
    counts = fired.latents.bincount(minlength=made.n_latents)
    assert (counts > 0).all()
    off_centre = replace(made, pre_bias=None)
    uncentred = off_centre.firings(x).latents.bincount(minlength=made.n_latents)
    assert (uncentred == 0).sum() > made.n_latents / 4
    for row in range(3):
        token = (x[row] - x.mean(0)).numpy()
        products = [float(token @ direction) for direction in made.W_dec.numpy()]
        expected = sorted(range(made.n_latents), key=lambda each: -products[each])[: made.k]
        assert set(fired.latents[fired.rows == row].tolist()) == set(expected)


def test_the_mean_is_taken_after_the_transform(real, x):
    scaled = replace(real, input_transform="norm_rescale")
    unit = x / x.norm(dim=1, keepdim=True) * real.d_in**0.5
    made = make(scaled, x)
    assert made.input_transform == "norm_rescale"
    assert torch.allclose(made.pre_bias, unit.mean(0), atol=1e-5)


def test_a_transcoder_has_a_random_decoder_of_its_own(x):
    weights = tiny.random_weights(tiny.D_MODEL, 32, 0, d_out=12)
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    coder = replace(relu_coder(), writes="layers.1.mlp", **tensors)
    made = make(replace(coder, W_skip=torch.ones(12, tiny.D_MODEL)), x)
    assert made.W_dec.shape == (32, 12)
    assert torch.allclose(made.W_dec.norm(dim=1), torch.ones(32))
    assert made.W_skip is None
    assert torch.equal(made.b_dec, coder.b_dec)
    assert torch.allclose(made.pre_bias, x.mean(0))
    assert made.reconstruct(x[:5]).shape == (5, 12)


def test_a_recipe_survives_json_and_is_of_one_coder(real, x):
    recipe = make_recipe(real, x, 4.0, SAMPLE)
    read = type(recipe)(**json.loads(json.dumps(recipe._asdict())))
    made, again = randomised(real, recipe), randomised(real, read)
    assert torch.equal(made.pre_bias, again.pre_bias)
    assert made.hash == again.hash
    assert made.provenance[RANDOM] == recipe._asdict()
    with pytest.raises(CoderError, match="another coder"):
        randomised(replace(real, hash="sha256:1"), recipe)


def test_it_is_loaded_with_a_name_and_an_id_of_its_own(parts, monkeypatch):
    monkeypatch.setattr(check, "WORST_FVU", 0.5)  # a random one of so few latents reaches 0.9
    told = tiny_study.Told()
    loaded = load_job(job_of(parts), told)
    real = load_job(tiny_study.cache_job(parts), tiny_study.Told())
    assert coder_name(loaded.coder) == f"{coder_name(real.coder)} (random)"
    assert coder_id(loaded) != coder_id(real)
    assert coder_id(loaded) == coder_id(load_job(job_of(parts), tiny_study.Told()))
    assert real.sample.fit.fvu < check.WORST_FVU < loaded.sample.fit.fvu
    assert loaded.sample.fit.l0 == pytest.approx(real.coder.k, abs=0.5)
    assert any("(random)" in line and "FVU" in line for line in told.lines)
    assert not any("warning" in line for line in told.lines)


def test_it_is_refused_where_the_real_one_does_not_fit(parts, tmp_path):
    weights = tiny.trained_like(tiny.D_MODEL, 4 * tiny.D_MODEL)
    weights["W_dec"] = -weights["W_dec"]
    wrong = tiny.write_sparsify(tmp_path, "layers.1", weights=weights)
    with pytest.raises(CoderError, match="does not reconstruct") as refused:
        load_job(job_of(parts, path=str(wrong)), tiny_study.Told())
    assert "--force" in refused.value.hint
    told = tiny_study.Told()
    forced = load_job(job_of(parts, path=str(wrong), force=True), told)
    assert forced.coder.format == RANDOM
    narrow = tiny.write_sparsify(tmp_path / "narrow", "layers.1", d_in=6)
    with pytest.raises(CoderError, match="width 6"):
        load_job(job_of(parts, path=str(narrow)), tiny_study.Told())


@pytest.fixture(scope="module")
def results(parts, tmp_path_factory):
    """The real and the random coder in one file, cached."""
    path = tmp_path_factory.mktemp("random") / "results.db"
    told = tiny_study.Told()
    (real,) = cache_corpus(path, tiny_study.cache_job(parts), told)
    (random,) = cache_corpus(path, job_of(parts), told)
    return path, real, random


def test_both_coders_go_through_the_pipeline_in_one_file(results):
    path, real, random = results
    assert real != random
    section = study.LatentsSection(n=3, min_density=0, max_density=1)
    job = ExplainJob(
        0,
        section,
        study.ExamplesSection(width=8, n_shown=4, n_active=6, n_silent=6),
        study.EngineSection(),
        study.ExplainSection(explainers=("token_list",)),
    )
    for name in (real, random):
        latents = explain_latents(path, name.removeprefix("b2:"), job, tiny_study.Told()).latents
        assert len(latents) == 3
    with sqlite3.connect(path) as db:
        formats = db.execute("select format, name from coders order by rowid").fetchall()
        explained = db.execute("select count(*) from explanations").fetchone()
    db.close()
    assert [kind for kind, _ in formats] == ["sparsify", RANDOM]
    assert formats[1][1].endswith(" (random)")
    assert explained == (6,)


def test_steering_makes_the_same_coder_again(parts, results, tmp_path):
    path, real, random = results
    loaded = load_job(job_of(parts), tiny_study.Told())
    other = tiny.write_sparsify(tmp_path, "layers.1", seed=5)
    with read_results(path) as db:
        found = {cache.id: cache for cache in caches.load_caches(db)}
        steerer = open_steerer(db, found[random], Places(), tiny_study.Told())
        for name in ("W_enc", "W_dec", "pre_bias", "b_dec"):
            assert torch.equal(getattr(steerer.coder, name), getattr(loaded.coder, name)), name
        trained = open_steerer(db, found[real], Places(), tiny_study.Told())
        assert trained.coder.format == "sparsify"
        with pytest.raises(CoderError, match="another coder"):
            open_steerer(db, found[random], Places(coder=str(other)), tiny_study.Told())


def test_the_command_has_a_flag(parts, tmp_path):
    path = tmp_path / "results.db"
    told = CliRunner().invoke(
        app,
        [
            *("cache", str(path), "--random-coder", "--context", "32", "--device", "cpu"),
            *("--subject", str(parts.subject), "--coder", str(parts.coder)),
            *("--corpus", str(parts.corpus)),
        ],
    )
    assert told.exit_code == 0, told.output
    with sqlite3.connect(path) as db:
        assert db.execute("select format from coders").fetchall() == [(RANDOM,)]
    db.close()
