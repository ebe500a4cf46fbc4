"""circuit-tracer's transcoders and cross-layer transcoders: as three lines of numpy say."""

import hashlib
import pickle

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file

from lite_interp import sae
from lite_interp.errors import CoderError
from lite_interp.sae import circuit_tracer

X = np.random.default_rng(7).normal(size=(11, 8)).astype(np.float32) * 3 + 1
CONFIG = """\
model_name: "meta-llama/Llama-3.2-1B"
model_kind: transcoder_set
feature_input_hook: mlp.hook_in
feature_output_hook: hook_mlp_out
scan: [a, b]
"""
CLT = CONFIG.replace("transcoder_set", "cross_layer_transcoder")
M, D, N_LAYERS = 32, 8, 3


def relu(p):
    return np.maximum(p, 0)


def dense(coder, x=X):
    fired = coder.firings(torch.tensor(x))
    out = np.zeros((len(x), coder.n_latents), dtype=np.float32)
    out[fired.rows, fired.latents] = fired.values
    return out


def save(path, tensors, dtype=torch.float32):
    made = {name: torch.as_tensor(value).clone().contiguous() for name, value in tensors.items()}
    save_file({n: t.to(dtype) if t.is_floating_point() else t for n, t in made.items()}, path)


def weights(layer=1):
    """A transcoder's tensors as they stand in its file."""
    made = tiny.random_weights(D, M, layer)
    return made | {"W_enc": np.ascontiguousarray(made["W_enc"].T)}


def write(folder, layer=1, config=CONFIG, dtype=torch.float32, **tensors):
    """Write a transcoder; a tensor that is None is left out. Returns its file."""
    folder.mkdir(exist_ok=True)
    if config is not None:
        (folder / "config.yaml").write_text(config)
    held = {name: value for name, value in (weights(layer) | tensors).items() if value is not None}
    save(folder / f"layer_{layer}.safetensors", held, dtype)
    return folder / f"layer_{layer}.safetensors"


def write_cross_layer(folder, layer=1, config=CLT, decoder=None, **tensors):
    """Write one layer of a cross-layer transcoder; returns the file of its encoder."""
    folder.mkdir(exist_ok=True)
    if config is not None:
        (folder / "config.yaml").write_text(config)
    made = {f"{name}_{layer}": value for name, value in weights(layer).items() if name != "W_dec"}
    save(folder / f"W_enc_{layer}.safetensors", made | tensors)
    if decoder is None:
        decoder = np.random.default_rng(layer).normal(size=(M, N_LAYERS - layer, D))
    decoder = decoder.astype(np.float32) if decoder.dtype == np.float64 else decoder
    save(folder / f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": decoder})
    return folder / f"W_enc_{layer}.safetensors"


def test_a_transcoder_without_a_threshold_is_relu_and_subtracts_nothing(tmp_path):
    w = weights()
    path = write(tmp_path / "odd name")
    coder = circuit_tracer.load(path, {})
    acts = relu(X @ w["W_enc"].T + w["b_enc"])
    np.testing.assert_allclose(dense(coder), acts, rtol=1e-4, atol=1e-4)
    y = acts @ w["W_dec"] + w["b_dec"]
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)
    assert (coder.reads, coder.writes) == ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    assert coder.is_transcoder
    assert coder.pre_bias is None
    assert coder.hash == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert coder.provenance["path"] == str(path)
    assert coder.provenance["config"]["model_name"] == "meta-llama/Llama-3.2-1B"
    assert coder.provenance["assumptions"] == []


def test_a_threshold_makes_it_jumprelu_strict_at_the_threshold(tmp_path):
    eye = np.eye(D, dtype=np.float32)
    half = np.full(D, 0.5, dtype=np.float32)
    zero = np.zeros(D, dtype=np.float32)
    parts = {"W_enc": eye, "b_enc": zero, "W_dec": eye, "b_dec": zero}
    path = write(tmp_path, **parts, **{circuit_tracer.THRESHOLD: half})
    coder = circuit_tracer.load(path, {})
    x = np.array([[0.5, 0.5000001, 0.4, 2, -1, 0, 0, 0]], dtype=np.float32)
    np.testing.assert_array_equal(dense(coder, x), np.where(x > 0.5, x, 0))
    assert coder.activation == "jumprelu"


