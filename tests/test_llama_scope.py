"""Llama Scope: three generations of one library, each in its own scale, as its own code runs it."""

import json
from math import sqrt

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
from test_dictionary_learning import Harm
from test_sae import X, check, dense, relu, topk

from lite_interp import sae
from lite_interp.errors import CoderError
from lite_interp.sae import llama_scope
from lite_interp.sae.llama_scope import is_one

W = tiny.random_weights(8, 32, 0)
NORM = np.linalg.norm(W["W_dec"], axis=1)
POINT = "blocks.8.hook_resid_post"
OLD = {
    "hook_point_in": POINT,
    "hook_point_out": POINT,
    "d_model": 8,
    "d_sae": 32,
    "expansion_factor": 4,
    "use_decoder_bias": True,
    "apply_decoder_bias_to_pre_encoder": False,
    "act_fn": "jumprelu",
    "jump_relu_threshold": 1.5,
    "top_k": 4,
    "norm_activation": "dataset-wise",
    "dataset_average_activation_norm": {"in": 5.0, "out": 5.0},
    "sparsity_include_decoder_norm": True,
}
NEW = {
    "sae_type": "sae",
    "hook_point_in": POINT,
    "hook_point_out": POINT,
    "d_model": 8,
    "expansion_factor": 4,
    "use_decoder_bias": True,
    "act_fn": "jumprelu",
    "top_k": 4,
    "norm_activation": "dataset-wise",
    "sparsity_include_decoder_norm": True,
    "use_glu_encoder": False,
}
N = sqrt(8) / 5
THRESHOLD = np.linspace(0.3, 4, 32, dtype=np.float32)


def linear(**others):
    return {
        "encoder.weight": W["W_enc"].T,
        "encoder.bias": W["b_enc"],
        "decoder.weight": W["W_dec"].T,
        "decoder.bias": W["b_dec"],
        **others,
    }


def second(**others):
    length = {f"dataset_average_activation_norm.{POINT}": np.float32(5)}
    return linear(log_jumprelu_threshold=np.log(THRESHOLD), **length) | others


def third(**others):
    return {
        "W_E": W["W_enc"],
        "b_E": W["b_enc"],
        "W_D": W["W_dec"],
        "b_D": W["b_dec"],
        "activation_function.log_jumprelu_threshold": np.log(THRESHOLD),
        f"dataset_average_activation_norm.{POINT}": np.float32(5),
        **others,
    }


def tensors_of(arrays):
    return {key: torch.tensor(array).contiguous() for key, array in arrays.items()}


def write_old(folder, arrays=None, **config):
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    save_file(tensors_of(arrays or linear()), folder / "checkpoints" / "final.safetensors")
    (folder / "hyperparams.json").write_text(json.dumps({**OLD, **config}))
    return folder


def write(folder, arrays=None, file="sae_weights.safetensors", **config):
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    held = tensors_of(arrays or third())
    if file.endswith(".pt"):
        torch.save({"sae": held, "version": "2"}, folder / file)
    else:
        save_file(held, folder / file)
    whole = {key: value for key, value in {**NEW, **config}.items() if value != "left out"}
    (folder / "config.json").write_text(json.dumps(whole))
    return folder


def load(folder, **overrides):
    return llama_scope.load(folder, overrides)


def native(activate, n_in=N, n_out=N, x=X, weigh=True):
    """Activations and output as llamascopium's: scaled, encoded, weighed, decoded, scaled back."""
    p, norm = x * n_in @ W["W_enc"] + W["b_enc"], NORM if weigh else 1
    acts = activate(p * norm) / norm
    return acts, (acts @ W["W_dec"] + W["b_dec"]) / n_out


def jump(threshold):
    return lambda p: relu(p) * (p > threshold)


def reconstructs(coder, y):
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)


def test_the_first_generation_is_in_the_scale_of_the_subject(tmp_path):
    folder = write_old(tmp_path / "Llama3_1-8B-Base-L8R-8x")
    assert is_one(folder)
    coder = load(folder)
    p = (X @ W["W_enc"] + W["b_enc"] / N) * NORM
    check(coder, acts := jump(1.5)(p))
    assert 0 < (acts > 0).mean() < 0.9
    reconstructs(coder, acts / NORM @ W["W_dec"] + W["b_dec"] / N)
    assert (coder.reads, coder.writes, coder.format) == (POINT, POINT, "llama_scope")


