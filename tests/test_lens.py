"""The logit lens and decoder neighbours equal slow ones, whatever the norm and the blocks."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from lite_interp import lens as lens_module
from lite_interp import products
from lite_interp.lens import final_norm, open_directions, open_lens, writes_residual
from lite_interp.records import Hookpoint
from lite_interp.sae import load_coder
from lite_interp.subject import load_subject

N_LATENTS = 12
LAYERS = {"llama": "model.layers", "gpt2": "transformer.h", "neox": "gpt_neox.layers"}
NORM = {"llama": "norm", "gpt2": "ln_f", "neox": "final_layer_norm"}


@pytest.fixture(scope="module", params=["llama", "gpt2", "neox"])
def pair(request, tmp_path_factory):
    """A subject whose final norm is not the plain one, and a coder of random directions."""
    folder = tmp_path_factory.mktemp(request.param)
    subject = load_subject(
        tiny.write_subject(folder / "subject", request.param), device="cpu", dtype="float32"
    )
    norm = getattr(subject.model.base_model, NORM[request.param])
    draw = torch.Generator().manual_seed(1)
    norm.weight.copy_(torch.randn(tiny.D_MODEL, generator=draw))
    if getattr(norm, "bias", None) is not None:
        norm.bias.copy_(torch.randn(tiny.D_MODEL, generator=draw))
    coder = load_coder(tiny.write_sparsify(folder / "coder", "layers.1", n_latents=N_LATENTS))
    return request.param, subject, coder, Hookpoint(f"{LAYERS[request.param]}.1", "output")


def slow_logits(kind, subject, coder):
    """(n_latents, n_vocab) logits of each direction alone, in plain loops over tokens."""
    norm = getattr(subject.model.base_model, NORM[kind])
    unembedding = subject.model.get_output_embeddings().weight.double()
    logits = np.zeros((coder.n_latents, len(unembedding)))
    for latent, direction in enumerate(coder.W_dec.double()):
        if kind != "llama":
            direction = direction - direction.mean()
        for token, row in enumerate(unembedding):
            logits[latent, token] = float(sum(direction * norm.weight.double() * row))
    return logits


@pytest.mark.parametrize("block_elements", [1, 200, 1 << 24])
@pytest.mark.parametrize("fast", [False, True])
def test_the_lens_is_that_of_plain_loops(pair, block_elements, fast, monkeypatch):
    monkeypatch.setattr(products, "SCREENED_COLUMNS", 1)
    monkeypatch.setattr(lens_module, "has_fast_bfloat16", lambda device: fast)
    kind, subject, coder, writes = pair
    logits = slow_logits(kind, subject, coder)
    lens = open_lens(subject, coder, writes).read(coder.W_dec, 5, block_elements)
    order = np.argsort(logits, axis=1)
    np.testing.assert_array_equal(lens.promoted_ids, order[:, :-6:-1])
    np.testing.assert_array_equal(lens.suppressed_ids, order[:, :5])
    np.testing.assert_allclose(lens.promoted, np.sort(logits)[:, :-6:-1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(lens.suppressed, np.sort(logits)[:, :5], rtol=1e-3, atol=1e-4)


def test_a_direction_added_to_the_stream_moves_the_logits_as_the_lens_says(pair):
    """The model's own norm and head on a direction far longer than the stream, biases taken off."""
    kind, subject, coder, writes = pair
    norm = getattr(subject.model.base_model, NORM[kind])
    with torch.no_grad():
        out = norm(1e4 * torch.stack([coder.W_dec, -coder.W_dec]))
        logits = subject.model.get_output_embeddings()((out[0] - out[1]) / 2)
    lens = open_lens(subject, coder, writes).read(coder.W_dec)
    np.testing.assert_array_equal(logits.topk(10).indices, lens.promoted_ids)
    ratio = logits.gather(1, lens.promoted_ids) / lens.promoted
    np.testing.assert_allclose(ratio, ratio[:, :1].expand(-1, 10), rtol=1e-3)


def test_rows_that_pad_the_unembedding_are_never_tokens(pair):
    _, subject, coder, writes = pair
    lens = open_lens(subject, coder, writes, 30).read(coder.W_dec)
    assert lens.promoted_ids.max() < 30
    assert lens.suppressed_ids.max() < 30
    assert open_lens(subject, coder, writes, 4).read(coder.W_dec).promoted.shape == (N_LATENTS, 4)


def test_a_low_precision_subject_gives_the_same_but_for_its_rounding(pair):
    kind, subject, coder, writes = pair
    lens = open_lens(subject, coder, writes).read(coder.W_dec)
    model = tiny.make_model(kind).bfloat16()
    rough = model.base_model
    exact = subject.model.base_model
    rough.load_state_dict({k: v.bfloat16() for k, v in exact.state_dict().items()})
    head = subject.model.get_output_embeddings().weight.bfloat16()
    model.get_output_embeddings().weight.data.copy_(head)
    low = open_lens(replace(subject, model=model, dtype=torch.bfloat16), coder, writes)
    low = low.read(coder.W_dec)
    assert low.promoted.dtype == torch.float32
    np.testing.assert_allclose(low.promoted, lens.promoted, rtol=0.05, atol=0.05)