def test_thresholds_below_zero_are_noted(tmp_path):
    threshold = {circuit_tracer.THRESHOLD: np.full(M, -1, dtype=np.float32)}
    coder = circuit_tracer.load(write(tmp_path, **threshold), {})
    assert "negative activations" in " ".join(coder.provenance["assumptions"])


def test_the_skip_connection_is_transposed(tmp_path):
    w = weights()
    skip = np.random.default_rng(1).normal(size=(D, D)).astype(np.float32)
    coder = circuit_tracer.load(write(tmp_path, W_skip=skip), {})
    y = relu(X @ w["W_enc"].T + w["b_enc"]) @ w["W_dec"] + w["b_dec"] + X @ skip.T
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("config", [CONFIG + "activation: topk\nk: 4\n", CONFIG])
def test_topk_by_the_config_or_by_the_file(tmp_path, config):
    w = weights()
    held = {} if "topk" in config else {"k": torch.tensor(4)}
    coder = circuit_tracer.load(write(tmp_path, config=config, **held), {})
    p = X @ w["W_enc"].T + w["b_enc"]
    kept = p >= np.sort(p, axis=1)[:, -4:-3]
    np.testing.assert_allclose(dense(coder), relu(p * kept), rtol=1e-4, atol=1e-4)
    assert (coder.activation, coder.k) == ("topk", 4)
    assert "below 0" in " ".join(coder.provenance["assumptions"])


def test_overrides_replace_keys_and_choose_a_layer(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2)
    coder = circuit_tracer.load(tmp_path, {"layer": 2, "activation": "topk", "k": 3})
    assert (coder.reads, coder.k) == ("blocks.2.mlp.hook_in", 3)
    assert coder.provenance["config"]["activation"] == "topk"


def test_bfloat16_is_computed_in_float32(tmp_path):
    coder = circuit_tracer.load(write(tmp_path, dtype=torch.bfloat16), {})
    assert coder.W_enc.dtype == coder.W_dec.dtype == torch.float32


def test_a_folder_of_many_layers_asks_for_one(tmp_path):
    for layer in (10, 2, 1):
        write(tmp_path, layer)
    with pytest.raises(CoderError, match="3 layers in this folder") as caught:
        circuit_tracer.load(tmp_path, {})
    assert caught.value.hint.endswith(
        "layer_1.safetensors, layer_2.safetensors, layer_10.safetensors"
    )
    chosen = circuit_tracer.load(tmp_path / "layer_10.safetensors", {})
    assert chosen.reads == "blocks.10.mlp.hook_in"
    single = write(tmp_path / "single")
    assert circuit_tracer.load(single.parent, {}).hash == circuit_tracer.load(single, {}).hash


def test_whoever_loads_one_need_not_say_what_it_is(tmp_path):
    path = write(tmp_path / "a", 2)
    assert sae.detect(path) == "circuit_tracer"
    assert sae.load_coder(tmp_path).reads == "blocks.2.mlp.hook_in"
    write(tmp_path / "a", 10)
    with pytest.raises(CoderError, match="2 sparse coders below") as caught:
        sae.load_coder(tmp_path / "a")
    assert "layer_2.safetensors, layer_10.safetensors" in caught.value.hint
    assert sae.load_coder(path).reads == "blocks.2.mlp.hook_in"
    encoder = write_cross_layer(tmp_path / "b", 0)
    assert sae.find_coders(tmp_path / "b") == [encoder]
    assert sae.load_coder(tmp_path / "b").writes == "blocks.0.hook_mlp_out"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.yaml").write_text(CONFIG)
    with pytest.raises(CoderError, match="weights are elsewhere"):
        sae.load_coder(tmp_path / "c")


def test_one_layer_of_a_cross_layer_transcoder_writes_to_itself(tmp_path):
    w = weights()
    decoder = np.random.default_rng(3).normal(size=(M, N_LAYERS - 1, D)).astype(np.float32)
    path = write_cross_layer(tmp_path, decoder=decoder)
    coder = circuit_tracer.load(path, {})
    acts = relu(X @ w["W_enc"].T + w["b_enc"])
    np.testing.assert_allclose(dense(coder), acts, rtol=1e-4, atol=1e-4)
    y = acts @ decoder[:, 0] + w["b_dec"]
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)
    assert (coder.reads, coder.writes) == ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    assert circuit_tracer.PARTIAL in coder.provenance["assumptions"]
    write_cross_layer(tmp_path, decoder=decoder * 2)
    assert circuit_tracer.load(path, {}).hash != coder.hash


