"""Gemma Scope 1 and 2: written as on the Hub, read as three lines of numpy say."""

import json

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
from test_sae import X, check, relu

from lite_interp import sae
from lite_interp.errors import CoderError
from lite_interp.hookpoints import Modules, resolve

LAYER = "google/gemma-scope-2b-pt-{}/layer_5/width_16k/average_l0_82"


def weights(d_in=8, n_latents=32, d_out=None):
    w = tiny.random_weights(d_in, n_latents, 0, d_out)
    return w | {"threshold": np.linspace(0, 3, n_latents, dtype=np.float32)}


def jumprelu(w, x=X):
    p = x @ w["W_enc"] + w["b_enc"]
    return relu(p) * (p > w["threshold"])


def write_1(folder, w=None, save=np.savez):
    folder.mkdir(parents=True)
    save(folder / "params.npz", **(w or weights()))
    return folder


def lower(w):
    return {name[0].lower() + name[1:]: array for name, array in w.items()}


def write_2(folder, w=None, config=None, file="params.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.tensor(array) for name, array in lower(w or weights()).items()}
    save_file(tensors, folder / file)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_1_subtracts_no_bias_and_reads_where_its_path_says(tmp_path, save):
    w = weights()
    coder = sae.load_coder(write_1(tmp_path / LAYER.format("res"), w, save))
    check(coder, jumprelu(w))
    assert (coder.reads, coder.writes) == ("blocks.5.hook_resid_post",) * 2
    assert (coder.format, coder.pre_bias) == ("gemma_scope", None)
    assert coder.provenance["config"]["l0"] == 82
    assert coder.provenance["assumptions"] == [
        "the hookpoint is told by the path: blocks.5.hook_resid_post"
    ]


@pytest.mark.parametrize(
    ("kind", "reads", "writes"),
    [
        ("mlp", "hook_mlp_out", "hook_mlp_out"),
        ("att", "attn.hook_z", "attn.hook_z"),
        ("transcoders", "ln2.hook_normalized", "hook_mlp_out"),
    ],
)
def test_1_every_kind_has_its_place(tmp_path, kind, reads, writes):
    coder = sae.load_coder(write_1(tmp_path / LAYER.format(kind)))
    assert (coder.reads, coder.writes) == (f"blocks.5.{reads}", f"blocks.5.{writes}")
    assert coder.is_transcoder == (kind == "transcoders")


def test_1_transcoder_of_two_widths(tmp_path):
    w = weights(d_out=6)
    coder = sae.load_coder(write_1(tmp_path / LAYER.format("transcoders"), w))
    check(coder, jumprelu(w))
    y = jumprelu(w) @ w["W_dec"] + w["b_dec"]
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)


def test_1_the_cache_of_the_hub_names_its_repository_too(tmp_path):
    cache = "models--google--gemma-scope-9b-it-res/snapshots/00ff"
    folder = tmp_path / cache / "layer_20/width_16k/average_l0_91"
    assert sae.load_coder(write_1(folder)).reads == "blocks.20.hook_resid_post"


def test_1_without_its_path_it_says_that_the_hookpoint_is_missing(tmp_path):
    folder = write_1(tmp_path / "mine")
    coder = sae.load_coder(folder / "params.npz")
    assert (coder.reads, coder.is_transcoder) == ("", False)
    assert "reads is missing" in coder.provenance["assumptions"][0]
    named = {"reads": "layers.3.mlp.input", "writes": "layers.3.mlp.output"}
    coder = sae.load_coder(folder, overrides=named)
    assert (coder.reads, coder.writes) == tuple(named.values())


def test_1_lower_case_names_are_read_as_well(tmp_path):
    w = weights()
    check(sae.load_coder(write_1(tmp_path / "mine", lower(w))), jumprelu(w))


@pytest.mark.parametrize("version", [1, 2])
def test_at_its_threshold_a_latent_does_not_fire(tmp_path, version):
    w = {"W_enc": np.eye(8, dtype=np.float32), "W_dec": np.eye(8, dtype=np.float32)}
    w |= {name: np.zeros(8, dtype=np.float32) for name in ("b_enc", "b_dec")}
    w |= {"threshold": np.full(8, 0.5, dtype=np.float32)}
    coder = sae.load_coder((write_1 if version == 1 else write_2)(tmp_path / "mine", w))
    x = np.array([[0.5, 0.5000001, 0.4, 2, -1, 0, 0, 0]], dtype=np.float32)
    check(coder, np.array([[0, 0.5000001, 0, 2, 0, 0, 0, 0]], dtype=np.float32), x)


