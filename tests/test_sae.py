"""Sparse coders: every format gives what ten lines of numpy give."""

import json

import numpy as np
import pytest
import tiny
import torch

from lite_interp import sae
from lite_interp.errors import CoderError

X = np.random.default_rng(7).normal(size=(11, 8)).astype(np.float32) * 3 + 1


def relu(p):
    return np.maximum(p, 0)


def topk(p, k):
    kept = np.zeros_like(p)
    np.put_along_axis(
        kept, order := np.argsort(-p, axis=1)[:, :k], np.take_along_axis(p, order, 1), 1
    )
    return relu(kept)


def dense(coder, x=X):
    """(n, n_latents) from the flat firings."""
    fired = coder.firings(torch.tensor(x))
    out = np.zeros((len(x), coder.n_latents), dtype=np.float32)
    out[fired.rows, fired.latents] = fired.values
    return out


def check(coder, expected, x=X):
    """Firings, encode and decode agree with the expected activations."""
    np.testing.assert_allclose(dense(coder, x), expected, rtol=1e-4, atol=1e-5)
    encoded = coder.encode(torch.tensor(x))
    scattered = np.zeros_like(expected)
    for row, (values, indices) in enumerate(zip(*encoded, strict=True)):
        np.add.at(scattered[row], indices.numpy(), values.numpy())
    np.testing.assert_allclose(scattered, expected, rtol=1e-4, atol=1e-5)
    y = expected @ coder.W_dec.numpy() + coder.b_dec.numpy()
    np.testing.assert_allclose(coder.decode(encoded), y, rtol=1e-3, atol=1e-3)


