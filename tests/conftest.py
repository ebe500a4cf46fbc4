"""What holds for every test: no network, the same examples each time, versions in the header."""

import os
import sqlite3
from importlib.metadata import version

# Before the first import of a library that reads them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",  # for tiny matrices more threads are slower, on a busy machine by far
)

import pytest
import pytest_socket
from hypothesis import settings
from tiny_browser import chromium_path

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

LIBRARIES = ("llama-cpp-python", "torch", "transformers", "sqlite-utils", "numpy", "typer")


def pytest_report_header():
    found = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"SQLite {sqlite3.sqlite_version}, {found}"


# In the options of pyproject.toml too; here it holds for imports and wide fixtures as well.
pytest_socket.disable_socket(allow_unix_socket=True)


@pytest.fixture(autouse=True)
def no_models_of_the_user(request, tmp_path_factory, monkeypatch):
    """A test sees the shipped manifests and no others, unless it needs a real model."""
    if request.node.get_closest_marker("slow"):
        return
    monkeypatch.setenv("LITE_INTERP_MODELS", str(tmp_path_factory.getbasetemp() / "models"))


@pytest.fixture(scope="module")  # no longer: while it drives, no other event loop can run
def browser():
    """Headless Chromium; what needs it is skipped where there is none."""
    driving = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium, or set CHROMIUM to one")
    with driving.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()