def test_a_coder_that_writes_elsewhere_has_no_lens(pair):
    kind, subject, coder, writes = pair
    layer = writes.module
    added = {"llama": "self_attn", "gpt2": "attn", "neox": "attention"}[kind]
    heads = {"llama": "self_attn.o_proj", "gpt2": "attn.c_proj", "neox": "attention.dense"}[kind]
    for module, side in (
        (layer, "input"),
        (f"{layer}.mlp", "output"),
        (f"{layer}.{added}", "output"),
    ):
        assert writes_residual(Hookpoint(module, side), subject), module
    for module, side in (
        (f"{layer}.{heads}", "input"),  # as wide as the stream, but another space
        (f"{layer}.mlp", "input"),
        (NORM[kind], "output"),
        (layer.rpartition(".")[0], "output"),
    ):
        assert not writes_residual(Hookpoint(module, side), subject), module
        assert open_lens(subject, coder, Hookpoint(module, side)) is None
    narrow = replace(coder, W_dec=coder.W_dec[:, :4], b_dec=coder.b_dec[:4])
    assert open_lens(subject, narrow, writes) is None


def normed(norm, width):
    """A model that consists of a norm and an unembedding."""
    head = SimpleNamespace(weight=torch.zeros(3, width))
    base = SimpleNamespace(norm=norm)
    return SimpleNamespace(base_model=base, get_output_embeddings=lambda: head)


@pytest.mark.parametrize("width", [4, 5, 9, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_scale_of_a_norm_is_found_out_by_what_it_does(width, dtype):
    weight = torch.linspace(-1.5, 2, width).to(dtype)
    plain, gemma, layer = LlamaRMSNorm(width), Gemma2RMSNorm(width), nn.LayerNorm(width)
    for norm in (plain, gemma, layer):
        norm.to(dtype).weight.data.copy_(weight)
    layer.bias.data.fill_(3.0)
    expected = weight.float()
    for norm, scale, centres in (
        (plain, expected, False),
        (gemma, 1 + expected, False),
        (layer, expected, True),
        (nn.LayerNorm(width, elementwise_affine=False), torch.ones(width), True),
    ):
        found = final_norm(normed(norm, width))
        assert found.centres == centres
        np.testing.assert_allclose(found.scale, scale, rtol=1e-3, atol=2e-3)
    assert plain.weight.dtype == dtype  # the probe leaves the model alone


def test_a_model_without_a_final_norm_has_none():
    assert final_norm(normed(None, 8)) is None


def slow_neighbours(directions, n):
    """Every pair, one cosine at a time."""
    found = []
    for one, a in enumerate(directions):
        cosines = []
        for other, b in enumerate(directions):
            lengths = np.linalg.norm(a) * np.linalg.norm(b)
            if other != one and lengths and a @ b / lengths > 1e-6:
                cosines.append((other, a @ b / lengths))
        found.append(sorted(cosines, key=lambda pair: -pair[1])[:n])
    return found


@pytest.mark.parametrize("block_elements", [1, 150, 1 << 24])
@pytest.mark.parametrize("n", [3, 10, 99])
@pytest.mark.parametrize("fast", [False, True])
def test_decoder_neighbours_are_those_of_every_pair(block_elements, n, fast, monkeypatch):
    monkeypatch.setattr(products, "SCREENED_COLUMNS", 1)
    monkeypatch.setattr(lens_module, "has_fast_bfloat16", lambda device: fast)
    directions = np.random.default_rng(2).normal(size=(50, 6)).astype(np.float32)
    directions *= np.linspace(0.01, 100, 50, dtype=np.float32)[:, None]
    directions[7] = 0
    opened = open_directions(torch.from_numpy(directions))
    assert (opened.columns.rough is not None) == fast
    found = [
        each
        for start, stop in ((0, 20), (20, 21), (21, 50))
        for each in opened.neighbours(start, stop, n, block_elements)
    ]
    for ours, slow in zip(found, slow_neighbours(directions.astype(np.float64), n), strict=True):
        assert [latent for latent, _ in ours] == [latent for latent, _ in slow]
        assert [cosine for _, cosine in ours] == pytest.approx([c for _, c in slow], rel=1e-3)
    assert found[7] == ()
    assert all(7 not in dict(each) for each in found)


def test_equal_and_opposite_directions():
    directions = torch.tensor([[1.0, 0], [2, 0], [-3, 0], [0, 5], [4, 0]])
    found = open_directions(directions).neighbours(0, 5)
    assert found[0] == ((1, 1.0), (4, 1.0))
    assert found[2] == found[3] == ()
