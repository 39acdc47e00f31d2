"""The package as a whole: lazy, documented, small-grained, importing one way, and type-checked under these tests."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import TypeCheckError

import interp

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "interp").rglob("*.py"))
FORBIDDEN = {
    "shows a figure": r"\.show\(",
    "prints": r"(?m)^\s*print\(",
    "reads code or pickles": r"pickle\.load|torch\.load|weights_only\s*=\s*False|trust_remote_code\s*=\s*True",
    "unfinished": r"TODO|FIXME|raise NotImplementedError",
    "deprecated seam": r"\bHookedTransformer\b",
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


# --- laziness --------------------------------------------------------------------------------------------------------


def test_import_pulls_in_nothing_heavy() -> None:
    loaded = python(
        "import sys, interp; dir(interp); print(*{name.split('.')[0] for name in sys.modules})"
    ).split()
    third_party = set(loaded) - set(sys.stdlib_module_names) - {"interp"}
    assert not third_party & {
        "torch",
        "transformer_lens",
        "transformers",
        "numpy",
        "pandas",
        "plotly",
        "scipy",
    }
    assert interp.__name__ == "interp"


def test_import_runs_few_files() -> None:
    ours = python(
        "import sys, interp; print(*[name for name in sys.modules if name.split('.')[0] == 'interp'])"
    )
    assert ours == "interp"


@pytest.mark.parametrize("module", ["interp.core.runs", "interp.figures"])
def test_run_folders_and_figures_need_no_torch(module: str) -> None:
    assert python(f"import sys, {module}; print('torch' in sys.modules)") == "False"


def test_command_line_help_needs_no_torch() -> None:
    assert python("import sys, interp.cli.main; print('torch' in sys.modules)") == "False"


def test_nothing_happens_at_import(tmp_path: Path) -> None:
    code = (
        "import os, torch, random, plotly.io as pio; os.chdir(%r);"
        "state = lambda: (torch.initial_seed(), random.getstate(), pio.templates.default, os.listdir('.'));"
        "before = state(); import interp; [getattr(interp, name) for name in interp.__all__]; print(before == state())"
    )
    assert python(f"import sys; sys.path.insert(0, {str(ROOT)!r});" + code % str(tmp_path)) == "True"


# --- public names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", interp.__all__)
def test_public_names_exist_and_are_documented(name: str) -> None:
    thing = getattr(interp, name)
    assert callable(thing)
    assert inspect.getdoc(thing)
    assert name in dir(interp)


def test_the_lists_of_public_names_agree() -> None:
    tree = ast.parse((ROOT / "interp" / "__init__.py").read_text())
    typed = {
        (node.module, alias.name)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = {(module, name) for module, names in interp._WHERE.items() for name in names}
    assert typed == lazy
    assert sorted(interp.__all__) == sorted(name for _, name in lazy)


def test_a_typo_lists_what_exists() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'atribute'; it has .*attribute"):
        interp.__getattr__("atribute")


def test_every_public_function_and_class_is_documented() -> None:
    missing = [
        f"{relative(path)}:{node.name}"
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert missing == []


# --- house numbers ---------------------------------------------------------------------------------------------------


def test_files_are_short_and_say_what_they_hold() -> None:
    assert [relative(path) for path in FILES if path.read_text().count("\n") > 400] == []
    assert [relative(path) for path in FILES if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_functions_are_short_with_few_parameters() -> None:
    long, wide = [], []
    for path in FILES:
        for node in functions(path):
            counted = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if (node.end_lineno or node.lineno) - node.lineno + 1 > 60:
                long.append(f"{relative(path)}:{node.name}")
            commands = path.parent.name == "cli"  # a command's parameters are its flags
            if len(counted) > 8 and not commands:
                wide.append(f"{relative(path)}:{node.name}")
    assert (long, wide) == ([], [])


@pytest.mark.parametrize("habit", FORBIDDEN)
def test_habits_the_package_does_without(habit: str) -> None:
    found = [
        f"{relative(path)}: {match.group(0).strip()}"
        for path in FILES
        for match in re.finditer(FORBIDDEN[habit], path.read_text())
    ]
    assert found == []


def test_dataclasses_are_frozen() -> None:
    thawed = [
        f"{relative(path)}:{node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
        if "dataclass" in ast.unparse(decorator) and "frozen=True" not in ast.unparse(decorator)
    ]
    assert thawed == []


# --- architecture ----------------------------------------------------------------------------------------------------


def test_imports_point_one_way() -> None:
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as c; c(['--no-cache'])",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


def test_nothing_outside_the_seam_reaches_behind_it() -> None:
    """The network, its adapters and what holds them are the seam's: the rest asks `LanguageModel`."""
    behind = re.compile(r"\.(hf|backbone|peft)\b")
    reaches = [
        f"{relative(path)}: {line.strip()}"
        for path in FILES
        if "models" not in path.relative_to(ROOT / "interp").parts[:1]
        for line in path.read_text().splitlines()
        if behind.search(line)
    ]
    assert reaches == []


# --- the checks these tests themselves run under ----------------------------------------------------------------------


def test_calls_into_the_package_are_type_checked() -> None:
    from interp.core.runs import nearest

    with pytest.raises(TypeCheckError, match="parameter name"):
        nearest(3, ["a"])  # pyright: ignore[reportArgumentType]


def test_functions_within_functions_are_type_checked_each_time_they_are_defined() -> None:
    from tests.typecheck import checked, decorated

    def make(added: int) -> Any:
        def plus(number: int) -> int:
            return number + added

        return decorated(plus, typechecker=checked)

    one, two = make(1), make(2)
    assert (one(1), two(1)) == (2, 3)
    for each in (one, two):
        with pytest.raises(TypeCheckError, match="parameter number"):
            each("1")


def test_shapes_are_checked() -> None:
    import torch

    from interp.training.sampling import decoded

    with pytest.raises(TypeCheckError):
        decoded(None, torch.zeros(3, dtype=torch.long))


@pytest.mark.filterwarnings("ignore:A test tried to use socket")
def test_the_network_is_blocked() -> None:
    import socket

    from pytest_socket import SocketBlockedError

    with pytest.raises(SocketBlockedError):
        socket.socket(socket.AF_INET, socket.SOCK_STREAM)