def test_a_transcoder_of_the_first_generation_has_two_scales(tmp_path):
    out = "blocks.8.hook_mlp_out"
    lengths = {"in": 4.0, "out": 0.5}
    folder = write_old(tmp_path, hook_point_out=out, dataset_average_activation_norm=lengths)
    coder = load(folder)
    n_in, n_out = sqrt(8) / 4, sqrt(8) / 0.5
    p = (X @ W["W_enc"] + W["b_enc"] / n_in) * NORM * (n_in / n_out)
    check(coder, acts := jump(1.5)(p))
    reconstructs(coder, acts / NORM @ W["W_dec"] + W["b_dec"] / n_out)
    assert (coder.reads, coder.writes) == (POINT, out)


def test_the_first_generation_without_decoder_norms_and_with_top_k(tmp_path):
    p = X @ W["W_enc"] + W["b_enc"] / N
    plain = load(write_old(tmp_path / "a", sparsity_include_decoder_norm=False))
    check(plain, jump(1.5)(p))
    assert load(write_old(tmp_path / "b", act_fn="TopK")).activation == "jumprelu"
    top = load(write_old(tmp_path / "c", act_fn="topk", jump_relu_threshold=0.0))
    check(top, acts := topk(p * NORM, 4))
    reconstructs(top, acts / NORM @ W["W_dec"] + W["b_dec"] / N)


def test_the_decoder_bias_is_subtracted_where_the_config_says_so(tmp_path):
    coder = load(write_old(tmp_path / "a", apply_decoder_bias_to_pre_encoder=True))
    p = ((X - W["b_dec"] / N) @ W["W_enc"] + W["b_enc"] / N) * NORM
    check(coder, jump(1.5)(p))
    options = {"hook_point_out": "blocks.8.hook_mlp_out", "apply_decoder_bias_to_pre_encoder": True}
    with pytest.raises(CoderError, match="transcoder with apply_decoder_bias_to_pre_encoder"):
        load(write_old(tmp_path / "b", **options))


@pytest.mark.parametrize("make", [second, third])
def test_later_generations_stay_in_the_scale_of_training(tmp_path, make):
    # The second generation's config need not name a type.
    folder = write(tmp_path, make(), sae_type="left out" if make is second else "sae")
    assert is_one(folder)
    acts, y = native(jump(THRESHOLD))
    coder = load(folder)
    check_scaled(coder, acts, y)
    assert (coder.reads, coder.writes) == (POINT, POINT)
    assert ("sae_type is missing: 'sae'" in coder.provenance["assumptions"]) == (make is second)


def check_scaled(coder, acts, y):
    np.testing.assert_allclose(dense(coder), acts, rtol=1e-4, atol=1e-5)
    assert 0 < (acts > 0).mean() < 0.9
    reconstructs(coder, y)


@pytest.mark.parametrize("weigh", [True, False])
@pytest.mark.parametrize("name", ["relu", "topk", "jumprelu"])
def test_activations_of_the_third_generation(tmp_path, name, weigh):
    rule = {"relu": relu, "topk": lambda p: topk(p, 4), "jumprelu": jump(THRESHOLD)}[name]
    acts, y = native(rule, weigh=weigh)
    coder = load(write(tmp_path, act_fn=name, sparsity_include_decoder_norm=weigh))
    # What competes as p |d| can only be ordered so if that is its activation.
    check_scaled(coder, acts * NORM if name == "topk" and weigh else acts, y)


@pytest.mark.parametrize("old", [True, False])
def test_the_threshold_is_strict(tmp_path, old):
    eye, zero, half = np.eye(8), np.zeros(8), np.full(8, 0.5)
    names = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
    arrays = dict(zip(names, (eye, zero, eye, zero), strict=True))
    if not old:
        arrays["log_jumprelu_threshold"] = np.log(half)
    arrays = {key: array.astype(np.float32) for key, array in arrays.items()}
    options = {"norm_activation": "inference", "jump_relu_threshold": 0.5}
    coder = load((write_old if old else write)(tmp_path, arrays, **options))
    x = np.array([[0.5, 0.5000001, 0.4, 2, -1, 0, 0, 0]], dtype=np.float32)
    check(coder, np.where(x > 0.5, x, 0), x)


