"""The package as a whole: lazy, documented, small-grained, importing one way, and type-checked under these tests."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
import subprocess
import symtable
import sys
import tomllib
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
    assert set(ours.split()) == {"interp", "interp.core", "interp.core.faces"}


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


ROOMS = sorted(path.parent.name for path in (ROOT / "interp").glob("*/__init__.pyi"))


def faces() -> Iterator[tuple[str, Any, str]]:
    """Every public name: where it is listed, the package that lists it, and its name there."""
    for package in (interp, *(getattr(interp, room) for room in ROOMS)):
        for name in package.__all__:
            yield f"{package.__name__}.{name}", package, name


@pytest.mark.parametrize(("path", "package", "name"), list(faces()))
def test_public_names_exist_and_are_documented(path: str, package: Any, name: str) -> None:
    thing = getattr(package, name)
    assert inspect.getdoc(thing) or not (inspect.isroutine(thing) or inspect.isclass(thing)), path
    assert inspect.ismodule(thing) == (package is interp and name in ROOMS), path
    if inspect.isfunction(thing) or inspect.isclass(
        thing
    ):  # listed from its home, not from where it is imported
        stub = Path(package.__file__).with_suffix(".pyi").read_text()
        home = thing.__module__.removeprefix(f"{package.__name__}.")
        assert re.search(rf"from \.{home} import[^)]*\b{name} as {name}\b", stub), (path, home)
    assert name in dir(package)


def test_a_public_name_is_one_thing_wherever_it_is_listed() -> None:
    found: dict[str, set[int]] = {}
    for _, package, name in faces():
        found.setdefault(name, set()).add(id(getattr(package, name)))
    assert [name for name, things in found.items() if len(things) > 1] == []


def test_no_public_function_or_class_has_two_homes() -> None:
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(relative(path))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_no_public_name_is_that_of_a_module_beside_it() -> None:
    """Importing the module would put it in the place of the name."""
    for room in ROOMS:
        beside = {path.stem for path in (ROOT / "interp" / room).iterdir()}
        assert not beside & set(getattr(interp, room).__all__), room


def test_names_of_the_version_before_are_where_the_changelog_says() -> None:
    lines = re.findall(
        r"^\| `interp\.(\w+)` \| (`\w+`.*) \|$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    listed = [(room, name) for room, names in lines for name in re.findall(r"`(\w+)`", names)]
    assert len(listed) == 75
    assert [name for room, name in listed if name not in getattr(interp, room).__all__] == []
    assert [name for _, name in listed if name in interp.__all__] == []


def test_every_room_is_public() -> None:
    rooms = {path.parent.name for path in (ROOT / "interp").glob("*/__init__.py")}
    assert sorted(rooms) == ROOMS
    assert rooms <= set(interp.__all__)


def test_a_typo_offers_the_nearest_name_here_or_in_a_room() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'atribute'; it has .*attribute"):
        interp.__getattr__("atribute")
    with pytest.raises(AttributeError, match=r"no attribute 'laddr'; it has gradients\.ladder"):
        interp.__getattr__("laddr")
    with pytest.raises(AttributeError, match=r"no attribute 'zzzq'; it has what dir\(interp\) lists"):
        interp.__getattr__("zzzq")


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


@pytest.mark.parametrize(
    "path", sorted([*ROOT.glob("analyses/*.py"), *ROOT.glob("notebooks/[0-9]*.py")]), ids=str
)
def test_analyses_and_notebooks_use_the_public_face_alone(path: Path) -> None:
    tree = ast.parse(path.read_text())
    deep = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if (isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "interp")
        or (isinstance(node, ast.Import) and any(alias.name.startswith("interp.") for alias in node.names))
    ]
    assert deep == []
    for node in ast.walk(tree):  # every interp.room.name is listed
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {
            f"interp.{room}" for room in ROOMS
        }:
            assert node.attr in getattr(interp, ast.unparse(node.value).partition(".")[2]).__all__, node.attr


def test_every_result_shows_itself_alike() -> None:
    """What has a figure has a frame, notes, one line and a small table."""
    results = []
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and any(
                getattr(each, "name", "") == "figure" for each in node.body
            ):
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                results.append(getattr(importlib.import_module(module), node.name))
    assert len(results) >= 12
    for result in results:
        for name in ("frame", "notes", "figure"):
            assert hasattr(result, name) or name in result.__dataclass_fields__, (result, name)
        assert "__repr__" in vars(result), result
        assert result._repr_html_ is not object, result


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


def test_every_name_that_code_reads_is_defined() -> None:
    """Neither linter nor type checker says so here: both take the words of shapes for names."""
    undefined = []
    for path in [*FILES, *sorted(ROOT.glob("analyses/*.py")), *sorted(ROOT.glob("benchmarks/*.py"))]:
        module = symtable.symtable(path.read_text(), str(path), "exec")
        known = {each.get_name() for each in module.get_symbols() if each.is_assigned() or each.is_imported()}
        tables = [module]
        while tables:
            table = tables.pop()
            tables += table.get_children()
            undefined += [
                f"{relative(path)}:{table.get_lineno()}: {each.get_name()}"
                for each in table.get_symbols()
                if each.is_global() and each.is_referenced() and not (each.is_parameter() or each.is_local())
                if each.get_name() not in known | set(dir(builtins)) | {"__file__"}
            ]
    assert undefined == []


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


def test_the_page_for_contributors_draws_the_house_as_it_stands() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    drawn = re.findall(r"^  (\w+)/ ", page, flags=re.MULTILINE)
    assert sorted(drawn) == ROOMS
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0][
        "layers"
    ]
    chain = re.search(r"^    core <- .*?(?=\n\n)", page, flags=re.MULTILINE | re.DOTALL)
    assert chain is not None
    told = [set(re.findall(r"\w+", part)) for part in chain.group(0).split("<-")]
    assert told == [set(re.findall(r"\w+", layer)) for layer in reversed(layers)]
    rank = {room: index for index, part in enumerate(told) for room in part}
    assert [rank[room] for room in drawn] == sorted(rank[room] for room in drawn)


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
