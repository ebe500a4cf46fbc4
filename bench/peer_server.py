"""The other way to judge: lists of five windows, written as text by llama.cpp's own server.

    <peer's python> peer_server.py MODEL PORT SLOTS THREADS N_CTX

starts the server of the package xllamacpp; that package lives in an environment of its own, and
nothing here needs more than Python. `bench/engine_peer.py` imports the rest.

The prompt has the form that detection has elsewhere (an instruction, three solved examples of five
texts each, then the explanation and five numbered texts); its words are our own. A request ends at
the list's closing bracket, which spares the peer whatever a small model would write behind it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

VERSION = "2026.10.11549"
"""Of xllamacpp."""

N_TEXTS = 5
"""Windows in one prompt."""

LONGEST_ANSWER = 32
"""Tokens; a list of five has eleven."""

INSTRUCTION = """You check descriptions of what a unit inside a language model responds to.

You will be given one description and then some numbered text fragments. They were cut out of \
longer documents, so they can begin or end in the middle of a sentence. Decide for each \
whether it contains the thing described: 1 if it does, 0 if not. All of them may, or none.

Reply with one list in square brackets that holds a 0 or a 1 for every fragment, in their order, \
and with nothing else."""

SOLVED: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "weather that does damage, such as storms, floods and hail",
        (
            " had only just been mended when the gale in March took half of the roof off again,"
            " and the insurer, who had paid twice already, wrote that",
            " a second edition of the map, in which the three villages along the river are drawn"
            " at their right distances, was printed by the same firm in",
            " she put the kettle on and asked whether he still meant to sell the piano, because"
            " a teacher from the school had called about it twice",
            ", but the orchards on the lower slope were ruined by hailstones as large as walnuts,"
            " and there was no fruit to bring to the market that",
            " the committee will meet on the first Tuesday of each month, and members who cannot"
            " attend are asked to send their remarks to the secretary in",
        ),
        "[1,0,0,1,0]",
    ),
    (
        "instructions for preparing food",
        (
            " of the treaty, neither side was to keep more than forty ships in the strait, though"
            " both are known to have built a good many more",
            " is returned when the buffer has no room left; the caller should then wait until it"
            " is drained and try to write the same bytes again",
            " grew up next to the railway yard, where his father drove a crane, and learned to"
            " tell the engines apart by sound before he could read",
            " the two species are hard to tell apart in winter, but the smaller one has a paler"
            " throat and is seldom seen far away from the coast",
            ", which the court held to be a matter for the lower bench, so the appeal was turned"
            " down and the tenant had to leave the house by",
        ),
        "[0,0,0,0,0]",
    ),
    (
        "years and dates written in digits",
        (
            " the bridge was opened to carts on 14 May 1871 and to trams eleven years later, when"
            " the wooden deck had been replaced by one of iron",
            " released in 2009 as a free download, the program soon had more users than the one"
            " it was meant to replace, and its author left his job",
            ", who was born in 1932 as the youngest of seven children, remembered the winter when"
            " the lake froze over and people walked across it to church",
            " entries must reach us no later than 30.09.2016; those that come in after that day"
            " will be put aside and judged with those of the next round",
            " a review from 1998 lists over sixty papers on the subject, but only nine of them"
            " report how many patients had dropped out before the end of",
        ),
        "[1,1,1,1,1]",
    ),
)
"""(explanation, five texts, answer)."""


def question(explanation: str, texts: Sequence[str]) -> str:
    """The user's turn."""
    listed = "\n".join(f"Fragment {number}: {text}" for number, text in enumerate(texts))
    return f"Description: {explanation}\n\nFragments:\n\n{listed}\n"


def chat(explanation: str, texts: Sequence[str]) -> list[dict[str, str]]:
    """The whole chat; all but the last turn is the same for every request."""
    messages = [{"role": "system", "content": INSTRUCTION}]
    for solved, shown, answer in SOLVED:
        messages += [
            {"role": "user", "content": question(solved, shown)},
            {"role": "assistant", "content": answer},
        ]
    return [*messages, {"role": "user", "content": question(explanation, texts)}]