def test_1_embeddings_are_read_before_their_scale(tmp_path):
    w, scale = weights(), 8**0.5
    folder = write_1(tmp_path / "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", w)
    coder = sae.load_coder(folder)
    acts = jumprelu(w, X / scale)
    check(coder, acts)
    y = (acts @ w["W_dec"] + w["b_dec"]) * scale
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)
    assert coder.reads == "embed_tokens"


CONFIG = {
    "architecture": "jump_relu",
    "hf_hook_point_in": "model.layers.5.output",
    "hf_hook_point_out": "model.layers.5.output",
    "model_name": "google/gemma-v3-1b-pt",
    "width": 32,
    "l0": 20,
}


def test_2_subtracts_no_bias_and_reads_where_its_config_says(tmp_path):
    w = weights()
    coder = sae.load_coder(write_2(tmp_path / "any name", w, CONFIG))
    check(coder, jumprelu(w))
    assert (coder.reads, coder.writes, coder.format) == ("layers.5", "layers.5", "gemma_scope_2")
    assert coder.provenance["config"] == CONFIG
    assert coder.provenance["assumptions"] == []


@pytest.mark.parametrize(
    ("kind", "reads", "writes"),
    [
        ("resid_post_all", "", ""),
        ("attn_out", ".self_attn.o_proj.input", ".self_attn.o_proj.input"),
        ("mlp_out", *[".post_feedforward_layernorm.output"] * 2),
        (
            "transcoder_all",
            ".pre_feedforward_layernorm.output",
            ".post_feedforward_layernorm.output",
        ),
    ],
)
def test_2_without_a_config_the_path_tells(tmp_path, kind, reads, writes):
    coder = sae.load_coder(write_2(tmp_path / kind / "layer_12_width_16k_l0_medium"))
    assert (coder.reads, coder.writes) == (f"layers.12{reads}", f"layers.12{writes}")
    assert "architecture is missing: 'jump_relu'" in coder.provenance["assumptions"]
    assert len(coder.provenance["assumptions"]) == 3


def test_2_neither_config_nor_path(tmp_path):
    coder = sae.load_coder(write_2(tmp_path / "mine"))
    assert coder.reads == coder.writes == ""
    assert "hf_hook_point_in is missing: ''" in str(coder.provenance["assumptions"])


def test_2_affine_transcoder_multiplies_by_the_matrix_as_it_is(tmp_path):
    w = weights(d_out=6)
    skip = np.random.default_rng(1).normal(size=(8, 6)).astype(np.float32)
    folder = tmp_path / "transcoder" / "layer_12_width_16k_l0_medium_affine"
    coder = sae.load_coder(write_2(folder, w | {"affine_skip_connection": skip}))
    check(coder, jumprelu(w))
    y = jumprelu(w) @ w["W_dec"] + w["b_dec"] + X @ skip
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)
    square = np.random.default_rng(2).normal(size=(8, 8)).astype(np.float32)
    w = weights()
    coder = sae.load_coder(
        write_2(tmp_path / "square", w | {"affine_skip_connection": square}, CONFIG)
    )
    y = jumprelu(w) @ w["W_dec"] + w["b_dec"] + X @ square
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)


def cross_layer(*used):
    """Weights that write to three layers, the slices `used` of which are not empty."""
    w_dec = np.random.default_rng(4).normal(size=(32, 3, 8)).astype(np.float32)
    w_dec[:, [i for i in range(3) if i not in used]] = 0
    return weights() | {"W_dec": w_dec}


def test_2_cross_layer_transcoder_is_a_file_for_each_layer(tmp_path):
    folder, w = tmp_path / "clt" / "width_262k_l0_big", cross_layer(2)
    config = CONFIG | {"hf_hook_point_in": "model.layers.0.pre_feedforward_layernorm.output"}
    for layer in (0, 2, 10):
        write_2(folder, w, config, file=f"params_layer_{layer}.safetensors")
    files = sae.find_coders(tmp_path)
    assert [file.stem for file in files] == [f"params_layer_{i}" for i in (0, 2, 10)]
    coder = sae.load_coder(files[1])
    check(coder, jumprelu(w))
    np.testing.assert_array_equal(coder.W_dec, w["W_dec"][:, 2])
    assert coder.reads == "layers.2.pre_feedforward_layernorm.output"
    assert coder.writes == "layers.2.post_feedforward_layernorm.output"
    assert coder.provenance["partial"].startswith("one layer of a cross-layer transcoder")
    assert "partial" not in sae.load_coder(write_2(tmp_path / "whole")).provenance
    with pytest.raises(CoderError, match="4 sparse coders below"):
        sae.load_coder(tmp_path)
    with pytest.raises(CoderError, match="writes to 3 layers, and its file's name does not say"):
        sae.load_coder(files[2])