def test_a_cross_layer_transcoder_with_a_threshold_and_without_a_config(tmp_path):
    w, threshold = weights(0), np.full(M, 2, dtype=np.float32)
    path = write_cross_layer(tmp_path, 0, config=None, threshold_0=threshold)
    coder = circuit_tracer.load(path, {})
    p = X @ w["W_enc"].T + w["b_enc"]
    np.testing.assert_allclose(dense(coder), relu(p) * (p > 2), rtol=1e-4, atol=1e-4)
    assert (coder.reads, coder.writes) == ("blocks.0.hook_resid_mid", "blocks.0.hook_mlp_out")
    assert coder.provenance["assumptions"][:2] == [
        "feature_input_hook is missing: 'hook_resid_mid'",
        "feature_output_hook is missing: 'hook_mlp_out'",
    ]


def test_it_is_known_by_files_and_tensors(tmp_path):
    assert circuit_tracer.is_one(write(tmp_path / "a"))
    # Of a folder with layers each file is a coder.
    assert not circuit_tracer.is_one(tmp_path / "a")
    assert circuit_tracer.is_one(write(tmp_path / "b", config=None))
    encoder = write_cross_layer(tmp_path / "c", config=None)
    assert circuit_tracer.is_one(encoder)
    for other in (
        *("c", "c/W_dec_1.safetensors", "a/config.yaml", "nowhere", "nowhere/layer_1.safetensors"),
        *("a/layer_9.safetensors", "a/layer_01.safetensors"),
    ):
        assert not circuit_tracer.is_one(tmp_path / other), other
    renamed = tmp_path / "d" / "layer_1.safetensors"
    renamed.parent.mkdir()
    save(renamed, {"w_enc": np.zeros((2, 2), dtype=np.float32)})
    assert not circuit_tracer.is_one(renamed)
    assert not circuit_tracer.is_one(renamed.parent)
    assert not circuit_tracer.is_one(tiny.write_saelens(tmp_path / "saelens"))
    assert not circuit_tracer.is_one(tiny.write_sparsify(tmp_path, "layers.1"))
    for text in ("{", "[]", "- a", "\x00", "a: &a [*a]", "[" * 5000, "model_kind: [x]"):
        (tmp_path / "d" / "config.yaml").write_text(text)
        assert not circuit_tracer.is_one(renamed.parent), text


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def pickled(path):
    class Run:
        def __reduce__(self):
            return (open, (str(path.with_name("ran")), "w"))

    path.write_bytes(pickle.dumps({"W_enc": Run()}))


def nan(name, shape):
    values = np.ones(shape, dtype=np.float32)
    values.flat[1] = np.nan
    return {name: values}


W = weights()
BAD = {
    "no encoder": ({"W_enc": None}, "lacks the tensor W_enc"),
    "transposed": ({"W_enc": W["W_enc"].T}, r"W_enc .* has shape \(8, 32\), expected"),
    "swapped": ({"W_dec": W["W_dec"].T}, r"W_dec .* has shape \(8, 32\), expected"),
    "swapped biases": ({"b_enc": W["b_dec"], "b_dec": W["b_enc"]}, r" has shape .*, expected"),
    "short": ({"b_enc": W["b_enc"][:31]}, r" has shape .*, expected"),
    "NaN": (nan("W_dec", (M, D)), "W_dec .* not finite"),
    "infinite": ({"b_enc": np.full(M, np.inf, dtype=np.float32)}, "b_enc .* not finite"),
    "NaN threshold": (nan(circuit_tracer.THRESHOLD, M), "threshold .* not finite"),
    "integers": ({"W_enc": torch.ones(M, D, dtype=torch.int32)}, "W_enc .* no floating numbers"),
    "skip": ({"W_skip": np.ones((D, 3), dtype=np.float32)}, "W_skip .* has shape"),
    "unknown": ({"rope": np.ones(1, dtype=np.float32)}, "a tensor rope, which is not known"),
    "k": ({"k": torch.tensor([4, 5])}, "k of the sparse coder is no whole number"),
    "large k": ({"k": torch.tensor(33)}, r"k of the sparse coder must lie in 1\.\.32: 33"),
}