def test_inference_means_folded_and_leaves_a_stored_length_alone(tmp_path):
    garbage = third(**{f"dataset_average_activation_norm.{POINT}": np.float32(7e-41)})
    acts, y = native(jump(THRESHOLD), 1, 1)
    check_scaled(load(write(tmp_path, garbage, norm_activation="inference")), acts, y)


def test_token_wise_scales_each_token(tmp_path):
    n = sqrt(8) / np.linalg.norm(X, axis=1, keepdims=True)
    acts, y = native(jump(THRESHOLD), n, n)
    check_scaled(load(write(tmp_path, norm_activation="token-wise")), acts, y)


@pytest.mark.parametrize("value", [None, 0.0, -3.0, 7e-41, np.nan, np.inf])
def test_a_length_that_is_missing_or_was_never_set_is_refused(tmp_path, value):
    key = f"dataset_average_activation_norm.{POINT}"
    arrays = third(**{key: np.float32(value or 0)})
    if value is None:
        del arrays[key]
    folder = write(tmp_path, arrays)
    with pytest.raises(CoderError, match="dataset_average_activation_norm .* no length, for blo"):
        load(folder)
    acts, y = native(jump(THRESHOLD))
    check_scaled(load(folder, dataset_average_activation_norm={"in": 5, "out": 5}), acts, y)


def test_two_lengths_of_a_later_transcoder(tmp_path):
    out = "blocks.8.hook_mlp_out"
    arrays = third(**{f"dataset_average_activation_norm.{out}": np.float32(0.5)})
    acts, y = native(jump(THRESHOLD), N, sqrt(8) / 0.5)
    coder = load(write(tmp_path, arrays, hook_point_out=out))
    check_scaled(coder, acts, y)
    assert (coder.reads, coder.writes) == (POINT, out)
    named = load(tmp_path, reads="layers.8.mlp.input", writes="layers.8.mlp.output")
    assert (named.reads, named.writes) == ("layers.8.mlp.input", "layers.8.mlp.output")


def test_latents_without_a_direction_never_fire(tmp_path):
    decoder = W["W_dec"].copy()
    decoder[5] = 0
    later = third(W_D=decoder)
    later["activation_function.log_jumprelu_threshold"][5] = -200
    old = linear(**{"decoder.weight": decoder.T})
    for folder in (
        write(tmp_path / "a", later),
        write(tmp_path / "b", later, act_fn="topk", top_k=32),
        write_old(tmp_path / "c", old),
    ):
        coder = load(folder)
        assert (dense(coder)[:, 5] == 0).all()
        assert coder.reconstruct(torch.tensor(X)).isfinite().all()


def test_a_decoder_without_a_bias(tmp_path):
    arrays = {key: value for key, value in third().items() if key != "b_D"}
    coder = load(write(tmp_path, arrays, use_decoder_bias=False))
    assert coder.b_dec.tolist() == [0] * 8


@pytest.mark.parametrize(
    "file", ["sae_weights.pt", "checkpoints/pruned.safetensors", "checkpoints/final.pt"]
)
def test_other_places_of_weights(tmp_path, file):
    folder = write(tmp_path, file=file)
    assert is_one(folder)
    np.testing.assert_allclose(dense(load(folder)), native(jump(THRESHOLD))[0], rtol=1e-4)


def test_the_first_of_several_files_is_read_as_their_code_does(tmp_path):
    write(tmp_path, third(b_E=W["b_enc"] + 9), file="checkpoints/final.safetensors")
    np.testing.assert_allclose(
        dense(load(write(tmp_path))), native(jump(THRESHOLD))[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sae_type": "crosscoder"}, "type crosscoder is not read: it reads several hookpoints"),
        ({"sae_type": "clt"}, "type clt is not read"),
        ({"sae_type": "lorsa"}, "needs the whole sequence"),
        ({"sae_type": ["new"]}, "no such kind is known"),
        ({"use_glu_encoder": True}, "W_E_glu"),
        ({"act_fn": "batchtopk"}, "depends on its batch: batchtopk"),
        ({"act_fn": "swish"}, "not known: swish"),
        ({"norm_activation": "batch-wise"}, "activations would depend on their batch"),
        ({"norm_activation": "odd"}, "norm_activation .* odd: no such rule"),
        ({"norm_activation": "token-wise", "hook_point_out": "x"}, "what a transcoder writes"),
        ({"d_model": 16}, "encoder of the sparse coder has width 8, its config says d_model = 16"),
        ({"act_fn": "topk", "top_k": 99}, "k of the sparse coder must lie in 1..32: 99"),
        ({"dataset_average_activation_norm": {"in": "far"}}, "no length"),
    ],
)
def test_what_the_config_says_wrong(tmp_path, config, message):
    with pytest.raises(CoderError, match=message) as caught:
        load(write(tmp_path, **config))
    assert "\n" not in str(caught.value)


