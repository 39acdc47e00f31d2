"""Digests, atomic files, the cache, and run folders that survive being killed."""

from __future__ import annotations

import dataclasses
import enum
import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from hypothesis import given, settings, strategies as st

from interp.core import provenance
from interp.core.content import json_text, jsonable
from interp.core.pages import figure_page, page_drawing, page_fragment, pictures
from interp.core.provenance import BROWSERS, doctor, git_state
from interp.core.runs import Cache, InputError, Run, atomic_folder, digest, nearest, write_atomic
from interp.logits.direction import LogitDirection


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass(frozen=True)
class Knob:
    size: int
    label: str = dataclasses.field(default="", compare=False)


class Marked:
    fingerprint = "abc"


def open_run(folder: Path, **arguments: Any) -> Run:
    return Run.open(folder, command="demo", arguments=arguments, defaults={"seeds": [0], "quick": False})


def files(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found.pop("run.json", None)
    return found


# --- nearest ---------------------------------------------------------------------------------------------------------


def test_nearest_offers_the_close_names() -> None:
    assert nearest("ovl", ["owl", "cat", "dog"]) == "'ovl' is unknown; nearest: owl"


def test_nearest_lists_what_exists_when_nothing_is_close() -> None:
    assert nearest("xyz", ["owl", "cat"]) == "'xyz' is unknown; known: cat, owl"
    assert nearest("xyz", []) == "'xyz' is unknown; known: none"


# --- digest ----------------------------------------------------------------------------------------------------------

DIFFERENT = [
    None,
    True,
    1,
    1.0,
    "1",
    b"1",
    [1],
    [[1]],
    [1, 2],
    [12],
    ["a", "b"],
    ["ab"],
    {"a": 1},
    {1},
    Colour.RED,
    Colour.BLUE,
    Knob(1),
    Knob(2),
    torch.zeros(2),
    torch.zeros(1, 2),
    torch.zeros(2, dtype=torch.bfloat16),
    torch.zeros(4, dtype=torch.bfloat16),
    np.zeros(2, dtype=np.float32),
    Marked(),
]


def test_digest_tells_values_types_and_structures_apart() -> None:
    keys = [digest(value) for value in DIFFERENT]
    assert len(set(keys)) == len(DIFFERENT)
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)


def test_digest_is_a_function_of_content_only() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest((1, 2)) == digest([1, 2]) == digest(range(1, 3))
    assert digest(Path("a/b")) == digest("a/b")
    assert digest(Knob(1, label="x")) == digest(Knob(1, label="y"))
    grid = torch.arange(6.0).reshape(2, 3)
    assert digest(grid.T) == digest(grid.T.contiguous()) != digest(grid)
    assert digest(np.asfortranarray(grid.numpy())) == digest(grid.numpy())


def test_digest_takes_a_scalar_tensor() -> None:
    assert digest(torch.tensor(1.0)) != digest(torch.tensor(2.0))


def test_digest_is_the_same_in_another_process() -> None:
    code = "from interp.core.runs import digest; print(digest('a', 1, 2.5, {'x': {3, 4}, 'y': None}))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == digest("a", 1, 2.5, {"x": {3, 4}, "y": None})


def test_digest_refuses_what_has_no_content() -> None:
    with pytest.raises(TypeError, match="cannot digest a function"):
        digest(files)
    with pytest.raises(TypeError, match="cannot digest a ndarray"):
        digest(np.array([object()]))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(plain, plain)
def test_digest_agrees_with_json_equality(first: Any, second: Any) -> None:
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (digest(first) == digest(second)) == same


# --- JSON ------------------------------------------------------------------------------------------------------------


def test_jsonable_makes_everything_plain() -> None:
    value = {
        "a": Path("x"),
        "b": np.float32(0.5),
        "c": torch.tensor([1, 2]),
        "d": (1, float("nan")),
        5: Knob(3),
    }
    expected = {"a": "x", "b": 0.5, "c": [1, 2], "d": [1, None], "5": {"size": 3, "label": ""}}
    assert jsonable(value) == expected
    assert json.loads(json_text({"p": float("inf")})) == {"p": None}


# --- atomic writing --------------------------------------------------------------------------------------------------