@pytest.mark.parametrize(
    ("layer", "used", "own", "n_notes"),
    [(0, (0, 1, 2), 0, 3), (1, (1, 2), 1, 3), (1, (0, 1), 0, 3), (2, (0,), 0, 3)]
    + [(1, (0, 1, 2), 1, 4), (2, (0, 2), 2, 4)],
)
def test_2_the_slice_of_its_own_layer_is_told_by_the_empty_ones(
    tmp_path, layer, used, own, n_notes
):
    w = cross_layer(*used)
    write_2(tmp_path / "clt", w, file=f"params_layer_{layer}.safetensors")
    coder = sae.load_coder(tmp_path)
    np.testing.assert_array_equal(coder.W_dec, w["W_dec"][:, own])
    assert len(coder.provenance["assumptions"]) == n_notes


@pytest.mark.parametrize("prefix", ["model", "model.language_model", "language_model.model"])
def test_2_hookpoints_are_found_inside_a_multimodal_model(tmp_path, prefix):
    config = CONFIG | {"hf_hook_point_in": f"{prefix}.layers.5.self_attn.o_proj.input"}
    coder = sae.load_coder(write_2(tmp_path / "mine", config=config))
    layers = "model.language_model.layers"
    names = {layers, f"{layers}.5", f"{layers}.5.self_attn.o_proj"}
    modules = Modules(names, ("model.language_model",), layers, "gemma3")
    assert str(resolve(coder.reads, modules)) == f"{layers}.5.self_attn.o_proj.input"


def test_2_bfloat16_files_are_computed_in_float32(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    half = {name: torch.tensor(array).bfloat16() for name, array in lower(weights()).items()}
    save_file(half, folder / "params.safetensors")
    coder = sae.load_coder(folder)
    assert coder.W_enc.dtype == coder.threshold.dtype == torch.float32


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "topk"}, "architecture of the sparse coder is not read: topk"),
        ({"width": 64}, "w_enc of the sparse coder has 32 latents, its config.json says 64"),
    ],
)
def test_2_what_its_config_says_must_be_so(tmp_path, config, message):
    with pytest.raises(CoderError, match=message):
        sae.load_coder(write_2(tmp_path / "mine", config=CONFIG | config))


def test_2_crosscoders_are_refused(tmp_path):
    w = weights() | {"W_enc": np.ones((2, 8, 32), dtype=np.float32)}
    with pytest.raises(CoderError, match="crosscoder, which reads several layers at once"):
        sae.load_coder(write_2(tmp_path / "layer_7_13_width_16k_l0_medium", w))


BAD = [
    ({"W_enc": np.ones((32, 8))}, r"_enc .* shape \(32, 8\), expected \(d_in, n_latents 32\)"),
    ({"W_dec": np.ones((8, 32))}, r"_dec .* shape \(8, 32\), expected \(n_latents 32, d_out 8\)"),
    ({"threshold": np.ones(8)}, r"threshold .* shape \(8,\), expected \(n_latents 32\)"),
    ({"b_dec": np.ones(())}, r"b_dec .* shape \(\), expected \(d_out 8\)"),
    ({"b_dec": np.zeros(0)}, r"b_dec .* shape \(0,\)"),
    ({"W_dec": np.full((32, 8), np.nan)}, "_dec of the sparse coder has values that are not"),
    ({"threshold": np.full(32, np.inf)}, "threshold of the sparse coder has values that are not"),
    ({"W_enc": np.ones((8, 32), dtype=np.int8)}, "_enc .* no floating numbers but torch.int8"),
]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_tensors_are_named(tmp_path, version, change, message):
    folder = (write_1 if version == 1 else write_2)(tmp_path / "mine", weights() | change)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CoderError, match=message) as caught:
        sae.load_coder(folder)
    assert "params." in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("version", [1, 2])
def test_square_matrices_are_not_turned(tmp_path, version):
    w = weights(8, 8)
    coder = sae.load_coder((write_1 if version == 1 else write_2)(tmp_path / "mine", w))
    check(coder, jumprelu(w))


def test_a_missing_tensor_is_named_where_the_format_is(tmp_path):
    w = weights()
    del w["threshold"]
    folder = write_1(tmp_path / "mine", w)
    with pytest.raises(CoderError, match="no sparse coder that is read"):
        sae.load_coder(folder)
    with pytest.raises(CoderError, match="lacks the tensor threshold"):
        sae.load_coder(folder, format="gemma_scope")


def test_the_two_versions_are_told_apart(tmp_path):
    assert sae.detect(write_1(tmp_path / "gemma-scope-2")) == "gemma_scope"
    assert sae.detect(write_2(tmp_path / "gemma-scope-1")) == "gemma_scope_2"
    assert sae.load_coder(tmp_path / "gemma-scope-2").hash.startswith("sha256:")
