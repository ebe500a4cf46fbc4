"""Sparse coders that are known and not read are refused with the reason."""

import json

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file

from lite_interp import sae
from lite_interp.errors import CoderError
from lite_interp.sae.refused import reason_against


def write_temporal(folder):
    folder.mkdir(parents=True)
    (folder / "conf.yaml").write_text("sae:\n  width: 32\n")
    names = ("D", "E", "attn_layers.0.q_target.weight", "attn_layers.0.c_proj.weight")
    tensors = {name: torch.zeros(8, 8) for name in names} | {"b": torch.zeros(8)}
    save_file(tensors, folder / "latest_ckpt.safetensors")
    return folder / "latest_ckpt.safetensors"


def write_hook_z(folder):
    folder.mkdir(parents=True)
    path = folder / "gpt2-small_L5_Hcat_z_lr1.pt"
    weights = tiny.random_weights(12, 48, 0)
    torch.save({name: torch.from_numpy(array) for name, array in weights.items()}, path)
    config = {"act_size": 12, "dict_size": 48, "act_name": "blocks.5.attn.hook_z"}
    path.with_name(f"{path.stem}_cfg.json").write_text(json.dumps(config))
    return path


BAD = {"temporal": (write_temporal, "whole sequences"), "hook_z": (write_hook_z, "hook_z")}


@pytest.mark.parametrize(("write", "message"), BAD.values(), ids=BAD)
def test_the_reason_names_the_file(tmp_path, write, message):
    path = write(tmp_path / "any name")
    error = reason_against(path)
    assert message in str(error)
    assert path.name in str(error)
    assert error.hint
    assert "\n" not in str(error)


@pytest.mark.parametrize(("write", "message"), BAD.values(), ids=BAD)
def test_no_format_takes_them_for_its_own(tmp_path, write, message):
    path = write(tmp_path / "any name")
    for name, each in sae.FORMATS.items():
        for place in (path, path.parent, tmp_path):
            assert not each.is_one(place), name


@pytest.mark.parametrize(("write", "message"), BAD.values(), ids=BAD)
def test_whoever_loads_them_is_told(tmp_path, write, message):
    path = write(tmp_path / "any name")
    for place in (path, path.parent, tmp_path):
        with pytest.raises(CoderError, match=message):
            sae.load_coder(place)


def test_nothing_is_said_against_others(tmp_path):
    saelens = tiny.write_saelens(tmp_path / "saelens")
    assert reason_against(saelens / "sae_weights.safetensors") is None
    path = write_hook_z(tmp_path / "z")
    path.with_name(f"{path.stem}_cfg.json").unlink()
    assert reason_against(path) is None
    for odd in (tmp_path / "nowhere.pt", tmp_path, saelens / "cfg.json"):
        assert reason_against(odd) is None
    np.savez(tmp_path / "odd.npz", np.zeros(3))
    assert reason_against(tmp_path / "odd.npz") is None