def test_sparsify_topk_subtracts_the_decoder_bias(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    coder = sae.load_coder(tiny.write_sparsify(tmp_path, "layers.1", k=4))
    check(coder, topk((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 4))
    assert (coder.reads, coder.writes, coder.k, coder.format) == ("layers.1",) * 2 + (4, "sparsify")
    assert coder.encode(torch.tensor(X)).values.shape == (11, 4)


def test_sparsify_transcoder_subtracts_nothing_and_reads_the_input(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    skip = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    path = tiny.write_sparsify(tmp_path, "layers.1.mlp", transcode=True, W_skip=skip)
    coder = sae.load_coder(path)
    acts = topk(X @ w["W_enc"] + w["b_enc"], 4)
    check(coder, acts)
    assert (coder.reads, coder.writes) == ("layers.1.mlp.input", "layers.1.mlp.output")
    y = acts @ w["W_dec"] + w["b_dec"] + X @ skip.T
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)


def test_sparsify_skip_alone_reads_the_input_and_subtracts_the_decoder_bias(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    skip = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    coder = sae.load_coder(tiny.write_sparsify(tmp_path, "layers.1.mlp", W_skip=skip))
    acts = topk((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 4)
    check(coder, acts)
    assert coder.reads == "layers.1.mlp.input"
    y = acts @ w["W_dec"] + w["b_dec"] + X @ skip.T
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)


def test_sparsify_groupmax_keeps_the_largest_of_each_group(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    coder = sae.load_coder(tiny.write_sparsify(tmp_path, "h.1", k=4, activation="groupmax"))
    p = ((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).reshape(11, 4, 8)
    check(coder, relu(np.where(p == p.max(-1, keepdims=True), p, 0)).reshape(11, 32))


def test_topk_runs_relu_so_fewer_than_k_may_fire(tmp_path):
    w = tiny.random_weights(8, 32, 0) | {"b_enc": np.full(32, -30, dtype=np.float32)}
    coder = sae.load_coder(tiny.write_sparsify(tmp_path, "layers.1", k=20, weights=w))
    expected = relu((X - w["b_dec"]) @ w["W_enc"] - 30)
    check(coder, expected)
    assert ((expected > 0).sum(1) < 20).all()


def test_old_sparsify_configs_are_topk_and_say_what_was_assumed(tmp_path):
    folder = tiny.write_sparsify(tmp_path, "layers.1")
    (folder / "cfg.json").write_text(
        '{"expansion_factor": 4, "k": 4, "num_latents": 0, "signed": false, "d_in": 8}'
    )
    coder = sae.load_coder(tmp_path)
    assert coder.activation == "topk"
    assert "activation is missing: 'topk'" in coder.provenance["assumptions"]


def test_saelens_standard(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    check(
        sae.load_coder(tiny.write_saelens(tmp_path)),
        relu((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]),
    )


def test_saelens_b_dec_is_left_alone_when_the_config_says_so(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    coder = sae.load_coder(tiny.write_saelens(tmp_path, apply_b_dec_to_input=False))
    check(coder, relu(X @ w["W_enc"] + w["b_enc"]))


def test_saelens_flat_config_subtracts_b_dec_by_default_and_reads_old_names(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    folder = tiny.write_saelens(
        tmp_path, flat=True, hook_name=None, hook_point="blocks.2.hook_resid_pre"
    )
    coder = sae.load_coder(folder)
    check(coder, relu((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]))
    assert coder.reads == "blocks.2.hook_resid_pre"
    assert "apply_b_dec_to_input is missing: True" in coder.provenance["assumptions"]


@pytest.mark.parametrize("key", ["activation_fn", "activation_fn_str"])
def test_topk_recorded_as_architecture_standard(tmp_path, key):
    w = tiny.random_weights(8, 32, 0)
    options = {key: "topk", "activation_fn_kwargs": {"k": 3}}
    coder = sae.load_coder(tiny.write_saelens(tmp_path, flat=True, **options))
    check(coder, topk((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 3))


def test_saelens_topk_with_decoder_norms(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    norm = np.linalg.norm(w["W_dec"], axis=1)
    acts = topk(((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norm, 5)
    folder = tiny.write_saelens(tmp_path, "topk", k=5, rescale_acts_by_decoder_norm=True)
    coder = sae.load_coder(folder)
    check(coder, acts)
    y = acts @ (w["W_dec"] / norm[:, None]) + w["b_dec"]
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)


def test_saelens_jumprelu_is_strict_at_the_threshold(tmp_path):
    weights = {
        "W_enc": np.eye(8, dtype=np.float32),
        "b_enc": np.zeros(8, dtype=np.float32),
        "W_dec": np.eye(8, dtype=np.float32),
        "b_dec": np.zeros(8, dtype=np.float32),
        "threshold": np.full(8, 0.5, dtype=np.float32),
    }
    coder = sae.load_coder(tiny.write_saelens(tmp_path, "jumprelu", weights))
    x = np.array([[0.5, 0.5000001, 0.4, 2, -1, 0, 0, 0]], dtype=np.float32)
    check(coder, np.where(x > 0.5, x, 0), x)


def test_saelens_gated(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    draw = np.random.default_rng(3)
    extra = {name: draw.normal(size=32).astype(np.float32) for name in ("b_gate", "b_mag", "r_mag")}
    tensors = {name: w[name] for name in ("W_enc", "W_dec", "b_dec")} | extra
    xp = X - w["b_dec"]
    gate = xp @ w["W_enc"] + extra["b_gate"] > 0
    expected = gate * relu(xp @ (w["W_enc"] * np.exp(extra["r_mag"])) + extra["b_mag"])
    check(sae.load_coder(tiny.write_saelens(tmp_path, "gated", tensors)), expected)


def test_saelens_skip_transcoder_has_two_sites_and_two_widths(tmp_path):
    w = tiny.random_weights(8, 32, 0, d_out=6)
    skip = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)
    folder = tiny.write_saelens(
        tmp_path,
        "skip_transcoder",
        w | {"W_skip": skip},
        apply_b_dec_to_input=False,
        metadata={"hook_name_out": "blocks.1.hook_mlp_out"},
    )
    coder = sae.load_coder(folder)
    acts = relu(X @ w["W_enc"] + w["b_enc"])
    check(coder, acts)
    y = acts @ w["W_dec"] + w["b_dec"] + X @ skip.T
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)
    assert (coder.d_in, coder.d_out, coder.writes) == (8, 6, "blocks.1.hook_mlp_out")
    assert coder.is_transcoder


def test_saelens_layer_norm_uses_the_unbiased_deviation_and_is_undone(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    coder = sae.load_coder(tiny.write_saelens(tmp_path, normalize_activations="layer_norm"))
    mean, deviation = X.mean(1, keepdims=True), X.std(1, ddof=1, keepdims=True) + 1e-5
    acts = relu(((X - mean) / deviation - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    check(coder, acts)
    y = (acts @ w["W_dec"] + w["b_dec"]) * deviation + mean
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)


def test_a_saelens_transcoder_must_say_where_it_writes(tmp_path):
    folder = tiny.write_saelens(tmp_path, "transcoder", apply_b_dec_to_input=False)
    with pytest.raises(CoderError, match="does not say where it writes") as caught:
        sae.load_coder(folder)
    assert "hook_name_out" in caught.value.hint


@pytest.mark.parametrize("rule", ["layer_norm", "constant_norm_rescale"])
def test_what_a_saelens_transcoder_writes_is_not_brought_to_the_length_of_what_it_reads(
    tmp_path, rule
):
    w = tiny.random_weights(8, 32, 0)
    place = {"hook_name_out": "blocks.1.hook_mlp_out"}
    folder = tiny.write_saelens(
        tmp_path, "transcoder", apply_b_dec_to_input=False, normalize_activations=rule,
        metadata=place,
    )  # fmt: skip
    coder, x = sae.load_coder(folder), X * 3 + 1
    scaled = x * np.sqrt(8) / np.linalg.norm(x, axis=1, keepdims=True)
    if rule == "layer_norm":
        deviation = x.std(1, ddof=1, keepdims=True) + 1e-5
        scaled = (x - x.mean(1, keepdims=True)) / deviation
    acts = relu(scaled @ w["W_enc"] + w["b_enc"])
    y = acts @ w["W_dec"] + w["b_dec"]
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(x)), y, rtol=1e-3, atol=1e-3)


def test_saelens_scale_to_constant_norm(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    folder = tiny.write_saelens(tmp_path, normalize_activations="constant_norm_rescale")
    scaled = X * np.sqrt(8) / np.linalg.norm(X, axis=1, keepdims=True)
    check(sae.load_coder(folder), relu((scaled - w["b_dec"]) @ w["W_enc"] + w["b_enc"]))


def test_saelens_centred_weights_remove_the_mean(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    folder = tiny.write_saelens(tmp_path, flat=True)
    override = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    coder = sae.load_coder(folder, overrides=override)
    centred = X - X.mean(1, keepdims=True)
    check(coder, relu((centred - w["b_dec"]) @ w["W_enc"] + w["b_enc"]))


def test_saelens_scale_beside_the_weights_is_folded(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    folder = tiny.write_saelens(tmp_path)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 2.0}')
    coder = sae.load_coder(folder)
    acts = relu((X * 2 - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    np.testing.assert_allclose(dense(coder), acts, rtol=1e-4, atol=1e-4)
    y = (acts @ w["W_dec"] + w["b_dec"]) / 2
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)


def test_saelens_scale_comes_before_the_decoder_norms(tmp_path):
    w = tiny.random_weights(8, 32, 0)
    norm = np.linalg.norm(w["W_dec"], axis=1) / 2
    folder = tiny.write_saelens(tmp_path, "topk", k=5, rescale_acts_by_decoder_norm=True)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 2.0}')
    coder = sae.load_coder(folder)
    acts = topk(((X * 2 - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norm, 5)
    np.testing.assert_allclose(dense(coder), acts, rtol=1e-4, atol=1e-4)
    y = (acts @ (w["W_dec"] / norm[:, None]) + w["b_dec"]) / 2
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)


def test_bfloat16_files_are_computed_in_float32(tmp_path):
    coder = sae.load_coder(tiny.write_saelens(tmp_path, dtype=torch.bfloat16))
    assert coder.W_enc.dtype == torch.float32
    assert coder.firings(torch.tensor(X).bfloat16()).values.dtype == torch.float32


def test_blocks_change_nothing(tmp_path, monkeypatch):
    coder = sae.load_coder(tiny.write_saelens(tmp_path))
    whole = dense(coder)
    monkeypatch.setattr("lite_interp.sae.coder.BLOCK_ELEMENTS", 3 * coder.n_latents)
    check(coder, whole)
    rows = coder.firings(torch.tensor(X)).rows
    assert (rows.diff() >= 0).all()


def test_no_tokens_no_firings(tmp_path):
    coder = sae.load_coder(tiny.write_saelens(tmp_path))
    assert len(coder.firings(torch.zeros(0, 8)).values) == 0
    assert coder.decode(coder.encode(torch.zeros(0, 8))).shape == (0, 8)


def test_a_parent_with_one_coder_is_enough_and_with_two_is_not(tmp_path):
    tiny.write_sparsify(tmp_path, "layers.1")
    assert sae.load_coder(tmp_path).reads == "layers.1"
    tiny.write_sparsify(tmp_path, "layers.2")
    with pytest.raises(CoderError, match="2 sparse coders below") as caught:
        sae.load_coder(tmp_path)
    assert "layers.1, layers.2" in caught.value.hint


def test_the_format_is_known_by_files_not_by_the_folder(tmp_path):
    assert sae.detect(tiny.write_sparsify(tmp_path, "saelens")) == "sparsify"
    assert sae.detect(tiny.write_saelens(tmp_path / "sparsify")) == "saelens"
    assert sae.detect(tmp_path) is None


def cut(folder):
    file = folder / "sae.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


def drop_config(folder):
    (folder / "cfg.json").unlink()


def edit(**keys):
    def change(folder):
        path = folder / "cfg.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))

    return change


def put(text):
    return lambda folder: (folder / "cfg.json").write_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, "weights of the sparse coder cannot be read"),
        (drop_config, "no sparse coder that is read"),
        (edit(signed=True), "negative activations"),
        (edit(num_latents=31), "cfg.json says"),
        (edit(k=33), "k of the sparse coder must lie in 1..32: 33"),
        (edit(k="many"), "no whole number: many"),
        (edit(k=-4), "no whole number: -4"),
        (edit(k=4.5), "no whole number: 4.5"),
        (put('{"num_latents": 32, "k": 1e999}'), "no whole number: inf"),
        (edit(activation="swish"), "not known: swish"),
        (edit(activation="groupmax", k=5), "cannot be split"),
        (put("{"), "config cannot be read"),
        (put("[]"), "no JSON object"),
    ],
)
def test_what_is_wrong_with_a_sparsify_coder_is_said_in_one_line(tmp_path, change, message):
    folder = tiny.write_sparsify(tmp_path, "layers.1")
    change(folder)
    with pytest.raises(CoderError, match=message) as caught:
        sae.load_coder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("temporal", {}, "architecture of the sparse coder is not read: temporal"),
        ("batchtopk", {}, "not read: batchtopk"),
        ("standard", {"activation_fn": "tanh-relu"}, "not read: tanh-relu"),
        ("standard", {"normalize_activations": "odd"}, "not known: odd"),
        ("standard", {"hook_head_index": 3}, "single attention head"),
        ("topk", {}, "k of the sparse coder is no whole number: None"),
        ("jumprelu", {}, "lacks the tensor threshold"),
        (["standard"], {}, "architecture of the sparse coder is not read"),
    ],
)
def test_what_is_wrong_with_a_saelens_coder(tmp_path, architecture, options, message):
    with pytest.raises(CoderError, match=message):
        sae.load_coder(tiny.write_saelens(tmp_path, architecture, **options))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("b_enc", (31,), r"b_enc .* shape \(31,\), expected \(n_latents 32\)"),
        ("W_enc", (32, 8), r"W_enc .* shape \(32, 8\), expected \(d_in, n_latents 32\)"),
        ("W_dec", (8, 32), r"W_dec .* shape \(8, 32\), expected \(n_latents 32, d_out 8\)"),
        ("threshold", (8,), r"threshold .* shape \(8,\), expected \(n_latents 32\)"),
        ("scaling_factor", (8,), r"scaling_factor .* shape \(8,\)"),
    ],
)
def test_wrong_shapes_are_refused_before_anything_is_folded(tmp_path, name, shape, message):
    w = tiny.random_weights(8, 32, 0) | {"threshold": np.zeros(32, dtype=np.float32)}
    w |= {name: np.full(shape, 2, dtype=np.float32)}
    with pytest.raises(CoderError, match=message):
        sae.load_coder(tiny.write_saelens(tmp_path, "jumprelu", w))


def test_a_scale_beside_the_weights_must_be_one(tmp_path):
    folder = tiny.write_saelens(tmp_path)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": "2"}')
    with pytest.raises(CoderError, match=r"scaling_factor of activation_scaler.json is no scale"):
        sae.load_coder(folder)


def test_unknown_formats_and_missing_folders(tmp_path):
    with pytest.raises(CoderError, match="no such format") as caught:
        sae.load_coder(tmp_path, format="saelen")
    assert "saelens" in caught.value.hint
    with pytest.raises(CoderError, match="no such folder"):
        sae.load_coder(tmp_path / "nowhere")


def test_a_width_that_does_not_fit_names_both(tmp_path):
    coder = sae.load_coder(tiny.write_sparsify(tmp_path, "layers.1"))
    sae.check_fits(coder, "tiny layers.1", 8, 8)
    with pytest.raises(CoderError, match="reads width 8, the hookpoint has width 16: tiny"):
        sae.check_fits(coder, "tiny layers.1", 16, 16)
    with pytest.raises(CoderError, match=r"the activations have shape \(2, 5\)"):
        coder.encode(torch.zeros(2, 5))


def test_fit_is_what_numpy_says_and_a_random_coder_is_refused(tmp_path):
    x = torch.tensor(X)
    coder = sae.load_coder(tiny.write_sparsify(tmp_path, "layers.1"))
    fit = sae.measure_fit(coder, x)
    error = ((X - coder.reconstruct(x).numpy()) ** 2).sum()
    assert fit.fvu == pytest.approx(error / ((X - X.mean(0)) ** 2).sum(), rel=1e-4)
    assert (fit.l0, fit.n_tokens) == (4, 11)
    assert fit.dead_fraction == (dense(coder) == 0).all(0).mean()
    with pytest.raises(CoderError, match="does not reconstruct layers.1"):
        sae.refuse_bad_fit(fit, coder)
    with pytest.raises(CoderError, match="unexplained nan"):
        sae.refuse_bad_fit(sae.measure_fit(coder, torch.zeros(0, 8)), coder)


def test_a_coder_like_a_trained_one_passes(tmp_path):
    coder = sae.load_coder(tiny.write_trained_like(tmp_path, "layers.1", k=6))
    fit = sae.measure_fit(coder, torch.tensor(X))
    assert fit.fvu < 0.2
    assert sae.refuse_bad_fit(fit, coder) == []
    assert len(sae.refuse_bad_fit(fit._replace(l0=1.9), coder)) == 1


def test_a_coder_can_be_moved(tmp_path):
    coder = sae.load_coder(tiny.write_saelens(tmp_path))
    np.testing.assert_array_equal(dense(coder.to("cpu")), dense(coder))