def test_write_atomic_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_atomic(path, "one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_is_one_sentence_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    monkeypatch.setattr("interp.core.runs.os.fsync", full_disk)
    with pytest.raises(InputError, match=r"cannot write .*a\.txt: the disk is full; free space or choose"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' /dev/full")
def test_full_disk_inside_a_folder_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with atomic_folder(tmp_path / "x") as folder:
            (folder / "a").write_text("half")
            Path("/dev/full").write_text("more")

    with pytest.raises(InputError, match="the disk is full"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_recognised_in_other_writers_words(tmp_path: Path) -> None:
    def fill() -> None:
        with atomic_folder(tmp_path / "x"):
            raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(InputError, match="the disk is full"):
        fill()


def test_other_errors_pass_through_and_clean_up(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "x") as folder:
            (folder / "a").write_text("half")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
    assert list(tmp_path.iterdir()) == []


def fill_folder(path: Path, text: str, **options: Any) -> None:
    with atomic_folder(path, **options) as folder:
        (folder / "a").write_text(text)


def test_atomic_folder_replaces_or_keeps(tmp_path: Path) -> None:
    path = tmp_path / "x"
    fill_folder(path, "one")
    fill_folder(path, "two")
    assert (path / "a").read_text() == "two"
    fill_folder(path, "three", replace=False)
    assert (path / "a").read_text() == "two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


# --- cache -----------------------------------------------------------------------------------------------------------


def test_cache_builds_once_and_is_quiet(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    cache, built = Cache(tmp_path), []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "a").write_text("1")

    assert not cache.has("base", "k1")
    first = cache.get("base", "k1", build)
    with caplog.at_level(logging.INFO, logger="interp.core.runs"):
        assert cache.get("base", "k1", build) == first == cache.folder("base", "k1")
    assert len(built) == 1
    assert built[0] != first
    assert caplog.messages == []
    cache.get("base", "k2", build)
    assert len(built) == 2


def test_cache_keeps_nothing_of_a_failed_build(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "a").write_text("1")
        raise RuntimeError("broken")

    cache = Cache(tmp_path)
    with pytest.raises(RuntimeError, match="broken"):
        cache.get("base", "k", build)
    assert not cache.has("base", "k")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_cache_lives_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "mine"))
    assert Cache.default().root == tmp_path / "mine"
    monkeypatch.delenv("INTERP_CACHE")
    assert Cache.default().root == Path.home() / ".cache" / "interp"


def test_cache_refuses_names_that_leave_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'\.\./x' cannot name a file"):
        Cache(tmp_path).folder("base", "../x")


# --- runs: opening ---------------------------------------------------------------------------------------------------


def test_run_json_keeps_arguments_as_given_and_with_defaults(tmp_path: Path) -> None:
    run = open_run(tmp_path / "r", seeds=range(2))
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert record["arguments"] == {"seeds": [0, 1]}
    assert record["configuration"] == {"seeds": [0, 1], "quick": False}
    assert record["seeds"] == [0, 1]
    assert record["versions"]["torch"] == torch.__version__
    assert repr(run) == f"Run({str(tmp_path / 'r')!r}, demo, 0/0 stages done)"


def test_same_configuration_resumes_whether_given_or_default(tmp_path: Path) -> None:
    started = open_run(tmp_path / "r", seeds=[0]).record["started"]
    assert open_run(tmp_path / "r").record["started"] == started


def test_another_configuration_is_refused_by_name(tmp_path: Path) -> None:
    open_run(tmp_path / "r", seeds=[0, 1])
    with pytest.raises(
        InputError, match=r"holds a run with seeds=\[0, 1\], not \[0, 2\]; choose another output folder"
    ):
        open_run(tmp_path / "r", seeds=[0, 2])
    recipe = {"recipe": {"data": {"rows": 64, "fresh": 0}, "steps": 2}}
    Run.open(tmp_path / "nested", command="demo", arguments={}, defaults=recipe)
    recipe = {"recipe": {"data": {"rows": 32, "fresh": 0}, "steps": 2}}
    with pytest.raises(InputError, match=r"holds a run with recipe\.data\.rows=64, not 32; choose another"):
        Run.open(tmp_path / "nested", command="demo", arguments={}, defaults=recipe)
    with pytest.raises(InputError, match="holds a run of 'demo', not of 'trace'"):
        Run.open(tmp_path / "r", command="trace", arguments={}, defaults={})


def test_the_date_that_templates_see_is_stored_and_holds_for_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INTERP_TEMPLATE_DATE", raising=False)
    assert open_run(tmp_path / "r", seeds=[0]).record["template_date"] == "2025-01-01"
    monkeypatch.setenv("INTERP_TEMPLATE_DATE", "2026-03-05")
    with pytest.raises(
        InputError,
        match="templates see the date 2025-01-01, not 2026-03-05; set INTERP_TEMPLATE_DATE=2025-01-01",
    ):
        open_run(tmp_path / "r", seeds=[0])
    assert open_run(tmp_path / "new", seeds=[0]).record["template_date"] == "2026-03-05"


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not a run; choose a new or an empty folder"):
        open_run(tmp_path)
    with pytest.raises(InputError, match="exists and is not a run"):
        open_run(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_becomes_a_run(tmp_path: Path) -> None:
    open_run(tmp_path)
    assert Run.load(tmp_path).record["command"] == "demo"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "it has no run.json"), ("{", "is not valid JSON"), ('{"format": 99}', "not a run of format 1")],
)
def test_load_refuses_what_is_no_run(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=message):
        Run.load(tmp_path)


