"""dictionary_learning: each class gives what three lines of numpy give, at the threshold too."""

import json
import pickle

import numpy as np
import pytest
import tiny
import torch
from test_sae import X, check, relu, topk

from lite_interp import sae
from lite_interp.errors import CoderError
from lite_interp.sae import dictionary_learning
from lite_interp.sae.dictionary_learning import is_one

W = tiny.random_weights(8, 32, 0)
TRAINER = {
    "activation_dim": 8,
    "dict_size": 32,
    "k": 4,
    "layer": 3,
    "lm_name": "EleutherAI/pythia-160m",
    "submodule_name": "resid_post_layer_3",
}
BUFFER = {"d_submodule": 8, "io": "out", "ctx_len": 128}


def linear(**others):
    """The tensors of a class that is built from torch's Linear."""
    return {
        "encoder.weight": W["W_enc"].T,
        "encoder.bias": W["b_enc"],
        "decoder.weight": W["W_dec"].T,
        **others,
    }


def gated():
    draw = np.random.default_rng(3)
    names = ("r_mag", "gate_bias", "mag_bias")
    extra = {name: draw.normal(size=32).astype(np.float32) for name in names}
    tensors = linear(decoder_bias=W["b_dec"], **extra)
    return {name: tensor for name, tensor in tensors.items() if name != "encoder.bias"}


GROUPS = np.array([8, 24])
CLASSES = {
    "AutoEncoder": lambda: linear(bias=W["b_dec"]),
    "AutoEncoderNew": lambda: linear(**{"decoder.bias": W["b_dec"]}),
    "AutoEncoderTopK": lambda: linear(b_dec=W["b_dec"], k=np.int32(4), threshold=np.float32(-1)),
    "BatchTopKSAE": lambda: linear(b_dec=W["b_dec"], k=np.int32(4), threshold=np.float32(2.5)),
    "MatryoshkaBatchTopKSAE": lambda: {
        **W,
        "k": np.int32(4),
        "threshold": np.float32(2.5),
        "group_sizes": GROUPS,
    },
    "GatedAutoEncoder": gated,
    "JumpReluAutoEncoder": lambda: {**W, "threshold": np.linspace(-1, 3, 32, dtype=np.float32)},
}


def write(folder, name, tensors=None, buffer=BUFFER, dtype=None, **trainer):
    """A folder as trainers write it."""
    folder.mkdir(parents=True, exist_ok=True)
    held = {key: torch.tensor(value) for key, value in (tensors or CLASSES[name]()).items()}
    if dtype is not None:
        held = {key: value.to(dtype) for key, value in held.items()}
    torch.save(held, folder / "ae.pt")
    config = {"trainer": {**TRAINER, "dict_class": name, **trainer}, "buffer": buffer}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def load(folder, **overrides):
    return dictionary_learning.load(folder, overrides)


def expected(name):
    """The class's own formula."""
    raw, less = X @ W["W_enc"], (X - W["b_dec"]) @ W["W_enc"]
    if name == "AutoEncoder":
        return relu(less + W["b_enc"]) * np.linalg.norm(W["W_dec"], axis=1)
    if name == "AutoEncoderNew":
        return relu(raw + W["b_enc"])
    if name == "AutoEncoderTopK":
        return topk(less + W["b_enc"], 4)
    if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        return relu(less + W["b_enc"]) * (less + W["b_enc"] > 2.5)
    if name == "GatedAutoEncoder":
        t = gated()
        return (less + t["gate_bias"] > 0) * relu(np.exp(t["r_mag"]) * less + t["mag_bias"])
    p = raw + W["b_enc"]
    return relu(p * (p > CLASSES[name]()["threshold"]))


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_encodes_and_reconstructs_as_its_own_code(tmp_path, name):
    folder = write(tmp_path / "resid_post_layer_3" / "trainer_0", name)
    assert is_one(folder)
    coder = load(folder)
    check(coder, acts := expected(name))
    scale = np.linalg.norm(W["W_dec"], axis=1) if name == "AutoEncoder" else np.ones(32)
    y = acts / scale @ W["W_dec"] + W["b_dec"]
    np.testing.assert_allclose(coder.reconstruct(torch.tensor(X)), y, rtol=1e-3, atol=1e-3)
    assert coder.format == "dictionary_learning"
    assert (coder.reads, coder.writes) == ("blocks.3.hook_resid_post",) * 2
    assert coder.provenance["config"]["dict_class"] == name


