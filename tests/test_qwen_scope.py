"""Qwen Scope: matrices the other way round, k from the config or the repository's name."""

import json

import numpy as np
import pytest
import tiny
import torch
from test_dictionary_learning import Harm
from test_sae import X, check, topk

from lite_interp import sae
from lite_interp.errors import CoderError
from lite_interp.sae.qwen_scope import is_one, load

W = tiny.random_weights(8, 32, 0)
CONFIG = {
    "model_type": "topk_sae",
    "base_model": "Qwen/Qwen3-1.7B-Base",
    "d_model": 8,
    "d_sae": 32,
    "k": 4,
    "num_layers": 28,
    "hook_point": "resid_post",
}


def stored(**others):
    return {**W, "W_enc": W["W_enc"].T, "W_dec": W["W_dec"].T, **others}


def write(folder, tensors=None, config=CONFIG, name="layer5.sae.pt"):
    folder.mkdir(parents=True, exist_ok=True)
    held = {key: torch.tensor(value) for key, value in (tensors or stored()).items()}
    torch.save(held, folder / name)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder / name


def test_nothing_is_subtracted_and_the_k_largest_of_each_token_stay(tmp_path):
    file = write(tmp_path)
    assert is_one(file)
    coder = load(file, {})
    check(coder, acts := topk(X @ W["W_enc"] + W["b_enc"], 4))
    y = acts @ W["W_dec"] + W["b_dec"]
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)
    assert (coder.reads, coder.writes) == ("blocks.5.hook_resid_post",) * 2
    assert (coder.format, coder.k) == ("qwen_scope", 4)


def test_negative_pre_activations_never_fire_and_that_is_noted(tmp_path):
    coder = load(write(tmp_path, stored(b_enc=np.full(32, -9, dtype=np.float32))), {"k": 30})
    expected = topk(X @ W["W_enc"] - 9, 30)
    assert ((expected > 0).sum(1) < 30).all()
    check(coder, expected)
    assert "relu after topk: negative pre-activations never fire" in coder.provenance["assumptions"]


def test_every_layer_is_a_file_of_its_own(tmp_path):
    for layer in (5, 17):
        write(tmp_path, name=f"layer{layer}.sae.pt")
    coder = load(tmp_path / "layer17.sae.pt", {})
    assert coder.reads == "blocks.17.hook_resid_post"
    assert load(tmp_path / "layer17.sae.pt", {"reads": "layers.3"}).reads == "layers.3"
    assert sae.load_coder(tmp_path / "layer5.sae.pt").format == "qwen_scope"
    with pytest.raises(CoderError, match="2 sparse coders below") as caught:
        sae.load_coder(tmp_path)
    assert caught.value.hint == "choose one: layer5.sae.pt, layer17.sae.pt"


def test_without_a_config_the_name_of_the_repository_tells_k(tmp_path):
    place = "models--Qwen--SAE-Res-Qwen3-1.7B-Base-W32K-L0_6/snapshots/abc"
    file = write(tmp_path / "blobs", config=None)
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "layer5.sae.pt").symlink_to(file)
    coder = load(tmp_path / place / "layer5.sae.pt", {})
    check(coder, topk(X @ W["W_enc"] + W["b_enc"], 6))
    assert "k is missing: 6" in coder.provenance["assumptions"]
    assert load(tmp_path / place / "layer5.sae.pt", {"k": 3}).k == 3
    with pytest.raises(CoderError, match="k of the sparse coder is told neither") as caught:
        load(file, {})
    assert caught.value.hint == "say it: k = 50"


def test_a_name_without_a_layer_leaves_the_hookpoint_open(tmp_path):
    coder = load(write(tmp_path, name="weights.pt"), {})
    assert (coder.reads, coder.writes) == ("", "")
    assert "reads is missing" in " ".join(coder.provenance["assumptions"])


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (W, {}, "[Wb]_(enc|dec) of the sparse coder has shape"),
        (stored(W_dec=W["W_dec"]), {}, r"W_dec of the sparse coder has shape \(32, 8\)"),
        (
            stored(b_enc=W["b_dec"], b_dec=W["b_enc"]),
            {},
            "[Wb]_(enc|dec) of the sparse coder has shape",
        ),
        (stored(b_enc=np.full(32, np.nan, dtype=np.float32)), {}, "b_enc .* not finite"),
        (stored(b_dec=np.zeros(8, dtype=np.int32)), {}, "b_dec .* no floating numbers"),
        ({"W_enc": W["W_enc"].T}, {}, "lacks the tensor b_enc"),
        (None, {"k": 33}, r"k of the sparse coder must lie in 1\.\.32: 33"),
        (None, {"k": "many"}, "k of the sparse coder is no whole number: many"),
        (None, {"d_sae": 64}, r"W_enc .* \(32, 8\), its config.json says d_sae = 64"),
        (None, {"d_model": 16}, "d_model = 16"),
        (None, {"hook_point": "mlp"}, "hook_point of the sparse coder is not known: mlp"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, tensors, config, message):
    with pytest.raises(CoderError, match=message) as caught:
        load(write(tmp_path, tensors, {**CONFIG, **config}), {})
    assert "\n" not in str(caught.value)


def test_truncated_files_and_code_are_refused_and_nothing_is_run(tmp_path):
    file = write(tmp_path)
    file.write_bytes(file.read_bytes()[:-99])
    assert not is_one(file)
    with pytest.raises(CoderError, match="cannot be read"):
        load(file, {})
    torch.save({**dict.fromkeys(W, 1), "W_enc": Harm(tmp_path / "made")}, file)
    assert not is_one(file)
    with pytest.raises(CoderError, match="nothing of it was run"):
        load(file, {})
    assert not (tmp_path / "made").exists()


def test_what_is_none(tmp_path):
    assert not is_one(tmp_path)
    assert not is_one(tmp_path / "layer1.sae.pt")
    assert not is_one(write(tmp_path / "a", W)), "more inputs than latents"
    threshold = np.zeros(32, dtype=np.float32)
    assert not is_one(write(tmp_path / "b", stored(threshold=threshold)))
    assert not is_one(write(tmp_path / "c", {"W_enc": W["W_enc"].T}))
