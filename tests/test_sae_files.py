"""Files of sparse coders are hostile: nothing in them is run, no more memory than they hold."""

import io
import json
import pickle
import zipfile
import zlib

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file

from lite_interp import sae
from lite_interp.errors import CoderError
from lite_interp.sae.files import (
    look,
    need,
    need_all,
    read_config,
    read_npz,
    read_pt,
    read_weights,
    shapes_of,
)

TENSORS = {"W": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3)}
SUFFIXES = [".safetensors", ".npz", ".pt", ".pth"]


def write(path, tensors=None):
    tensors = tensors or TENSORS
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    else:
        torch.save(tensors, path)
    return path


class Code:
    """Runs when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return exec, (f"open({str(self.target)!r}, 'w').close()",)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_file_says_the_same(tmp_path, suffix):
    path = write(tmp_path / f"w{suffix}", TENSORS | {"n": torch.tensor([3])})
    assert look(path) == shapes_of(path) == {"W": (2, 3), "b": (3,), "n": (1,)}
    read = read_weights(path)
    torch.testing.assert_close(read["W"], TENSORS["W"])
    assert read["n"].tolist() == [3]


def test_what_modules_save_is_read(tmp_path):
    module = torch.nn.Linear(3, 2).to(torch.bfloat16)
    torch.save(module.state_dict(), tmp_path / "state.pt")
    torch.save({"b": torch.nn.Parameter(torch.ones(2)), "n": 3, "s": "x"}, tmp_path / "rest.pth")
    assert look(tmp_path / "state.pt") == {"weight": (2, 3), "bias": (2,)}
    assert read_pt(tmp_path / "state.pt")["weight"].dtype == torch.float32
    rest = read_pt(tmp_path / "rest.pth")
    assert (rest["b"].tolist(), rest["n"], rest["s"]) == ([1, 1], 3, "x")
    assert not rest["b"].requires_grad
    torch.save({"sae": {"b": torch.ones(2, dtype=torch.half)}}, tmp_path / "nested.pt")
    assert read_pt(tmp_path / "nested.pt")["sae"]["b"].dtype == torch.float32


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("keep", [0, 4, 30, 0.5, -9])
def test_files_that_are_cut_are_refused_whole(tmp_path, suffix, keep):
    path = write(tmp_path / f"w{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(CoderError, match=r"cannot be read: .*w\.") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert look(path) == {}
    with pytest.raises(CoderError, match=r"cannot be read: .*w\."):
        sae.load_coder(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("other", SUFFIXES[:3])
def test_files_under_the_name_of_another_kind_are_refused(tmp_path, suffix, other):
    if suffix == other or {suffix, other} == {".pt", ".pth"}:
        return
    path = write(tmp_path / f"x{other}").rename(tmp_path / f"w{suffix}")
    assert look(path) == {}
    with pytest.raises(CoderError):
        read_weights(path)


def test_code_in_a_pickle_is_not_run(tmp_path):
    ran = tmp_path / "ran"
    torch.save({"W_enc": torch.ones(2), "x": Code(ran)}, tmp_path / "w.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Code(ran)))
    np.savez(tmp_path / "w.npz", W_enc=np.array([Code(ran)], dtype=object))
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Code(ran)))
    for name, message in (
        ("w.pt", r"refused: .*names (__builtin__|builtins).exec, nothing of it was run"),
        ("bare.pt", "no zip as torch.save writes it"),
        ("w.npz", "refused: .*W_enc is an array of object"),
        ("bare.npz", "cannot be read"),
    ):
        with pytest.raises(CoderError, match=message) as caught:
            sae.load_coder(tmp_path / name)
        assert "weights_only" not in str(caught.value) + caught.value.hint
        with pytest.raises(CoderError, match=message):
            read_weights(tmp_path / name)
    assert not ran.exists()


def repack(path, change, **options):
    """Write a .pt again with its parts changed: {name in the zip: bytes}."""
    with zipfile.ZipFile(path) as archive:
        parts = change({entry.filename: archive.read(entry) for entry in archive.infolist()})
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def pickled(code):
    return lambda parts: {
        name: code if name.endswith("data.pkl") else part for name, part in parts.items()
    }


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "names builtins.bytearray"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "STACK_GLOBAL"),
        (b"\x80\x02(S'rm'\nios\nsystem\n.", "names os.system"),
        (b"\x80\x02ctorch\nload\n.", "names torch.load"),
        (b"\x80\x02}q\x00.", None),
        (b"\x80\x02]q\x00.", "no dict of tensors"),
        (b"\x80\x02}q\x00K\x01K\x02s.", "no dict of tensors"),
        (b"\x80\x02R.", "cannot be read"),
        (b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "cannot be read"),  # holds itself
        (b"\xff\xff", "cannot be read"),
    ],
)
def test_pickles_made_by_hand(tmp_path, code, message):
    path = repack(write(tmp_path / "w.pt"), pickled(code))
    if message is None:
        assert read_pt(path) == {}
        return
    with pytest.raises(CoderError, match=message):
        read_pt(path)
    assert look(path) == {}


def test_a_pt_claims_no_more_than_it_holds(tmp_path):
    wide = torch.ones(1).expand(1 << 20, 1 << 20)
    for held in ({"W": wide}, {"sae": {"W": wide}}, {"W": [wide]}):
        torch.save(held, tmp_path / "wide.pt")
        with pytest.raises(CoderError, match="W claims more than the file holds"):
            read_pt(tmp_path / "wide.pt")
    sparse = torch.sparse_coo_tensor([[0]], [1.0], (1 << 40,), check_invariants=True)
    torch.save({"W": sparse}, tmp_path / "sparse.pt")
    with pytest.raises(CoderError, match="names torch._utils._rebuild_sparse_tensor"):
        read_pt(tmp_path / "sparse.pt")
    path = repack(write(tmp_path / "w.pt"), dict, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CoderError, match="compressed, which torch.save never does"):
        read_pt(path)
    short = write(tmp_path / "short.pt", {"W": torch.ones(1000)})
    repack(short, lambda parts: {n: p[:80] if "/data/" in n else p for n, p in parts.items()})
    with pytest.raises(CoderError):
        read_pt(short)


def npy(header, content=b""):
    """One entry of an .npz with a header made by hand."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


