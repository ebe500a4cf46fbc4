"""Goodfire's and qresearch's coders: two linear layers in a .pt or .pth."""

import numpy as np
import pytest
import tiny
import torch
from test_sae import X, check, relu

from lite_interp import sae
from lite_interp.errors import CoderError

NAMES = [("encoder_linear", "decoder_linear"), ("encoder", "decoder")]
FILE = "Llama-3.1-8B-Instruct-SAE-l19.pth"


def state(encoder="encoder_linear", decoder="decoder_linear", n_latents=32, **changes):
    w = tiny.random_weights(8, n_latents, 0)
    held = {
        f"{encoder}.weight": w["W_enc"].T,
        f"{encoder}.bias": w["b_enc"],
        f"{decoder}.weight": w["W_dec"].T,
        f"{decoder}.bias": w["b_dec"],
    }
    tensors = {name: torch.tensor(array.copy()) for name, array in held.items()} | changes
    return {name: value for name, value in tensors.items() if value is not None}


def write(folder, held=None, name=FILE):
    torch.save(held or state(), folder / name)
    return folder / name


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("n_latents", [32, 8])
def test_nothing_is_subtracted_before_the_encoder(tmp_path, names, n_latents):
    w = tiny.random_weights(8, n_latents, 0)
    coder = sae.load_coder(write(tmp_path, state(*names, n_latents)))
    acts = relu(X @ w["W_enc"] + w["b_enc"])
    check(coder, acts)
    y = acts @ w["W_dec"] + w["b_dec"]
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)
    assert (coder.format, coder.reads, coder.writes) == ("goodfire", "layers.19", "layers.19")


def test_at_zero_a_latent_does_not_fire(tmp_path):
    held = {f"{name}.weight": torch.eye(8) for name in NAMES[0]}
    held |= {f"{name}.bias": torch.full((8,), -0.5) for name in NAMES[0]}
    fired = sae.load_coder(write(tmp_path, held)).firings(torch.tensor([[0.5, 0.75, *[0.0] * 6]]))
    assert fired.latents.tolist() == [1]


def test_bfloat16_files_are_computed_in_float32(tmp_path):
    held = {name: tensor.bfloat16() for name, tensor in state().items()}
    coder = sae.load_coder(write(tmp_path, held))
    assert coder.W_enc.dtype == coder.b_dec.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("Llama-3.3-70B-Instruct-SAE-l50.pt", "layers.50"),
        ("DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt", "layers.19"),
        ("mine.pt", ""),
    ],
)
def test_the_layer_is_in_the_name_of_the_file(tmp_path, name, reads):
    path = write(tmp_path, name=name)
    coder = sae.load_coder(tmp_path)
    assert coder.reads == coder.writes == reads
    assert len(coder.provenance["assumptions"]) == 1
    assert sae.load_coder(path, overrides={"reads": "layers.3"}).reads == "layers.3"


def test_other_state_dicts_are_not_taken_for_it(tmp_path):
    assert sae.detect(write(tmp_path)) == "goodfire"
    assert sae.detect(write(tmp_path, state(extra=torch.ones(1)), "more.pt")) is None
    assert sae.detect(write(tmp_path, state(**{"decoder_linear.bias": None}), "less.pt")) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_linear.weight": torch.ones(8, 32)}, r"encoder_linear.weight .* \(8, 32\)"),
        ({"decoder_linear.weight": torch.ones(32, 8)}, r"decoder_linear.weight .* \(32, 8\)"),
        (
            {"encoder_linear.bias": torch.ones(8)},
            r"encoder_linear.weight .* \(n_latents 8, d_in 8\)",
        ),
        ({"decoder_linear.bias": torch.full((8,), torch.inf)}, "decoder_linear.bias .* not finite"),
        ({"encoder_linear.weight": torch.ones(32, 8).int()}, "encoder_linear.weight .* no float"),
    ],
)
def test_bad_tensors_are_named(tmp_path, changes, message):
    path = write(tmp_path, state(**changes))
    with pytest.raises(CoderError, match=message):
        sae.load_coder(path)