NAN = np.full(32, np.nan, dtype=np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (third(W_E=W["W_enc"].T), r"W_E of the sparse coder has shape \(32, 8\)"),
        (third(W_E=W["W_dec"], W_D=W["W_enc"]), "[Wb]_[ED] of the sparse coder has shape"),
        (third(b_E=W["b_dec"]), "of the sparse coder has shape"),
        (third(W_E=np.zeros((2, 8, 32), dtype=np.float32)), r"W_E .* shape \(2, 8, 32\)"),
        (third(b_E=NAN), "b_E of the sparse coder has values that are not finite"),
        (third(b_D=np.zeros(8, dtype=np.int64)), "b_D .* no floating numbers"),
        ({"W_E": W["W_enc"]}, "lacks the tensor"),
        (linear(), "lacks the tensor log_jumprelu_threshold"),
        (second(log_jumprelu_threshold=NAN), "log_jumprelu_threshold .* not finite"),
        (second(log_jumprelu_threshold=W["b_dec"]), "log_jumprelu_threshold .* shape"),
        (second(**{"encoder.weight": W["W_enc"]}), r"encoder.weight .* shape \(8, 32\)"),
    ],
)
def test_what_is_wrong_with_the_tensors(tmp_path, arrays, message):
    with pytest.raises(CoderError, match=message):
        load(write(tmp_path, arrays))


@pytest.mark.parametrize("value", ["1.5", -1, 10**400, float("nan"), [1], True])
def test_a_threshold_that_is_none(tmp_path, value):
    with pytest.raises(CoderError, match="jump_relu_threshold of the sparse coder is no thresh"):
        load(write_old(tmp_path, jump_relu_threshold=value))


@pytest.mark.parametrize("file", ["sae_weights.safetensors", "sae_weights.pt"])
def test_truncated_files_are_refused(tmp_path, file):
    path = write(tmp_path, file=file) / file
    path.write_bytes(path.read_bytes()[:-99])
    with pytest.raises(CoderError, match="weights of the sparse coder cannot be read"):
        load(tmp_path)


def test_code_and_false_sizes_in_a_pickle_are_refused(tmp_path):
    write(tmp_path, file="sae_weights.pt")
    (tmp_path / "sae_weights.pt").unlink()
    torch.save({"sae": {"W_E": Harm(tmp_path / "made")}}, tmp_path / "sae_weights.pt")
    with pytest.raises(CoderError, match="nothing of it was run"):
        load(tmp_path)
    assert not (tmp_path / "made").exists()
    huge = torch.zeros(1).expand(1 << 40, 8)
    torch.save({"sae": {**tensors_of(third()), "W_E": huge}}, tmp_path / "sae_weights.pt")
    with pytest.raises(CoderError, match="W_E"):
        load(tmp_path)


def test_what_is_none_and_what_is_refused_by_name(tmp_path):
    assert not is_one(tmp_path / "nowhere")
    folder = write(tmp_path, sae_type="left out", hook_point_in="left out")
    assert not is_one(folder)
    (folder / "config.json").write_text("{")
    assert not is_one(folder)
    (folder / "config.json").write_text(json.dumps(NEW))
    (folder / "sae_weights.safetensors").unlink()
    assert not is_one(folder)
    with pytest.raises(CoderError, match="has a config and no weights"):
        load(folder)
    (folder / "sae_weights.dcp").mkdir()
    assert is_one(folder)
    with pytest.raises(CoderError, match="distributed form"):
        load(folder)


def test_it_is_found_by_its_files_wherever_one_points(tmp_path):
    old, new = write_old(tmp_path / "a"), write(tmp_path / "b")
    final = old / "checkpoints" / "final.safetensors"
    for place in (old, final, final.parent, tmp_path / "a", new, new / "sae_weights.safetensors"):
        assert sae.load_coder(place).format == "llama_scope"
    with pytest.raises(CoderError, match="type clt is not read"):
        sae.load_coder(write(tmp_path / "c", sae_type="clt"))
