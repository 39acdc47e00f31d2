"""Each notebook is a percent-format .py; this runs it and writes the .ipynb beside it, plots as plotly JSON and as PNG.

    python -m notebooks.build [--check] [NAME ...]

A cell tagged "check" holds assertions on what the text says: it runs and is not written. `--check` writes nothing.
What is asserted of lineages that are grown here must hold on every kind of processor: another one rounds otherwise, so
that its lineages are others of the same recipe. Cell ids are their numbers and no times are kept, so that a rebuilt
notebook differs only where its results do.
"""

import argparse
import logging
import os
import time
from pathlib import Path
from typing import Any

from interp.core.runs import InputError, nearest, write_atomic

HERE = Path(__file__).parent
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
REPOSITORY = "subliminal-interp/interp"  # where the badges of the notebooks point
LONGEST = 1500  # seconds one cell may take, from an empty cache
log = logging.getLogger(__name__)


def main() -> None:
    """Build the notebooks of these names, or all of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="run them with their checks; write nothing")
    parser.add_argument("names", nargs="*", metavar="NAME")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = parser.parse_args()
    for source in chosen(given.names):
        began = time.perf_counter()
        if given.check:
            run(source)
        else:
            build(source)
        log.info("%s: %.0f s", source.stem, time.perf_counter() - began)


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


def read(source: Path, *, checks: bool = False) -> Any:
    """The notebook of a percent-format file, without outputs, and without the cells that check it unless asked for."""
    import jupytext

    notebook = jupytext.read(source)
    notebook.metadata = {**KERNEL, "language_info": {"name": "python"}}
    shown = [cell for cell in notebook.cells if not _checks(cell)]
    notebook.cells = notebook.cells if checks else shown
    for index, cell in enumerate(shown):
        cell.id, cell.metadata = f"cell-{index}", {}
    return notebook


def _checks(cell: Any) -> bool:
    """Whether a cell is none that readers see."""
    return "check" in cell.metadata.get("tags", ())


def run(source: Path, *, pictures: bool = False) -> Any:
    """The notebook, executed from its folder with what checks it; an error of a cell is raised as it is."""
    from nbclient import NotebookClient

    notebook = read(source, checks=True)
    drawn = "plotly_mimetype+png" if pictures else "plotly_mimetype"
    os.environ.update(PLOTLY_RENDERER=drawn, TQDM_DISABLE="1", OMP_NUM_THREADS="1")
    NotebookClient(notebook, timeout=LONGEST, resources={"metadata": {"path": str(HERE)}}).execute()
    return notebook


def build(source: Path) -> Path:
    """Run one notebook and write it with its outputs."""
    import nbformat

    notebook = run(source, pictures=True)
    notebook.metadata.pop("widgets", None)
    notebook.cells = [cell for cell in notebook.cells if not _checks(cell)]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, start=1):
        cell.metadata, cell.execution_count = {}, count
        cell.outputs[:] = [output for output in cell.outputs if not _passing(output)]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    target = source.with_suffix(".ipynb")
    write_atomic(target, nbformat.writes(notebook) + "\n")
    return target


def _passing(output: Any) -> bool:
    """Whether an output is of the run and not of its result: standard error, or a progress bar."""
    stderr = output.output_type == "stream" and output.name == "stderr"
    return stderr or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


if __name__ == "__main__":
    main()
