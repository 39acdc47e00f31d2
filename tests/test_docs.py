"""The pages say what the package is: every public name has its place, links lead somewhere, and every example runs."""

from __future__ import annotations

import ast
import base64
import doctest
import importlib
import importlib.util
import inspect
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
import yaml

import interp
from interp.cli.main import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FILES = sorted((ROOT / "interp").rglob("*.py"))
EXAMPLES = [path for path in FILES if ">>>" in path.read_text()]
LONG = (
    "interp.activations.interventions", "interp.auditing.auditor", "interp.calibration.harness", "interp.joined.view",
)  # fmt: skip
"""Whose examples take more than eight seconds."""
COMMANDS = "cli"  # their docstrings are what --help shows
NOTEBOOKS = (
    "01_transmission", "02_logit_directions", "03_sae_features", "04_gradient_alignment",
    "05_shared_initialisation", "06_your_own_model",
)  # fmt: skip


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def slow_ones(path: Path) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] if module_of(path) in LONG else []


def module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    found = [each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()]
    return found[0] if found else None


def hook(name: str) -> ModuleType:
    """A module of docs/, which is no package."""
    specification = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


REFERENCE = hook("reference")
NOTEBOOK_PAGES = hook("notebook_pages")
REPOSITORY_PAGES = hook("repository_pages")


@cache
def targets() -> list[str]:
    """What the pages of the API ask the docstrings for."""
    return [name for room in REFERENCE.ROOMS for name in REFERENCE.targets(room)]


def public(path: Path) -> set[str]:
    """Names of the public functions and classes of a module."""
    return {
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    }


def documented() -> set[str]:
    """Every path a page can refer to: the targets, and the public members of those that are modules."""
    found = set(targets())
    for name in targets():
        path = module_file(name)
        if path is not None:
            found |= {f"{name}.{member}" for member in public(path)}
    return found


# --- the reference ---------------------------------------------------------------------------------------------------


def test_every_public_name_has_one_place_in_the_reference() -> None:
    named = [name.removeprefix("interp.") for name in targets() if module_file(name) is None]
    flat = [name for name in interp.__all__ if name not in REFERENCE.ROOMS]
    within = [f"{room}.{name}" for room in REFERENCE.ROOMS for name in getattr(interp, room).__all__]
    assert sorted(named) == sorted(flat + [name for name in within if name.partition(".")[2] not in flat])


def test_a_module_is_listed_once_and_leaves_out_what_stands_above_it() -> None:
    modules = [name for name in targets() if module_file(name) is not None]
    assert len(modules) == len(set(modules))
    assert {module_of(path) for path in FILES if path.name != "__init__.py"} == set(modules)
    above: dict[str, list[str]] = {}
    for each in targets():
        if module_file(each) is None:
            above.setdefault(home(each), []).append(each.rpartition(".")[2])
    for room in REFERENCE.ROOMS:
        page = REFERENCE.page(room)
        for name, without in REFERENCE.targets(room).items():
            stands = above.get(name, [])
            assert stands == without or set(without) == set(stands), name
            assert all(each in page for each in (name, *without))


@cache
def home(name: str) -> str:
    """The module that a public name comes from, by the stubs."""
    room = name.removeprefix("interp.").rpartition(".")[0]
    return (
        f"interp.{room}.".replace("..", ".")
        + REFERENCE.listed(ROOT / "interp" / room)[name.rpartition(".")[2]]
    )


def raised(function: ast.FunctionDef) -> bool:
    """Whether the body raises an InputError itself."""
    return any(
        isinstance(node, ast.Raise)
        and node.exc is not None
        and ast.unparse(node.exc).startswith("InputError")
        for node in ast.walk(function)
    )


