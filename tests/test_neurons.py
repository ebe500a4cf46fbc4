"""Neurons as latents: the subject's own, the largest of each token, from cache to steering."""

from dataclasses import replace

import pytest
import tiny
import tiny_study
import torch
from torch import nn

from lite_interp import study
from lite_interp.db import caches
from lite_interp.db.file import read_results
from lite_interp.errors import CoderError, SubjectError
from lite_interp.intervening import Places, open_steerer
from lite_interp.loading import coder_id, coder_name, coder_of_neurons, load_job
from lite_interp.pipeline import cache_corpus
from lite_interp.sae import RANDOM
from lite_interp.sae.neurons import NEURONS, make_neurons, read_name
from lite_interp.subject import load_subject

IDS = torch.tensor([[5, 9, 77, 8, 100], [6, 7, 8, 9, 10]])
LENGTHS = torch.tensor([5, 5])
LAYER = "neurons:1:6"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return tiny_study.write_parts(tmp_path_factory.mktemp("neurons"))


@pytest.fixture(scope="module", params=["llama", "gpt2", "neox"])
def subject(request, tmp_path_factory):
    folder = tiny.write_subject(tmp_path_factory.mktemp("subject") / request.param, request.param)
    loaded = load_subject(folder, device="cpu", dtype="float32")
    with torch.no_grad():  # biases that are not 0
        for weight in loaded.model.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return loaded


def job_of(parts, path=LAYER, **coder):
    job = tiny_study.cache_job(parts)
    section = study.CoderSection(path=path, **coder)
    return job._replace(coder=section)


def test_the_largest_neurons_of_each_token_fire(subject):
    coder = coder_of_neurons(LAYER, subject)
    point = subject.resolve("blocks.1.mlp.hook_post")
    x = subject.read(IDS, LENGTHS, [point])[point].flatten(0, 1)
    fired = coder.firings(x)
    expected = {
        (row, neuron, x[row, neuron].item())
        for row in range(len(x))
        for neuron in sorted(range(x.shape[1]), key=lambda each: -x[row, each].item())[:6]
        if x[row, neuron] > 0
    }
    found = zip(*(part.tolist() for part in fired), strict=True)
    assert set(found) == expected
    assert (coder.format, coder.k, coder.n_latents) == (NEURONS, 6, x.shape[1])
    assert "neurons below 0 do not fire" in coder.provenance["assumptions"]


def test_it_writes_what_the_mlp_makes_of_the_kept_neurons(subject):
    """With all neurons kept, and none below 0, that is the whole output of the MLP."""
    coder = coder_of_neurons("neurons:1:6", subject)
    whole = replace(coder, k=coder.n_latents)
    projection = subject.model.get_submodule(subject.resolve(coder.reads).module)
    x = torch.rand(7, coder.d_in, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(whole.reconstruct(x), projection(x))
    kept = torch.zeros_like(x).scatter(1, x.topk(6).indices, x.topk(6).values)
    torch.testing.assert_close(coder.reconstruct(x), projection(kept))
    assert str(subject.resolve(coder.writes)).endswith(".1.mlp.output")
    assert not coder.W_dec.requires_grad


def test_its_name_tells_layer_and_k():
    assert read_name("neurons:9") == (9, 32)
    assert read_name("neurons:9:256") == (9, 256)
    assert read_name("neurons:9:256").name == "neurons:9:256"
    for path in ("neurons", "coders/neurons:9", "/data/neurons", "layers.9"):
        assert read_name(path) is None
    for path in ("neurons:", "neurons:x", "neurons:9:", "neurons:-1", "neurons:9:k", "neurons:9\n"):
        with pytest.raises(CoderError, match="no such neurons") as caught:
            read_name(path)
        assert "neurons:9:256" in caught.value.hint
        assert "\n" not in str(caught.value)


def test_neurons_that_are_not_there_are_refused(parts, monkeypatch):
    loaded = load_subject(parts.subject, device="cpu", dtype="float32")
    with pytest.raises(SubjectError, match="blocks.9.mlp.hook_post"):
        coder_of_neurons("neurons:9", loaded)
    with pytest.raises(CoderError, match=r"k of the sparse coder must lie in 1\.\.16: 17"):
        coder_of_neurons("neurons:1:17", loaded)
    with pytest.raises(CoderError, match=r"1\.\.16: 0"):
        coder_of_neurons("neurons:1:0", loaded)
    wanted = read_name(LAYER)
    with pytest.raises(CoderError, match="no neurons to read: Identity") as caught:
        make_neurons(wanted, nn.Identity(), "sha256:0")
    assert "experts" in caught.value.hint
    monkeypatch.setattr("lite_interp.sae.neurons.MAX_NEURONS", 3)
    with pytest.raises(CoderError, match="4 neurons, at most 3"):
        make_neurons(wanted, nn.Linear(4, 2), "sha256:0")


def test_the_hash_is_of_subject_and_layer_and_the_id_of_k_too(parts):
    projection = nn.Linear(8, 2)
    one = make_neurons(read_name("neurons:1"), nn.Linear(64, 2), "sha256:0")
    assert one.k == 32
    hashes = {
        make_neurons(read_name(name), projection, subject).hash
        for name, subject in (("neurons:1:2", "a"), ("neurons:2:2", "a"), ("neurons:1:2", "b"))
    }
    assert len(hashes) == 3
    ids = {
        coder_id(load_job(job_of(parts, name), tiny_study.Told()))
        for name in (LAYER, LAYER[:-1] + "5")
    }
    assert len(ids) == 2


def test_a_poor_fit_of_neurons_is_said_and_not_refused(parts, monkeypatch):
    monkeypatch.setattr("lite_interp.sae.check.WORST_FVU", 0.0)
    told = tiny_study.Told()
    loaded = load_job(job_of(parts), told)
    assert coder_name(loaded.coder) == LAYER
    assert any("warning" in line and "a few neurons" in line for line in told.lines)
    with pytest.raises(CoderError, match="does not reconstruct"):
        load_job(tiny_study.cache_job(parts), tiny_study.Told())


def test_neurons_are_cached_and_steered(parts, tmp_path):
    path = tmp_path / "results.db"
    (name,) = cache_corpus(path, job_of(parts), tiny_study.Told())
    (random,) = cache_corpus(path, job_of(parts, random=True), tiny_study.Told())
    loaded = load_job(job_of(parts), tiny_study.Told())
    with read_results(path) as db:
        found = {cache.id: cache for cache in caches.load_caches(db)}
        steerer = open_steerer(db, found[name], Places(), tiny_study.Told())
        assert torch.equal(steerer.coder.W_dec, loaded.coder.W_dec)
        assert steerer.coder.k == 6
        floor = open_steerer(db, found[random], Places(), tiny_study.Told()).coder
        assert (floor.format, floor.k, floor.d_in, floor.d_out) == (RANDOM, 6, 16, 8)
        with pytest.raises(CoderError, match="another coder .*neurons:2:6"):
            open_steerer(db, found[name], Places(coder="neurons:2:6"), tiny_study.Told())