@pytest.mark.parametrize(
    ("header", "content", "message"),
    [
        ({"descr": "<f4", "shape": (1 << 40, 1 << 20)}, b"1234", "W claims shape"),
        ({"descr": "<f4", "shape": (2,)}, b"1234", "W claims shape"),
        ({"descr": "<f4", "shape": (-1,)}, b"", "W claims shape"),
        ({"descr": "<U9", "shape": ()}, bytes(36), "array of <U9"),
        ({"descr": [("x", "<f4")], "shape": (1,)}, b"1234", "no plain numbers"),
        ({"descr": "<f4", "shape": (5 << 20,)}, bytes(20 << 20), "W would grow to 20,97"),
    ],
)
def test_an_npz_claims_no_more_than_it_holds(tmp_path, header, content, message):
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("W.npy", npy(header | {"fortran_order": False}, content))
    with pytest.raises(CoderError, match=message):
        read_npz(path)
    assert look(path) == {}


def test_an_npz_with_a_wrong_checksum_is_refused(tmp_path):
    path = write(tmp_path / "w.npz", {"W": torch.arange(400.0)})
    content = bytearray(path.read_bytes())
    content[900] ^= 1
    path.write_bytes(content)
    with pytest.raises(CoderError, match="cannot be read"):
        read_npz(path)
    assert zlib.crc32(content)


def test_big_endian_and_fortran_arrays_are_read(tmp_path):
    array = np.arange(6, dtype=">f8").reshape(2, 3)
    np.savez(tmp_path / "w.npz", W=np.asfortranarray(array))
    read = read_npz(tmp_path / "w.npz")["W"]
    assert read.dtype == torch.float32
    assert read.tolist() == array.tolist()


def test_a_config_is_bounded(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"k": [[1]]}))
    assert read_config(path) == {"k": [[1]]}
    path.write_text("[" * 100_000)
    with pytest.raises(CoderError, match="config cannot be read"):
        read_config(path)
    monkeypatch.setattr("lite_interp.sae.files.MAX_CONFIG_BYTES", 9)
    with pytest.raises(CoderError, match="larger than 9 bytes"):
        read_config(path)