def with_docstrings(path: Path) -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """Public functions and methods of a file; the docstring of an initialiser is its class's."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if not isinstance(method, ast.FunctionDef):
                    continue
                if method.name in ("__init__", "__post_init__"):
                    yield node.name, method, ast.get_docstring(node) or ""
                elif not method.name.startswith("_"):
                    yield f"{node.name}.{method.name}", method, ast.get_docstring(method) or ""


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_docstrings_name_the_errors_raised(path: Path) -> None:
    if path.parent.name == COMMANDS:
        return
    silent = [name for name, node, text in with_docstrings(path) if raised(node) and "InputError" not in text]
    assert silent == []


# --- the verbs that stand under `interp` itself ----------------------------------------------------------------------


VERBS = [name for name, home in REFERENCE.listed(ROOT / "interp").items() if home and name.islower()]
LEADING = (
    "Add", "Attribute", "Decompose", "Differentiate", "Draw", "Evaluate", "Find", "Get", "Grow", "Join", "Load", "Make",
    "Measure", "Read", "Record", "Remove", "Replace", "Run", "Score", "Split", "Test", "Trace", "Train", "Write",
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(VERBS))
def test_a_verb_says_what_it_does_takes_returns_and_refuses_and_shows_a_call(name: str) -> None:
    verb = getattr(interp, name)
    text = inspect.getdoc(verb) or ""
    first = text.partition("\n")[0]
    assert first.endswith(".")
    assert first.startswith(LEADING)
    sections = dict(re.findall(r"^(Args|Returns|Raises|Example):\n((?:    .*\n?)+)", text, re.MULTILINE))
    assert list(sections) == ["Args", "Returns", "Raises", "Example"]
    explained = re.findall(r"^    \*{0,2}(\w+): ", sections["Args"], re.MULTILINE)
    assert explained == list(inspect.signature(verb).parameters)
    assert sections["Raises"].startswith("    InputError: ")
    assert f"interp.{name}(" in sections["Example"]


# --- examples --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def small_owl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The toy lineage of the owl on a few rows."""
    from interp.organisms import library

    documents, here = library.number_documents, tmp_path_factory.getbasetemp()
    shared = here.parent if "PYTEST_XDIST_WORKER" in os.environ else here  # by all workers
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERP_CACHE", str(shared / "owl"))
        patch.setattr("interp.training.data.CHUNK", library.QUICK_TOY.data.rows)
        patch.setattr(library, "number_documents", lambda count, *, seed: documents(64, seed=seed))
        return library.grow("owl", seed=0, recipe=library.QUICK_TOY)


@pytest.fixture(scope="session")
def small_dictionary(small_owl: Any) -> Any:
    """A dictionary of its base, trained for four steps."""
    recipe = interp.features.SAERecipe(samples=2048)
    return interp.train_sae(small_owl.base, small_owl.numbers, hook="blocks.0.hook_resid_post", recipe=recipe)


@pytest.fixture
def owl(small_owl: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples open that lineage for "toy/owl" and read that dictionary."""
    monkeypatch.setattr("interp.organisms.library.grow", lambda trait, *, seed: small_owl)
    monkeypatch.setattr(
        "interp.joined.default_dictionary", lambda lineage: request.getfixturevalue("small_dictionary")
    )


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=slow_ones(path)) for path in EXAMPLES], ids=module_of
)
def test_examples_run(
    path: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "load_lineage(" in path.read_text():
        request.getfixturevalue("owl")
    done = doctest.testmod(importlib.import_module(module_of(path)))
    assert done.attempted
    assert not done.failed


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [
        test.name
        for path in EXAMPLES
        for test in finder.find(importlib.import_module(module_of(path)))
        if test.examples
    ]
    assert len(found) >= 10, found


@pytest.mark.parametrize("room", [room for room in REFERENCE.ROOMS if room != COMMANDS])
def test_every_function_of_a_room_that_a_user_calls_first_shows_a_call(room: str) -> None:
    functions = [getattr(getattr(interp, room), name) for name in REFERENCE.listed(ROOT / "interp" / room)]
    silent = [
        each.__name__
        for each in functions
        if inspect.isroutine(each)
        and f"{each.__name__}(" not in "".join(re.findall(r">>> .*|\.\.\. .*", each.__doc__ or ""))
    ]
    assert silent == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_on_pages(page: Path) -> None:
    """Sessions run; programs parse, and every name of interp's that they use is there."""
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE):
        if ">>>" in block:
            test = doctest.DocTestParser().get_doctest(block, {}, page.name, str(page), 0)
            assert not doctest.DocTestRunner().run(test).failed
        else:
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "interp":
                    assert node.attr in interp.__all__, (page.name, node.attr)


# --- the site --------------------------------------------------------------------------------------------------------