def judge(address: str, explanation: str, texts: Sequence[str]) -> dict[str, Any]:
    """One request: the answers (None if they cannot be read), the text, and tokens by kind."""
    body = {
        "messages": chat(explanation, texts),
        "temperature": 0,
        "max_tokens": LONGEST_ANSWER,
        "stop": ["]"],
        "cache_prompt": True,
    }
    reply = call(address, "/v1/chat/completions", body)
    choice = reply["choices"][0]
    text = choice["message"]["content"] or ""
    closed = text + "]" if choice["finish_reason"] == "stop" and "[" in text else text
    timings = reply["timings"]
    return {
        "answers": read_list(closed, len(texts)),
        "text": closed,
        "evaluated": timings["prompt_n"],
        "cached": timings["cache_n"],
        "written": timings["predicted_n"],
    }


def read_list(text: str, n: int) -> list[int] | None:
    """The first list in square brackets, if it holds exactly n zeros and ones; else None."""
    start = text.find("[")
    end = text.find("]", start)
    if start < 0 or end < 0:
        return None
    try:
        values = json.loads(text[start : end + 1])
    except json.JSONDecodeError:
        return None
    right = len(values) == n and all(value in (0, 1) for value in values)
    return [int(value) for value in values] if right else None


def call(address: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """One HTTP request with JSON in and out."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address + path, data, headers)
    # No proxy: the address is this machine's own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=600) as reply:
        return json.load(reply)


def prepare_environment(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The peer's Python, made and filled if it is missing, and what its build says of itself."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, stdout=sys.stderr)
    about = (
        "import json, xllamacpp as x;"
        "print(json.dumps([x.__version__, x.BUILD_INFO, x.get_system_info()]))"
    )
    ask = [str(python), "-c", about]
    found = subprocess.run(ask, capture_output=True, text=True)
    if found.returncode:
        install = [str(python), "-m", "pip", "install", f"xllamacpp=={VERSION}"]
        subprocess.run(install, check=True, stdout=sys.stderr)
        found = subprocess.run(ask, capture_output=True, text=True, check=True)
    version, build, system = json.loads(found.stdout.splitlines()[-1])
    return python, {"xllamacpp": version, **build, "system": system.strip(" |")}


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[str]:
    """A server's address; `{port}` in the command stands for a free port. Stopped afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    filled = [part.replace("{port}", str(port)) for part in command]
    with log.open("ab") as output:
        server = subprocess.Popen(filled, stdout=output, stderr=output)
        try:
            address = f"http://127.0.0.1:{port}"
            while not _is_ready(address):
                if server.poll() is not None:
                    raise RuntimeError(f"the server ended; its log ends:\n{_end(log)}")
                time.sleep(0.1)
            yield address
        finally:
            server.kill()
            server.wait()


def _is_ready(address: str) -> bool:
    try:
        return call(address, "/health")["status"] == "ok"
    except (urllib.error.URLError, ConnectionError):
        return False


def _end(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-1000:]


def prepare(
    environment: Path, binary: Path | None, model: Path, threads: int, n_ctx: int
) -> tuple[Callable[[int], list[str]], dict[str, Any]]:
    """How a server with so many slots is started, and what its build says of itself.

    Args:
        environment: folder of the peer's own environment.
        binary: a `llama-server` to use in its place.
        model: GGUF file.
        threads: for prompts and for writing.
        n_ctx: tokens of each slot.
    """
    if binary is None:
        python, versions = prepare_environment(environment)
        server = [str(python), __file__, str(model), "{port}"]
        return lambda slots: [*server, str(slots), str(threads), str(n_ctx)], versions
    told = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=True)
    versions = {"llama_server": (told.stderr + told.stdout).strip(), "system": "of --server"}
    options = f"--batch-size 512 --ubatch-size 512 --threads {threads} --threads-batch {threads}"
    fixed = [str(binary), "--model", str(model), "--host", "127.0.0.1", "--port", "{port}"]
    fixed += [*options.split(), "--no-ui", "--no-kv-unified"]
    return (
        lambda slots: [*fixed, "--parallel", str(slots), "--ctx-size", str(slots * n_ctx)],
        versions,
    )


def main() -> None:
    """Serve until killed."""
    import xllamacpp  # type: ignore[import-not-found]

    model, (port, slots, threads, n_ctx) = sys.argv[1], map(int, sys.argv[2:6])
    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.hostnames = ["127.0.0.1"]
    settings.port = port
    settings.n_parallel = slots
    settings.n_ctx = slots * n_ctx
    settings.n_batch = settings.n_ubatch = 512
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    settings.ui = False
    server = xllamacpp.Server(settings)
    print("serving at", server.listening_address, flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
