"""Each notebook is a percent-format .py; this runs it and writes the .ipynb beside it, plots as plotly JSON and as PNG.

    python -m notebooks.build [NAME ...]

Cell ids are their numbers and no times are kept, so that a rebuilt notebook differs only where its results do.
"""

import argparse
import logging
import os
import time
from pathlib import Path
from typing import Any

from interp.core.runs import InputError, nearest, write_atomic

HERE = Path(__file__).parent
RENDERER = "plotly_mimetype+png"
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
REPOSITORY = "subliminal-interp/interp"  # where the badges of the notebooks point
LONGEST = 900  # seconds one cell may take, from an empty cache
log = logging.getLogger(__name__)


def main() -> None:
    """Build the notebooks of these names, or all of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for source in chosen(parser.parse_args().names):
        began = time.perf_counter()
        target = build(source)
        log.info("%s: %.0f s, %d kB", target.name, time.perf_counter() - began, target.stat().st_size // 1000)


def sources() -> list[Path]:
    """The notebooks in their order."""
    return sorted(HERE.glob("[0-9]*.py"))


def chosen(names: list[str]) -> list[Path]:
    """The notebooks of these names, all without any; InputError with the nearest for one that is not there."""
    known = {path.stem: path for path in sources()}
    for name in names:
        if name not in known:
            raise InputError(f"notebook {nearest(name, known)}; pass one of notebooks/*.py")
    return [known[name] for name in names or known]


def read(source: Path) -> Any:
    """The notebook of a percent-format file, with numbered cells and without outputs."""
    import jupytext

    notebook = jupytext.read(source)
    notebook.metadata = {**KERNEL, "language_info": {"name": "python"}}
    for index, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{index}", {}
    return notebook


def build(source: Path) -> Path:
    """Run one notebook from its folder and write it with its outputs; an error of a cell is raised as it is."""
    import nbformat
    from nbclient import NotebookClient

    notebook = read(source)
    os.environ.update(PLOTLY_RENDERER=RENDERER, TQDM_DISABLE="1", OMP_NUM_THREADS="1")
    NotebookClient(notebook, timeout=LONGEST, resources={"metadata": {"path": str(HERE)}}).execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata = {}
        cell.get("outputs", [])[:] = [output for output in cell.get("outputs", []) if not _passing(output)]
    target = source.with_suffix(".ipynb")
    write_atomic(target, nbformat.writes(notebook) + "\n")
    return target


def _passing(output: Any) -> bool:
    """Whether an output is of the run and not of its result: standard error, or a progress bar."""
    stderr = output.output_type == "stream" and output.name == "stderr"
    return stderr or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


if __name__ == "__main__":
    main()