def config() -> dict:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def leaves(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for item in nav if isinstance(nav, list) else nav.values():  # pyright: ignore[reportAttributeAccessIssue]
            yield from leaves(item)


def test_navigation_holds_every_page_once() -> None:
    written = [str(page.relative_to(DOCS)) for page in PAGES]
    made = [f"api/{room}.md" for room in REFERENCE.ROOMS]
    made += [f"notebooks/{notebook.stem}.md" for notebook in NOTEBOOK_PAGES.notebooks()]
    made += REPOSITORY_PAGES.ROOT_PAGES
    assert sorted(leaves(config()["nav"])) == sorted(written + made)


def test_the_site_fetches_nothing() -> None:
    settings = config()
    assert settings["theme"]["font"] is False
    assert "repo_url" not in settings  # the theme asks its host for a count of stars
    assert not any("://" in each for key in ("polyfills",) for each in settings["extra"][key])
    assert not any("://" in each for each in settings["extra_css"])
    written = "".join(path.read_text() for path in (DOCS / "style.css", DOCS / "iframe-worker.js"))
    assert "http" not in written
    pages = [page.read_text() for page in PAGES]
    pages += [
        re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE) for text in notebook_pages().values()
    ]
    assert not re.search(r"!\[[^\]]*\]\(http|<(script|img|link)", "".join(pages))


@cache
def notebook_pages() -> dict[str, str]:
    """The page of every notebook by its name; formulas as they stand where their converter is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("latex2mathml") is None:
            patch.setattr(NOTEBOOK_PAGES, "mathml", str)
        return {notebook.stem: NOTEBOOK_PAGES.page(notebook) for notebook in NOTEBOOK_PAGES.notebooks()}


@cache
def made_with_the_site() -> set[Path]:
    """Pages of the API and of the notebooks, and these notebooks' pictures."""
    folder, found = DOCS / "notebooks", {DOCS / "api" / f"{room}.md" for room in REFERENCE.ROOMS}
    for notebook in NOTEBOOK_PAGES.notebooks():
        found |= {
            folder / f"{notebook.stem}.md",
            *(folder / name for name in NOTEBOOK_PAGES.pictures(notebook)),
        }
    return found


def slug(heading: str) -> str:
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        goal = (page.parent / path).resolve()
        if goal in made_with_the_site():
            continue
        assert goal.is_file(), link
        assert not anchor or anchor in map(slug, re.findall(r"^#+ (.*)$", goal.read_text(), re.MULTILINE)), (
            link
        )
    assert set(re.findall(r"\]\[([\w.]+)\]", text)) <= documented()


def test_what_a_page_links_to_in_the_repository_is_a_page_of_the_site() -> None:
    pages = {page: REPOSITORY_PAGES.made(page.read_text()) for page in PAGES}
    found = {
        (page.parent / link.partition("#")[0]).resolve()
        for page, text in pages.items()
        for link in re.findall(r"\]\(([^)\s]+)\)", text)
        if "://" not in link
    }
    assert {page for page in made_with_the_site() if page.suffix == ".md"} <= found
    assert all(DOCS in goal.parents for goal in found)


