"""The pages of the API, one per room, made from the stubs that list the public names: nothing is listed twice.

A hook of mkdocs: page(room) = what the room is, its public names (under `interp` where they are there), its modules.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent.parent / "interp"
ROOMS = (
    "prompts", "models", "measures", "activations", "training", "evaluation", "logits", "features", "gradients",
    "joined", "organisms", "hypotheses", "experiment", "auditing", "discovery", "studies", "calibration", "report",
    "figures", "stats", "core", "cli",
)  # fmt: skip


@cache
def listed(folder: Path) -> dict[str, str]:
    """The public names of a package and the module each is in, as its stub has them."""
    tree = ast.parse((folder / "__init__.pyi").read_text())
    return {
        alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def modules(room: str) -> list[str]:
    """Every module of a room but the packages themselves, as dotted paths below `interp`."""
    found = (path.relative_to(PACKAGE).with_suffix("") for path in (PACKAGE / room).rglob("*.py"))
    return sorted(".".join(path.parts) for path in found if path.name != "__init__")


def targets(room: str) -> dict[str, list[str]]:
    """What the page of a room asks the docstrings for, each with the names to leave out because they stand above."""
    flat = listed(PACKAGE)
    above: dict[str, list[str]] = {}
    found: dict[str, list[str]] = {}
    homes = {name: f"{room}.{module}" for name, module in listed(PACKAGE / room).items()}
    homes |= {name: module for name, module in flat.items() if module.partition(".")[0] == room}
    for name, module in homes.items():
        above.setdefault(module, []).append(name)
        found[f"interp.{name}" if name in flat else f"interp.{room}.{name}"] = []
    return found | {f"interp.{module}": above.get(module, []) for module in modules(room)}


def page(room: str) -> str:
    """The Markdown of one page."""
    blocks = [
        f"# {room.capitalize()}",
        f"::: interp.{room}\n    options: {{members: false, show_root_heading: false}}",
    ]
    for name, without in targets(room).items():
        if name == f"interp.{modules(room)[0]}":
            blocks.append(
                "## Modules\n\nWhat lies below the public names; stable in meaning, less so in signature."
            )
        hidden = f'\n    options: {{filters: ["!^_", "!^({"|".join(without)})$"]}}' if without else ""
        blocks.append(f"::: {name}{hidden}")
    return "\n\n".join(blocks) + "\n"


def on_files(files: Any, config: Any) -> Any:
    """Called by mkdocs once it knows the pages that are written by hand."""
    from mkdocs.structure.files import File

    for room in ROOMS:
        files.append(File.generated(config, f"api/{room}.md", content=page(room)))
    return files
