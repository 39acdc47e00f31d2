"""The committed notebooks as pages of the site: their text, code and outputs as they are, without running anything.

A hook of mkdocs: page(notebook) = its cells in order, figures as the pictures that lie in it (pictures(notebook)),
tables and token views as HTML, formulas as MathML, which browsers draw by themselves. No page needs a script.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "notebooks"
REPOSITORY = "https://github.com/subliminal-interp/interp/blob/main/notebooks"
BADGE = re.compile(r"\[!\[[^\]]*\]\([^)]*\)\]\(([^)]*)\)")
FORMULA = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
STYLING = re.compile(r'<style[^>]*>.*?</style>\s*| class="dataframe"| border="1"', re.DOTALL)
BLANK = re.compile(r"\n\s*\n")


def notebooks() -> list[Path]:
    """The committed notebooks in their order."""
    return sorted(FOLDER.glob("[0-9]*.ipynb"))


def cells(notebook: Path) -> list[dict[str, Any]]:
    """Its cells, each source and text as one string."""
    return [{**cell, "source": "".join(cell["source"])} for cell in json.loads(notebook.read_text())["cells"]]


def pictures(notebook: Path) -> dict[str, bytes]:
    """The PNG files of a notebook's figures, by name: of the notebook and the number of the cell that drew it."""
    return {
        _picture(notebook, index): base64.b64decode(output["data"]["image/png"])
        for index, cell in enumerate(cells(notebook))
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    }


def page(notebook: Path) -> str:
    """The Markdown of one notebook."""
    blocks = []
    for index, cell in enumerate(cells(notebook)):
        if cell["cell_type"] == "markdown":
            blocks.append(_text(cell["source"], notebook))
            continue
        blocks.append(f"```python\n{cell['source']}\n```")
        blocks += [_output(output, _picture(notebook, index)) for output in cell["outputs"]]
    return "\n\n".join(blocks) + "\n"


def mathml(formula: str) -> str:
    """A formula of LaTeX as a block of MathML."""
    from latex2mathml.converter import convert

    return f'<div class="formula">{convert(" ".join(formula.split()), display="block")}</div>'


def _picture(notebook: Path, cell: int) -> str:
    return f"{notebook.stem}-{cell}.png"


def _text(source: str, notebook: Path) -> str:
    """A cell's Markdown, its badge as links and its formulas as MathML."""
    source = BADGE.sub(rf"[Open in Colab](\1) · [the file]({REPOSITORY}/{notebook.name})", source)
    return FORMULA.sub(lambda found: mathml(found[1]), source)


def _output(output: dict[str, Any], picture: str) -> str:
    """An output in the richest form that needs no script."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![{_title(data)}]({picture})"
    if "text/html" in data:
        html = BLANK.sub("\n", STYLING.sub("", "".join(data["text/html"])).strip())
        return f'<div class="output">\n{html}\n</div>'
    return "```text\n" + "".join(data.get("text/plain", output.get("text", ""))).rstrip() + "\n```"


def _title(data: dict[str, Any]) -> str:
    """The title of a plot as plain text, for readers who do not see it."""
    title = data.get("application/vnd.plotly.v1+json", {}).get("layout", {}).get("title", {})
    return re.sub(r"<[^>]*>|[\[\]]", " ", title.get("text") or "figure").strip()


def on_files(files: Any, config: Any) -> Any:
    """Called by mkdocs once it knows the pages that are written by hand."""
    from mkdocs.structure.files import File

    for notebook in notebooks():
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=page(notebook)))
        for name, content in pictures(notebook).items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files
