"""Imports point down, `--help` loads no heavy library, and things stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lite_interp"
HEAVY = {"torch", "transformers", "llama_cpp", "sentence_transformers", "sklearn", "scipy"}

# A module imports only from the rows above its own. Every module stands in one row.
LAYERS = [
    "errors ids records codec firing_codec data migrations",  # words: no imports of ours
    # One job each.
    "stats render manifests prompts local_model transport hookpoints documents terminal tables"
    " choices parts anonymizing",
    "rates sequential calibration correlations details products ways score_lines",
    "db",  # the results file
    "engine",  # llama.cpp
    "subject tokenizer sae embedder fetch",  # models
    "windows cost sheets lens tallies steering window_index fit shelf",
    "negatives measures reservoir cofiring",
    "corpus cache samplers score",  # the method: records in, records out
    "explain",  # tries what it writes as a scorer does
    "judging oracle_rules",
    "study stages scoring detailing analysis caching",  # where computing meets storing
    "agreement choosing compare raters",
    "loading",
    "tools reopening unexplained",
    "intervening oracles outside",
    "explain_pipeline score_pipeline search text_firings",
    "pipeline",  # a whole command
    "view overview list_page plain estimate planning doctor coder_check loss requantize",
    "report",  # pages
    "annotate",
    "serve",
    "demo grid export datasette_metadata",
    "merge share",
    "cli",
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names.split()}

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path.relative_to(PACKAGE).parts[0][:2] != "__"]
MAX_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 350, 60, 7


def shown(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def module_name(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Names right under `lite_interp` that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("lite_interp.")}


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_imports_point_down(path):
    name = module_name(path)
    assert name in RANK, f"give {name} a row in LAYERS"
    for other in imported(path) - {name, "__version__"}:
        assert other in RANK, f"give {other} a row in LAYERS"
        assert RANK[other] < RANK[name], f"{name} may not import {other}"


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_modules_and_functions_stay_small(path):
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= MAX_LINES
    for function in functions(path):
        n_lines = function.end_lineno - function.lineno + 1
        assert n_lines <= MAX_FUNCTION_LINES, function.name
        if module_name(path) != "cli":  # there, a parameter is an option
            assert len(parameters(function)) <= MAX_PARAMETERS, function.name


def test_help_loads_no_heavy_library():
    code = f"""
import sys
from lite_interp.cli import main
sys.argv = ["lite-interp", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("loaded:", sorted({HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("loaded: []"), done.stdout[-200:]
