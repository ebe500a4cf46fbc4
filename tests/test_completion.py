"""What a shell offers when Tab is pressed: in a real bash, and by the variables that shells set."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lite_interp import fetch, manifests
from lite_interp.cli import completing
from lite_interp.explain import EXPLAINERS
from lite_interp.export.formats import FORMATS
from lite_interp.grid.conditions import GRIDS
from lite_interp.samplers import SAMPLERS
from lite_interp.score import SCORERS
from lite_interp.study.presets import PRESETS

HEAVY = ("torch", "transformers", "llama_cpp", "sentence_transformers", "sklearn")
VARIABLE = "_LITE_INTERP_COMPLETE"


def program(*arguments, heavy=False, **environment):
    """The command line as a program; gives its exit code and what it prints."""
    code = "import sys; from lite_interp.cli import main; sys.argv[0] = 'lite-interp'\n"
    if heavy:
        code += (
            "import atexit; atexit.register(lambda: print(sorted(sys.modules), file=sys.stderr))\n"
        )
    command = [sys.executable, "-c", f"{code}main()", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env)


def offered(shell, typed, **environment):
    """What a shell that asks as its script does is offered for the last word of a line."""
    words = typed.split(" ")
    variables = {
        "bash": {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": typed},
        "fish": {"_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    done = program(**{VARIABLE: f"complete_{shell}"}, **variables, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_options_and_values_are_offered(shell):
    out = offered(shell, "lite-interp s")
    assert all(name in out for name in ("show", "search", "score", "study"))
    assert "merge" not in out
    assert "--scorers" in offered(shell, "lite-interp score x.db --sc")
    assert "detection,embedding" in offered(shell, "lite-interp score x.db --scorers detection,em")
    assert "neuronpedia" in offered(shell, "lite-interp export x.db neu")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_of_shells_are_shown_and_installed_without_network(shell, tmp_path):
    done = program(**{VARIABLE: f"source_{shell}"})
    assert done.returncode == 0 and f"complete_{shell}" in done.stdout
    home = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = program("--show-completion", shell, **home)
    assert done.returncode == 0 and f"complete_{shell}" in done.stdout
    done = program("--install-completion", shell, **home)
    assert done.returncode == 0, done.stderr
    assert "completion installed in" in done.stdout
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(f"complete_{shell}" in path.read_text() for path in written)


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_a_real_bash_completes(tmp_path):
    binary = tmp_path / "lite-interp"
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -m lite_interp "$@"\n')
    binary.chmod(0o755)
    script = """
source <(_LITE_INTERP_COMPLETE=source_bash lite-interp)
complete -p lite-interp
try() {
    COMP_WORDS=("$@"); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); COMPREPLY=()
    _lite_interp_completion lite-interp
    echo "${COMPREPLY[*]}"
}
try lite-interp models qu
try lite-interp explain x.db --explainer be
try lite-interp explain x.db --sampler ''
try lite-interp show ./
"""
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, env=env, cwd=Path.cwd()
    )
    assert done.stderr == ""
    first, *rest = done.stdout.splitlines()
    # Where nothing is offered, bash offers files.
    assert "-o default -F _lite_interp_completion" in first
    assert rest == ["quantize", "best_of", " ".join(SAMPLERS), ""]


def test_nothing_heavy_is_loaded_to_complete():
    variables = {"COMP_CWORD": "3", VARIABLE: "complete_bash"}
    for typed in ("explain x.db --engine", "score x.db --scorers", "export x.db ", "study "):
        words = {"COMP_WORDS": f"lite-interp {typed}".replace(" ", "\n")}
        done = program(heavy=True, **variables, **words)
        assert done.returncode == 0
        loaded = done.stderr
        assert "typer" in loaded
        assert not [name for name in HEAVY if f"'{name}'" in loaded]


def test_what_is_offered_is_what_there_is(monkeypatch):
    assert tuple(PRESETS) == completing.PRESETS
    assert tuple(GRIDS) == completing.GRIDS
    assert completing.scorers("") == [*SCORERS, "all"]
    assert completing.explainers("") == list(EXPLAINERS)
    assert completing.samplers("") == list(SAMPLERS)
    assert completing.formats("") == list(FORMATS)
    known = manifests.load_manifests()
    assert completing.models("") == [each.name for each in known]
    assert completing.prompts("explain/p")[0].startswith("explain/p")
    assert "q4_0" in completing.quantisations("q4")
    monkeypatch.setattr(fetch, "installed", lambda manifest: None)
    for offer in (completing.engines, completing.embedders, completing.subjects):
        assert offer("") == []
    monkeypatch.setattr(fetch, "installed", lambda manifest: Path("here"))
    assert completing.engines("") == [each.name for each in known if "engine" in each.roles]
    assert completing.embedders("x") == []


def test_of_names_with_commas_the_last_is_completed_and_none_comes_twice():
    names = ("detection", "fuzzing", "embedding")
    assert completing.starting(names, "") == list(names)
    assert completing.starting(names, "d") == ["detection"]
    assert completing.starting(names, "detection,") == ["detection,fuzzing", "detection,embedding"]
    assert completing.starting(names, "fuzzing,detection,e") == ["fuzzing,detection,embedding"]
    assert completing.scorers("detection,a") == []
