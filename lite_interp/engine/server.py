"""An engine behind a server that already runs on this machine: look at it, test it, use it.

    URL ─read_address─▶ address ─▶ llama.cpp's server or vLLM's ─test─▶ ServerEngine

Nothing is started and nothing is fetched: this is for people who have such a server.
"""

from __future__ import annotations

from lite_interp.engine import EngineFailure, EngineSettings
from lite_interp.engine.llama_server import LlamaServer, is_llama_server
from lite_interp.engine.server_engine import ServerEngine
from lite_interp.engine.serving import Service
from lite_interp.engine.vllm_server import VllmServer, is_vllm
from lite_interp.engine.wire import Absent, Refusal, Unreachable, Wire, read_address
from lite_interp.errors import EngineError, one_line
from lite_interp.records import Sampling

TOLERANCE = 0.25
"""Nats by which two ways of asking a server for the same number may differ."""

_PROBE = "The sky is blue, and the grass is green."


def open_server(url: str, settings: EngineSettings, allow_remote: bool = False) -> ServerEngine:
    """Open an engine behind a server.

    Args:
        url: where it is, such as `http://127.0.0.1:8080`; user and password may stand in it.
        settings: `n_parallel` limits the requests sent side by side; all else is the server's.
        allow_remote: whether it may be another machine, to which corpus text is then sent.

    Raises:
        EngineError: not on this machine, not there, of another kind, or its numbers do not agree
            with each other.
    """
    address = read_address(url, allow_remote)
    wire = Wire(address, allow_remote)
    try:
        props = is_llama_server(wire)
        if props is not None:
            service: Service = LlamaServer(wire, props)
        else:
            entry = is_vllm(wire)
            if entry is None:
                raise EngineError(
                    f"this server is neither llama.cpp's nor vLLM's: {address}",
                    "start one: llama-server -m FILE.gguf",
                )
            service = VllmServer(wire, entry)
        return ServerEngine(wire, service, has_logprobs=_tested(service), settings=settings)
    except (Absent, Unreachable) as failure:
        wire.close()
        raise EngineError(
            f"no server answers at: {address}: {failure}",
            f"start one: llama-server -m FILE.gguf --port {address.port}",
        ) from failure
    except EngineFailure as failure:
        wire.close()
        raise EngineError(
            f"this server cannot be used: {address}: {failure}",
            "wait until its model is loaded, or use another version of it",
        ) from failure
    except BaseException:
        wire.close()
        raise


def _tested(service: Service) -> bool:
    """Hold that a server's numbers agree; whether it gives log-probabilities of a prompt.

    After a few words the likeliest token is asked for alone, with others, and as part of a
    prompt: a server that gives probabilities from after its sampling differs here.

    Raises:
        EngineError: they do not agree.
        EngineFailure: it does not give them.
    """
    line = service.vocabulary.beginning(_PROBE)
    has_logprobs = True
    n_tested = 0
    for n in range(1, min(len(line), 6), 2):
        begun = line[:n]
        likeliest = service.write(begun, Sampling(1), 0).tokens
        if not likeliest:
            continue
        n_tested += 1
        # In the company of another token it comes with the likeliest; alone, it is drawn.
        found = service.following(begun, [line[n], *likeliest]).values[likeliest[0]]
        alone = service.following(begun, likeliest).values[likeliest[0]]
        _agree(service, "the next token", alone, found)
        try:
            values, _ = service.spoken([*begun, *likeliest], n) if has_logprobs else ([], 0)
        except (EngineFailure, Refusal):
            has_logprobs = False
            continue
        for value in values:
            _agree(service, "a prompt", value, found)
    if not n_tested:
        raise EngineFailure("it ends a sentence before it begins")
    return has_logprobs


def _agree(service: Service, what: str, one: float, other: float) -> None:
    if not abs(one - other) <= TOLERANCE:
        raise EngineError(
            f"the log-probabilities that {one_line(service.facts.model)} gives of {what} "
            f"contradict each other: they differ by {abs(one - other):g}",
            "use the GGUF file itself, --engine FILE.gguf, or another version of the server",
        )