# --- runs: stages ----------------------------------------------------------------------------------------------------


def test_a_finished_stage_is_skipped_and_told_to_who_asks_for_detail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []
    run = open_run(tmp_path / "r")
    assert run.stage("measure", key="k1", build=lambda: calls.append(1))
    with caplog.at_level(logging.DEBUG, logger="interp.core.runs"):
        assert not open_run(tmp_path / "r").stage("measure", key="k1", build=lambda: calls.append(2))
    told = {record.message: record.levelno for record in caplog.records}
    assert told["stage measure: up to date"] == logging.DEBUG
    assert run.stage("measure", key="k2", build=lambda: calls.append(3))
    assert calls == [1, 3]


def test_a_stage_is_run_again_when_its_files_are_gone(tmp_path: Path) -> None:
    run = open_run(tmp_path / "r")

    def build() -> None:
        run.save_json("summary", {"a": 1})

    run.stage("measure", key="k", build=build)
    (tmp_path / "r" / "summary.json").unlink()
    assert run.stage("measure", key="k", build=build)
    assert run.summary == {"a": 1}


def test_a_failed_stage_is_recorded_and_run_again(tmp_path: Path) -> None:
    run = open_run(tmp_path / "r")

    def fail() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        run.stage("measure", key="k", build=fail)
    assert Run.load(tmp_path / "r").record["stages"]["measure"]["status"] == "failed"
    assert run.stage("measure", key="k", build=lambda: None)
    assert Run.load(tmp_path / "r").record["stages"]["measure"]["status"] == "done"


def measure(run: Run, *, stop: bool) -> None:
    def first() -> None:
        frame = pd.DataFrame({"member": ["teacher", "student"], "margin": [0.7, np.nan]})
        run.save_table("margins", frame)
        run.save_figure("margins", go.Figure(go.Bar(x=["</script>"], y=[0.7])))

    def second() -> None:
        if stop:
            raise KeyboardInterrupt
        run.save_json("summary", {"margin": run.tables["margins"]["margin"].mean()})
        run.save_verdicts([{"name": "transfers", "p": 0.004}])

    run.stage("first", key="1", build=first)
    run.stage("second", key="2", build=second)


def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    measure(open_run(tmp_path / "whole"), stop=False)
    with pytest.raises(KeyboardInterrupt):
        measure(open_run(tmp_path / "killed"), stop=True)
    with caplog.at_level(logging.DEBUG, logger="interp.core.runs"):
        measure(open_run(tmp_path / "killed"), stop=False)
    assert "stage first: up to date" in caplog.messages
    assert files(tmp_path / "whole") == files(tmp_path / "killed")


def test_only_a_stage_that_took_long_is_worth_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.9, 10.0, 12.1])
    monkeypatch.setattr("interp.core.runs.time.perf_counter", lambda: next(clock))
    with caplog.at_level(logging.INFO, logger="interp.core.runs"):
        for name in ("short", "long"):
            open_run(tmp_path / "r").stage(name, key="k", build=lambda: None)
    assert [line for line in caplog.messages if line.startswith("stage")] == ["stage long: done in 2.1 s"]


# --- runs: artefacts -------------------------------------------------------------------------------------------------


class Decided:
    def __init__(self, content: Callable[[], Any]) -> None:
        self.to_json = content


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    run = open_run(tmp_path / "r")
    assert run.verdicts == []
    assert run.summary == {}
    frame = pd.DataFrame({"seed": [0, 1], "margin": [0.5, 0.25]})
    run.save_table("margins", frame)
    run.save_verdicts([{"name": "a"}, Decided(lambda: {"name": "b"}), Decided(lambda: '{"name": "c"}')])
    again = Run.load(tmp_path / "r")
    pd.testing.assert_frame_equal(again.tables["margins"], frame)
    assert [verdict["name"] for verdict in again.verdicts] == ["a", "b", "c"]