@pytest.mark.parametrize(("tensors", "message"), BAD.values(), ids=BAD)
def test_a_bad_transcoder_is_refused_with_tensor_and_reason(tmp_path, tensors, message):
    path = write(tmp_path, **tensors)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CoderError, match=message) as caught:
        circuit_tracer.load(path, {})
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("spoil", [cut, pickled])
def test_a_file_that_is_cut_or_a_pickle_is_refused_and_nothing_is_run(tmp_path, spoil):
    path = write(tmp_path)
    spoil(path)
    assert circuit_tracer.is_one(path)  # the config says so
    with pytest.raises(CoderError, match="weights of the sparse coder cannot be read"):
        circuit_tracer.load(path, {})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "says what the transcoder reads"),
        ("model_kind: transcoder_set", "says what the transcoder reads"),
        (CLT, "config says cross_layer_transcoder, the file is of a transcoder_set"),
        (CONFIG + "activation: topk", "says topk, but no k"),
        (CONFIG + "activation: topk\nk: many", "no whole number: many"),
        (CONFIG + "activation: topk\nk: .nan", "says topk, but no k"),
        (CONFIG + "activation: jump_relu", "says jump_relu, the tensors in its file are .* relu"),
        (CONFIG + "activation: swish", "not known: swish"),
        ("{", "config cannot be read"),
        ("- 1", "config is no mapping"),
        ("x: " + "a" * 70_000, "config cannot be read: .*larger than"),
        ("!!python/object/apply:os.system ['touch ran']", "config cannot be read"),
    ],
)
def test_a_bad_config_is_refused(tmp_path, monkeypatch, config, message):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, config=config)
    with pytest.raises(CoderError, match=message) as caught:
        circuit_tracer.load(path, {})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_tensors_and_config_that_disagree_are_refused(tmp_path):
    threshold = {circuit_tracer.THRESHOLD: np.ones(M, dtype=np.float32)}
    path = write(tmp_path, config=CONFIG + "activation: relu", **threshold)
    with pytest.raises(CoderError, match="says relu, the tensors in its file are .* jumprelu"):
        circuit_tracer.load(path, {})


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (np.ones((2, M, D)), r"W_dec_1 .* has shape \(2, 32, 8\)"),  # by destination
        (np.ones((M, D)), r"W_dec_1 .* has shape \(32, 8\)"),
        (np.ones((M, 0, D)), r"W_dec_1 .* has shape \(32, 0, 8\)"),
        (np.full((M, 2, D), np.nan), "W_dec_1 .* not finite"),
        (np.ones((M, 2, D), dtype=np.int32), "W_dec_1 .* no floating numbers"),
    ],
)
def test_a_bad_decoder_of_a_cross_layer_transcoder_is_refused(tmp_path, decoder, message):
    path = write_cross_layer(tmp_path, decoder=decoder)
    with pytest.raises(CoderError, match=message):
        circuit_tracer.load(path, {})


def test_a_cross_layer_transcoder_without_its_decoder_or_encoder_is_refused(tmp_path):
    path = write_cross_layer(tmp_path)
    decoder = tmp_path / "W_dec_1.safetensors"
    whole = decoder.read_bytes()
    cut(decoder)
    with pytest.raises(CoderError, match="W_dec_1.safetensors"):
        circuit_tracer.load(path, {})
    decoder.unlink()
    with pytest.raises(CoderError, match="lacks its decoder W_dec_1.safetensors"):
        circuit_tracer.load(path, {})
    decoder.write_bytes(whole)
    path.unlink()
    with pytest.raises(CoderError, match="weights are elsewhere"):
        circuit_tracer.load(tmp_path, {})


def test_a_folder_whose_weights_are_elsewhere_says_where(tmp_path):
    listed = "transcoders:\n- hf://google/gemma-scope-2b-pt-transcoders/layer_0/params.npz\n"
    (tmp_path / "config.yaml").write_text(CONFIG + listed)
    assert circuit_tracer.is_one(tmp_path)
    with pytest.raises(CoderError, match="elsewhere, the first at hf://google/gemma-scope"):
        circuit_tracer.load(tmp_path, {})
    with pytest.raises(CoderError, match="no layer of circuit-tracer"):
        circuit_tracer.load(tmp_path / "config.yaml", {})
