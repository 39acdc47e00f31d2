"""Links that lead somewhere in the repository and on the site alike, and the pages that lie at its root.

A hook of mkdocs: in docs/ a page links to the notebook and to the list of public names that lie in the repository; on
the site the link leads to the page that is made of them (made(text)). CHANGELOG and CONTRIBUTING are pages, too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ROOT_PAGES = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Pages of the site by the file at the root of the repository that they show."""
NOTEBOOK = re.compile(r"\]\(\.\./((?:\.\./)*notebooks/\w+)\.ipynb")
ROOM = re.compile(r"\]\(\.\./((?:\.\./)*)interp/(\w+)/__init__\.pyi")


def made(text: str) -> str:
    """The Markdown of a page below docs/ with links to the pages that the site makes of what they name."""
    return ROOM.sub(r"](\1api/\2.md", NOTEBOOK.sub(r"](\1.md", text))


def on_files(files: Any, config: Any) -> Any:
    """Called by mkdocs once it knows the pages that are written by hand."""
    from mkdocs.structure.files import File

    for name, source in ROOT_PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page before it is made HTML."""
    return made(markdown)