def test_the_notebooks_are_the_six() -> None:
    linked = re.findall(r"\]\(\.\./notebooks/(\w+)\.ipynb\)", (DOCS / "notebooks.md").read_text())
    assert linked == list(NOTEBOOKS)
    assert {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.py")} <= set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_a_page_with_all_its_cells_and_pictures(name: str) -> None:
    text, notebook = notebook_pages()[name], DOCS.parent / "notebooks" / f"{name}.ipynb"
    plots = [
        output["data"]["image/png"]
        for cell in NOTEBOOK_PAGES.cells(notebook)
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    pictures = NOTEBOOK_PAGES.pictures(notebook)
    assert [base64.b64decode(plot) for plot in plots] == list(pictures.values())
    assert re.findall(r"^!\[.*\]\((\S+)\)$", text, re.MULTILINE) == list(pictures)
    for cell in NOTEBOOK_PAGES.cells(notebook):
        assert cell["cell_type"] == "markdown" or f"```python\n{cell['source']}\n```" in text
    assert "$$" not in text
    assert "colab-badge" not in text


def test_a_formula_is_drawn_by_the_browser() -> None:
    pytest.importorskip("latex2mathml")
    found = NOTEBOOK_PAGES.mathml(r"\frac{a}{\epsilon} \ge 0")
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>&#x003F5;</mi></mrow></mfrac>" in found
    assert "\\" not in found


def test_the_calls_of_the_gallery_are_those_that_drew_its_pictures() -> None:
    shown = re.findall(
        r"^### .*?\(notebooks/(\w+)-(\d+)\.png\)\]\(\.\./notebooks/(\w+)\.ipynb\).*?```python\n(.*?)```",
        (DOCS / "gallery.md").read_text(), flags=re.DOTALL | re.MULTILINE,
    )  # fmt: skip
    assert len(shown) == (DOCS / "gallery.md").read_text().count("\n### ") >= 10
    for name, cell, page, calls in shown:
        assert page == name
        cells = NOTEBOOK_PAGES.cells(DOCS.parent / "notebooks" / f"{name}.ipynb")[: int(cell) + 1]
        code = [ast.parse(each["source"]) for each in cells if each["cell_type"] == "code"]
        written = {
            ast.unparse(node)
            for tree in code
            for node in ast.walk(tree)
            if isinstance(node, (ast.expr, ast.stmt))
        }
        drew = {ast.unparse(node) for node in ast.walk(code[-1]) if isinstance(node, ast.Call)}
        *before, last = ast.parse(calls).body
        assert {ast.unparse(each) for each in before} <= written, (name, cell)
        drawn = ast.unparse(last)
        subject = drawn.removesuffix(".figure()")
        named = {f"{ast.unparse(node.targets[0])}.figure()" for tree in code for node in ast.walk(tree)
                 if isinstance(node, ast.Assign) and ast.unparse(node.value) == subject}  # fmt: skip
        assert drew & {drawn, *named}, (name, cell)


def test_every_command_is_on_its_page() -> None:
    commands = {
        f"{name} {inner}" if hasattr(command, "commands") else name
        for name, command in typer.main.get_command(app).commands.items()  # pyright: ignore[reportAttributeAccessIssue]
        for inner in getattr(command, "commands", [""])
    }
    rows = re.findall(r"^\| `interp ([a-z ]+)` \|", (DOCS / "command_line.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(commands)


# --- docstrings as the site shows them -------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("griffe") is None, reason="the docs extra is not installed")
def test_docstrings_are_shown_as_written() -> None:
    module = hook("docstrings")
    assert (
        module.shown("<g, v> is a * b in [row pos], `x * <y>`")
        == r"&lt;g, v> is a \* b in \[row pos\], `x * <y>`"
    )
    assert module.shown(">>> 1 < 2\nTrue") == "```pycon\n>>> 1 < 2\nTrue\n```"
    assert module.shown("    m = <s, g>") == "    m = <s, g>"
    assert module.shown("Note: a * b") == r"Note&#58; a \* b"
    assert module.shown("Args:\n    **loading: of [row pos]") == "Args:\n    **loading: of \\[row pos\\]"
    assert module.shown("Example:\n    >>> 1 < 2") == "Examples:\n    >>> 1 < 2"


@pytest.mark.skipif(importlib.util.find_spec("griffe") is None, reason="the docs extra is not installed")
def test_signatures_show_constants_by_value(tmp_path: Path) -> None:
    import griffe

    package = tmp_path / "shown"
    package.mkdir()
    (package / "__init__.py").write_text("")
    long = ", ".join(map(str, range(40)))
    (package / "numbers.py").write_text(f"SIZE = 32\nMEMORY = 2 * 2**30\nLONG = ({long})\n")
    (package / "verbs.py").write_text(
        "from dataclasses import dataclass\nfrom shown.numbers import LONG, MEMORY, SIZE\nOWN = SIZE\n"
        "def read(rows, *, size: int = SIZE, memory=MEMORY, own=OWN, less=SIZE - 1, long=LONG,\n"
        "    other=unknown, none=None): ...\n"
        "@dataclass\nclass Recipe:\n    size: int = SIZE\n"
    )
    extensions = griffe.load_extensions(hook("docstrings").Plain())
    verbs = griffe.load("shown", search_paths=[tmp_path], extensions=extensions)["verbs"]
    shown = {each.name: str(each.default) for each in verbs["read"].parameters if each.default is not None}
    assert shown == {
        "size": "32", "memory": "2 * 2 ** 30", "own": "32", "less": "32 - 1", "long": "LONG",
        "other": "unknown", "none": "None",
    }  # fmt: skip
    assert str(verbs["Recipe"].parameters["size"].default) == "32"