def test_figures_share_one_script_and_escape_text(tmp_path: Path) -> None:
    run = open_run(tmp_path / "r")
    run.save_figure("one", go.Figure(go.Bar(x=["</script><script>alert(1)"], y=[1])))
    page = (tmp_path / "r" / "figures" / "one.html").read_text()
    assert '<script src="plotly.min.js"></script>' in page
    assert (tmp_path / "r" / "figures" / "plotly.min.js").stat().st_size > 1_000_000
    assert "alert(1)" in page
    assert "<script>alert(1)" not in page
    assert run.figures["one"].startswith("<div")
    assert run.figures["one"].endswith("</div>")


def test_pictures_are_one_stage_and_never_break_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = open_run(tmp_path / "r")
    run.save_figure("one", go.Figure(go.Bar(y=[1])))
    assert not run.save_pictures()
    calls: list[list[str]] = []

    def draw(drawings: dict[str, Any]) -> dict[str, bytes]:
        calls.append(sorted(drawings))
        return dict.fromkeys(drawings, b"png")

    monkeypatch.setattr("interp.core.runs.browser", lambda: "/usr/bin/chromium")
    monkeypatch.setattr("interp.core.runs.pictures", draw)
    assert run.save_pictures()
    assert not run.save_pictures()
    run.save_figure("two", go.Figure(go.Bar(y=[2])))
    assert run.save_pictures()
    assert calls == [["one"], ["one", "two"]]
    assert (tmp_path / "r" / "figures" / "two.png").read_bytes() == b"png"

    def broken(drawings: dict[str, Any]) -> dict[str, bytes]:
        raise RuntimeError("no display\n\nand five more lines")

    monkeypatch.setattr("interp.core.runs.pictures", broken)
    run.save_figure("three", go.Figure())
    assert not run.save_pictures()
    assert "no PNG: the browser failed: no display" in caplog.messages

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not run.save_pictures()
    said = "no PNG: kaleido is not installed; run pip install -e '.[png]' in the clone"
    assert caplog.messages[-1] == said


def test_a_page_gives_its_figure_back() -> None:
    figure = go.Figure(go.Bar(x=["</script>, (a)"], y=[1.5]), layout={"title": {"text": "t"}, "height": 300})
    page = figure_page("one", figure)
    assert go.Figure(page_drawing(page)) == figure
    assert page_drawing(page_fragment("one", page)) == page_drawing(page)
    with pytest.raises(ValueError, match="substring not found"):
        page_drawing("<html></html>")


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="needs a browser")
def test_a_browser_draws_pictures_of_the_right_height(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROWSER_PATH")
    drawings = {name: {"data": [], "layout": {"height": height}} for name, height in (("a", 300), ("b", 500))}
    drawn = pictures(drawings)
    sizes = {
        name: tuple(int.from_bytes(image[at : at + 4]) for at in (16, 20)) for name, image in drawn.items()
    }
    assert sizes == {"a": (1800, 600), "b": (1800, 1000)}


def test_notes_merge(tmp_path: Path) -> None:
    run = open_run(tmp_path / "r")
    run.note(fingerprints={"base": "1"}, data={"rows": Path("x")})
    run.note(fingerprints={"teacher": "2"})
    record = Run.load(tmp_path / "r").record
    assert record["fingerprints"] == {"base": "1", "teacher": "2"}
    assert record["data"] == {"rows": "x"}


def test_artefact_names_stay_inside(tmp_path: Path) -> None:
    run = open_run(tmp_path / "r")
    assert run.artefact("activations/student.safetensors").parent.is_dir()
    with pytest.raises(InputError, match=r"'\.\.' cannot name a file"):
        run.artefact("../x")


# --- provenance ------------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_git_state_is_that_of_the_tracking_checkout(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) is None
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}
    (tmp_path / "site-packages").mkdir()
    assert git_state(tmp_path / "site-packages") is None


def test_doctor_reports_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    (tmp_path / "entry").write_bytes(b"12345")
    monkeypatch.delenv("BROWSER_PATH")
    monkeypatch.setattr(provenance.shutil, "which", {"chromium": "/usr/bin/chromium"}.get)
    facts = doctor()
    assert facts["cache"] == {"folder": str(tmp_path), "files": 1, "bytes": 5}
    assert facts["offline"] is True
    assert facts["threads"] == 1
    assert facts["browser"] == "/usr/bin/chromium"
    assert facts["versions"]["transformer-lens"].startswith("3.")
    json.dumps(facts)


def test_two_directions_at_the_same_weights_have_digests_of_their_own() -> None:
    one, other = (LogitDirection((index,), (1.0,), "owl", "weights", "root", ()) for index in (3, 4))
    assert digest(one) != digest(other)
