"""The wheel holds what the program reads at run time, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Paths in a wheel built from this checkout; hatchling needs no network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.parametrize("folder", ["prompts", "models"])
def test_shipped_folders_are_whole(names, folder):
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert files
    assert {f"lite_interp/data/{path.relative_to(ROOT)}" for path in files} <= names


def test_demo_is_shipped(names):
    demo = [name for name in names if name.startswith("lite_interp/data/models/demo/")]
    assert any("corpus" in Path(name).name for name in demo)
    assert any(name.endswith(".safetensors") for name in demo), "no demo coder"


def test_nothing_else_is_shipped(names):
    tops = {name.split("/")[0].split("-")[0] for name in names}
    assert tops == {"lite_interp"}  # the package and its .dist-info
    assert not [name for name in names if "test" in name or name.endswith(".db")]
    assert any(name.endswith("licenses/LICENSE") for name in names)