@pytest.mark.parametrize("name", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"])
def test_the_threshold_is_strict(tmp_path, name):
    eye, zero = np.eye(8, dtype=np.float32), np.zeros(8, dtype=np.float32)
    matrices = {"W_enc": eye, "b_enc": zero, "W_dec": eye, "b_dec": zero}
    if name == "BatchTopKSAE":
        matrices = {
            "encoder.weight": eye,
            "encoder.bias": zero,
            "decoder.weight": eye,
            "b_dec": zero,
        }
    one = np.full(8, 0.5, dtype=np.float32) if name == "JumpReluAutoEncoder" else np.float32(0.5)
    coder = load(
        write(tmp_path, name, {**matrices, "threshold": one}, activation_dim=8, dict_size=8)
    )
    x = np.array([[0.5, 0.5000001, 0.4, 2, -1, 0, 0, 0]], dtype=np.float32)
    check(coder, np.where(x > 0.5, x, 0), x)


def test_batch_top_k_does_not_depend_on_the_neighbours_in_a_batch(tmp_path):
    coder = load(write(tmp_path, "BatchTopKSAE"))
    whole = coder.encode(torch.tensor(X))
    for row, (values, _) in enumerate(zip(*whole, strict=True)):
        alone = coder.encode(torch.tensor(X[row : row + 1])).values
        np.testing.assert_allclose(alone[alone > 0], values[values > 0], rtol=1e-5)
    assert len(set((whole.values > 0).sum(1).tolist())) > 1


@pytest.mark.parametrize("name", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
def test_a_threshold_that_was_never_set_means_relu_and_is_noted(tmp_path, name):
    tensors = CLASSES[name]() | {"threshold": np.float32(-1)}
    coder = load(write(tmp_path, name, tensors))
    check(coder, relu((X - W["b_dec"]) @ W["W_enc"] + W["b_enc"]))
    assert "threshold was never set" in " ".join(coder.provenance["assumptions"])


def test_bfloat16_files_are_computed_in_float32(tmp_path):
    coder = load(write(tmp_path, "AutoEncoderNew", dtype=torch.bfloat16))
    assert {coder.W_enc.dtype, coder.b_enc.dtype, coder.W_dec.dtype} == {torch.float32}


def test_old_top_k_files_have_neither_k_nor_threshold(tmp_path):
    coder = load(write(tmp_path, "AutoEncoderTopK", linear(b_dec=W["b_dec"])))
    check(coder, expected("AutoEncoderTopK"))
    assert "k is in the config alone" in coder.provenance["assumptions"]


def test_a_missing_class_is_found_from_the_tensors_where_they_tell(tmp_path):
    coder = load(write(tmp_path / "a", "GatedAutoEncoder", dict_class=None))
    check(coder, expected("GatedAutoEncoder"))
    assert "dict_class is missing: 'GatedAutoEncoder'" in coder.provenance["assumptions"]
    folder = write(tmp_path / "b", "BatchTopKSAE", dict_class=None)
    with pytest.raises(CoderError, match="dict_class of the sparse coder is missing") as caught:
        load(folder)
    assert caught.value.hint == "name it: dict_class = AutoEncoderTopK, BatchTopKSAE"
    check(load(folder, dict_class="BatchTopKSAE"), expected("BatchTopKSAE"))


@pytest.mark.parametrize(
    ("trainer", "io", "sites"),
    [
        ({}, "out", ("blocks.3.hook_resid_post",) * 2),
        ({}, "in_and_out", ("blocks.3.hook_resid_pre", "blocks.3.hook_resid_post")),
        ({"submodule_name": None}, None, ("blocks.3.hook_resid_post",) * 2),
        ({"submodule_name": "mlp_out_layer3"}, "out", ("blocks.3.mlp.hook_out",) * 2),
        (
            {"submodule_name": "mlp_out_layer_3"},
            "in_and_out",
            ("blocks.3.mlp.hook_in", "blocks.3.mlp.hook_out"),
        ),
        ({"submodule_name": "blocks.5.attn.hook_z"}, "out", ("blocks.5.attn.hook_z",) * 2),
        ({"submodule_name": "layers.5.mlp"}, "out", ("layers.5.mlp.output",) * 2),
        ({"submodule_name": "layers.5.mlp"}, "in", ("layers.5.mlp.input",) * 2),
        (
            {"submodule_name": "layers.5.mlp"},
            "in_and_out",
            ("layers.5.mlp.input", "layers.5.mlp.output"),
        ),
        ({"submodule_name": "", "layer": None}, "out", ("", "")),
        ({"submodule_name": "what?", "reads": "h.1"}, "out", ("h.1", "h.1")),
    ],
)
def test_where_it_reads_and_writes(tmp_path, trainer, io, sites):
    coder = load(write(tmp_path, "AutoEncoderNew", buffer={"io": io}, **trainer))
    assert (coder.reads, coder.writes) == sites
    if io is None:
        assert "io is missing: 'out'" in coder.provenance["assumptions"]


@pytest.mark.parametrize(
    ("trainer", "io", "message"),
    [
        ({}, "in", "submodule_name resid_post_layer_3 with io in"),
        ({}, "sideways", "with io sideways"),
        ({}, ["out"], "with io .'out'."),
        ({"submodule_name": "attn_out_layer_3"}, "out", "submodule_name attn_out_layer_3"),
        ({"submodule_name": "blocks.3.hook_mlp_out"}, "in_and_out", "with io in_and_out"),
        ({"submodule_name": "resid_post_layer_4"}, "out", "layer 3, and submodule_name resid_post"),
        ({"dict_class": "CrossCoder"}, "out", "class of the sparse coder is not read: CrossCoder"),
        ({"dict_class": ["AutoEncoder"]}, "out", "class of the sparse coder is not read"),
        (
            {"activation_dim": 32, "dict_size": 8},
            "out",
            r"W_enc .* \(8, 32\).* activation_dim = 32",
        ),
    ],
)
def test_what_the_config_says_wrong(tmp_path, trainer, io, message):
    with pytest.raises(CoderError, match=message):
        load(write(tmp_path, "AutoEncoderNew", buffer={"io": io}, **trainer))


def transposed(name, key):
    return lambda: CLASSES[name]() | {key: CLASSES[name]()[key].T}


def without(name, key):
    return lambda: {other: value for other, value in CLASSES[name]().items() if other != key}


def changed(name, **others):
    return lambda: CLASSES[name]() | others


NAN = np.array([np.nan] * 32, dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("AutoEncoder", transposed("AutoEncoder", "encoder.weight"), "encoder.weight .* (8, 32)"),
        ("AutoEncoder", transposed("AutoEncoder", "decoder.weight"), "decoder.weight .* (32, 8)"),
        ("AutoEncoder", CLASSES["AutoEncoderNew"], "tensors that no AutoEncoder has: decoder.bias"),
        ("AutoEncoder", without("AutoEncoder", "bias"), "lacks the tensor bias"),
        ("AutoEncoderNew", without("AutoEncoderNew", "decoder.bias"), "lacks .* decoder.bias"),
        ("AutoEncoderTopK", changed("AutoEncoderTopK", k=np.int32(5)), "k .* is 5 in its weights"),
        (
            "AutoEncoderTopK",
            changed("AutoEncoderTopK", k=np.float32(4.5)),
            "k .* is 4.5 in its weights file, 4 in its config",
        ),
        (
            "AutoEncoderTopK",
            changed("AutoEncoderTopK", k=np.array([4, 4])),
            "k .* is .4, 4. in its weights file, 4 in its config",
        ),
        ("BatchTopKSAE", without("BatchTopKSAE", "threshold"), "lacks the tensor threshold"),
        ("BatchTopKSAE", changed("BatchTopKSAE", threshold=NAN[:1]), "threshold .* not finite"),
        (
            "BatchTopKSAE",
            changed("BatchTopKSAE", threshold=np.ones(32, dtype=np.float32)),
            "threshold .* shape (32,)",
        ),
        (
            "MatryoshkaBatchTopKSAE",
            changed("MatryoshkaBatchTopKSAE", group_sizes=np.array([8, 8])),
            "group_sizes of the sparse coder do not add up to 32 latents",
        ),
        ("GatedAutoEncoder", changed("GatedAutoEncoder", r_mag=NAN), "r_mag .* not finite"),
        ("GatedAutoEncoder", without("GatedAutoEncoder", "mag_bias"), "lacks .* mag_bias"),
        ("JumpReluAutoEncoder", changed("JumpReluAutoEncoder", W_enc=W["W_dec"]), "W_enc"),
        (
            "JumpReluAutoEncoder",
            changed("JumpReluAutoEncoder", b_enc=np.zeros(32, dtype=np.int64)),
            "b_enc .* no floating numbers but torch.int64",
        ),
    ],
)
def test_what_is_wrong_with_the_tensors(tmp_path, name, make, message):
    pattern = message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(CoderError, match=pattern) as caught:
        load(write(tmp_path, name, make()))
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path):
    file = write(tmp_path, "AutoEncoder") / "ae.pt"
    file.write_bytes(file.read_bytes()[:-99])
    with pytest.raises(CoderError, match="weights of the sparse coder cannot be read"):
        load(tmp_path)


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", ["zip", "plain"])
def test_no_code_of_a_pickle_is_run(tmp_path, kind):
    write(tmp_path, "AutoEncoder")
    if kind == "zip":
        torch.save({"bias": Harm(tmp_path / "made")}, tmp_path / "ae.pt")
    else:
        (tmp_path / "ae.pt").write_bytes(pickle.dumps({"bias": Harm(tmp_path / "made")}))
    before = {path.name for path in tmp_path.iterdir()}
    is_one(tmp_path)
    with pytest.raises(CoderError, match=r"ae\.pt"):
        load(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before == {"ae.pt", "config.json"}


def test_what_is_none(tmp_path):
    assert not is_one(tmp_path / "nowhere")
    assert not is_one(tmp_path)
    folder = write(tmp_path, "AutoEncoder")
    for text in ("{", "[]", "{}", '{"trainer": 3}'):
        (folder / "config.json").write_text(text)
        assert not is_one(folder)
    (folder / "config.json").unlink()
    assert not is_one(folder)
    with pytest.raises(CoderError, match="config cannot be read"):
        load(folder)


def test_it_is_found_by_its_files_wherever_one_points(tmp_path):
    # Alone, the tensors of AutoEncoderNew are those of other formats too.
    folder = write(tmp_path / "trainer_0", "AutoEncoderNew")
    for place in (tmp_path, folder, folder / "ae.pt"):
        assert sae.load_coder(place).format == "dictionary_learning"
    file = folder / "ae.pt"
    file.write_bytes(file.read_bytes()[:-99])
    with pytest.raises(CoderError, match="weights of the sparse coder cannot be read"):
        sae.load_coder(tmp_path)
