"""OpenAI's coders: a lone .pt that tells neither its site nor its normalisation."""

import numpy as np
import pytest
import tiny
import torch
from test_sae import X, check, relu, topk

from lite_interp import sae
from lite_interp.errors import CoderError
from lite_interp.hookpoints import POINTS


def state(activation="TopK", k=4, **changes):
    """The state dict of a coder of 32 latents, with the buffers that are in the files."""
    w = tiny.random_weights(8, 32, 0)
    held = {
        "pre_bias": torch.tensor(w["b_dec"]),
        "encoder.weight": torch.tensor(w["W_enc"].T.copy()),
        "latent_bias": torch.tensor(w["b_enc"]),
        "decoder.weight": torch.tensor(w["W_dec"].T.copy()),
        "stats_last_nonzero": torch.zeros(32, dtype=torch.long),
        "latents_activation_frequency": torch.full((32,), float("nan")),
        "activation": activation,
        "activation_state_dict": {"k": k, "postact_fn": "ReLU"} if activation == "TopK" else {},
    } | changes
    return {name: value for name, value in held.items() if value is not None}


def write(folder, held=None, location="resid_post_mlp_v5_32k", layer=6):
    path = folder / location / "autoencoders" / f"{layer}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(held or state(), path)
    return path


def test_topk_is_normalised_first_with_the_unbiased_deviation(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    coder = sae.load_coder(write(tmp_path))
    mean, deviation = X.mean(1, keepdims=True), X.std(1, ddof=1, keepdims=True) + 1e-5
    acts = topk(((X - mean) / deviation - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 4)
    check(coder, acts)
    y = (acts @ w["W_dec"] + w["b_dec"]) * deviation + mean
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)
    assert (coder.format, coder.k, coder.reads) == ("openai", 4, "blocks.6.hook_resid_post")
    assert coder.provenance["config"] == {"activation": "TopK", "k": 4, "postact_fn": "ReLU"}


def test_relu_is_not_normalised(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    coder = sae.load_coder(write(tmp_path, state("ReLU"), "mlp_post_act_v4"))
    acts = relu((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    check(coder, acts)
    y = acts @ w["W_dec"] + w["b_dec"]
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)
    assert coder.reads == "blocks.6.mlp.hook_post"


def test_topk_runs_relu_after_it(tmp_path):
    held = state(k=20, latent_bias=torch.full((32,), -9.0))
    coder = sae.load_coder(write(tmp_path, held))
    fired = coder.firings(torch.tensor(X))
    assert 0 < len(fired.values) < 20 * len(X)
    assert (fired.values > 0).all()


def test_at_zero_a_latent_does_not_fire(tmp_path):
    one = torch.eye(8)
    held = state("ReLU", pre_bias=torch.zeros(8), latent_bias=torch.full((8,), -0.5))
    held |= {"encoder.weight": one, "decoder.weight": one.clone()}
    coder = sae.load_coder(write(tmp_path, held))
    x = torch.tensor([[0.5, 0.75, 0.25, 0, 0, 0, 0, 0]])
    assert coder.firings(x).latents.tolist() == [1]


@pytest.mark.parametrize(
    ("location", "point"),
    [
        ("mlp_post_act", "mlp.hook_post"),
        ("resid_delta_mlp_v4", "hook_mlp_out"),
        ("resid_delta_attn_v5_128k", "hook_attn_out"),
        ("resid_post_attn_v5_32k", "hook_resid_mid"),
    ],
)
def test_the_path_tells_the_hookpoint(tmp_path, location, point):
    coder = sae.load_coder(write(tmp_path, location=location, layer=11))
    assert coder.reads == coder.writes == f"blocks.11.{point}"
    assert point in POINTS["gpt2"]


def test_without_its_path_the_hookpoint_is_missing_or_named(tmp_path):
    path = tmp_path / "best.pt"
    torch.save(state(), path)
    coder = sae.load_coder(tmp_path)
    assert coder.reads == ""
    assert "reads is missing" in str(coder.provenance["assumptions"])
    assert sae.load_coder(path, overrides={"reads": "h.3.mlp"}).reads == "h.3.mlp"


def test_a_missing_activation_is_relu_and_said(tmp_path):
    held = state(activation=None, activation_state_dict=None)
    coder = sae.load_coder(write(tmp_path, held))
    assert (coder.activation, coder.input_transform) == ("relu", "none")
    assert "activation is missing: 'ReLU'" in coder.provenance["assumptions"]


def test_square_matrices_are_not_turned(tmp_path):
    w = tiny.random_weights(8, 8, 0)
    turned = {"encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T}
    held = state("ReLU", latent_bias=torch.tensor(w["b_enc"]), pre_bias=torch.tensor(w["b_dec"]))
    held |= {name: torch.tensor(array.copy()) for name, array in turned.items()}
    check(sae.load_coder(write(tmp_path, held)), relu((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]))


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (state("Identity"), "activation of the sparse coder is not read: Identity"),
        (state(activation_state_dict={"k": 4, "postact_fn": "Identity"}), "negative activations"),
        (state(activation_state_dict={"postact_fn": "ReLU"}), "activation_state_dict .* lacks k"),
        (state(activation_state_dict=[4]), "activation_state_dict .* is no dict"),
        (state(k=33), r"must lie in 1\.\.32: 33"),
        (state(k=3.5), "no whole number"),
        (state(**{"decoder.weight": None}), "lacks the tensor decoder.weight"),
        (state(**{"decoder.weight": torch.ones(32, 8)}), r"decoder.weight .* shape \(32, 8\)"),
        (state(**{"encoder.weight": torch.ones(8, 32)}), r"encoder.weight .* shape \(8, 32\)"),
        (state(latent_bias=torch.full((32,), float("nan"))), "latent_bias .* not finite"),
        (state(pre_bias=torch.zeros(8, dtype=torch.int)), "pre_bias .* no floating numbers"),
        (state(pre_bias="none"), "pre_bias .* no floating numbers but str"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, held, message):
    path = write(tmp_path, held)
    with pytest.raises(CoderError, match=message) as caught:
        sae.load_coder(path)
    assert "\n" not in str(caught.value)