def test_sides_of_tensors_must_agree(tmp_path):
    sides = {"W": ("d", "n"), "b": ("n",)}
    assert set(need_all(TENSORS | {"more": torch.ones(1)}, sides, tmp_path)) == {"W", "b"}
    with pytest.raises(CoderError, match=r"W .* has shape \(3, 2\), expected \(d, n 3\)"):
        need_all(TENSORS | {"W": torch.ones(3, 2)}, sides, tmp_path)
    with pytest.raises(CoderError, match=r"W .* has shape \(2, 3\), expected \(d, d\)"):
        need_all(TENSORS, {"W": ("d", "d")}, tmp_path)
    with pytest.raises(CoderError, match="lacks the tensor c"):
        need_all(TENSORS, {"c": ("n",)}, tmp_path)
    for bad in (torch.nan, -torch.inf):
        with pytest.raises(CoderError, match="b of the sparse coder has values that are not"):
            need({"b": torch.tensor([1, bad])}, "b", tmp_path)
    assert need({"b": torch.zeros(0)}, "b", tmp_path).shape == (0,)


def test_coders_of_all_formats_are_found_in_natural_order(tmp_path):
    tiny.write_sparsify(tmp_path, "layers.10")
    tiny.write_sparsify(tmp_path, "layers.2")
    tiny.write_saelens(tmp_path / "lens")
    w = tiny.random_weights(8, 32, 0) | {"threshold": np.ones(32, dtype=np.float32)}
    (tmp_path / "gemma").mkdir()
    np.savez(tmp_path / "gemma" / "params.npz", **w)
    write(tmp_path / "other.safetensors")
    (tmp_path / "broken.pt").write_bytes(b"PK")
    found = [str(place.relative_to(tmp_path)) for place in sae.find_coders(tmp_path)]
    assert found == ["gemma", "layers.2", "layers.10", "lens"]
    assert sae.find_coders(tmp_path / "gemma" / "params.npz") == [tmp_path / "gemma"]
    assert sae.find_coders(tmp_path / "nowhere") == []


def test_the_hint_names_every_format(tmp_path):
    write(tmp_path / "other.safetensors")
    with pytest.raises(CoderError, match="no sparse coder that is read") as caught:
        sae.load_coder(tmp_path)
    assert all(f"{name} (" in caught.value.hint for name in sae.FORMATS)
    assert "neurons:LAYER" in caught.value.hint


@pytest.mark.parametrize("name", sorted(sae.FORMATS))
def test_no_format_takes_or_trips_over_odd_things(tmp_path, name):
    each = sae.FORMATS[name]
    places = [tmp_path, tmp_path / "nowhere", tmp_path / "nowhere.pt", tmp_path / "a.safetensors"]
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 40)
    for file in ("cfg.json", "config.json", "config.yaml", "hyperparams.json"):
        (tmp_path / file).write_bytes(b"\xff{[")
    for file in ("sae.safetensors", "params.npz", "ae.pt", "layer_0.safetensors"):
        (tmp_path / file).write_bytes(b"\x80\x04junk")
        places.append(tmp_path / file)
    assert not any(each.is_one(place) for place in places)
    for place in places:
        with pytest.raises(CoderError):
            each.load(place, {})


@pytest.mark.parametrize("tensor", ["encoder.weight", "W_dec", "W_skip"])
def test_numbers_that_are_not_finite_are_refused_in_older_formats_too(tmp_path, tensor):
    w = tiny.random_weights(8, 32, 0)
    skip = np.ones((8, 8), dtype=np.float32)
    changed = {"encoder.weight": w["W_enc"], "W_dec": w["W_dec"], "W_skip": skip}[tensor]
    changed[0, 0] = np.nan
    folder = tiny.write_sparsify(tmp_path, "layers.1", weights=w, W_skip=skip)
    with pytest.raises(CoderError, match=f"{tensor} of the sparse coder has values that are not"):
        sae.load_coder(folder)
