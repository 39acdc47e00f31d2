"""Two runs on one page: changed decisions first, differences by hand, what was set otherwise, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp import figures
from interp.core.runs import InputError, Run
from interp.report import compare_runs
from tests.report.reader import Page
from tests.report.test_verdict_cards import VERDICT

BAR = pd.DataFrame({"token": ["a", "b"], "delta": [1.0, -1.0]})


@pytest.fixture(autouse=True)
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.core.runs.browser", lambda: None)


def make(
    folder: Path, verdicts: list[Any], summary: dict[str, Any], drawn: list[str], **arguments: Any
) -> Run:
    run = Run.open(folder, command="demo", arguments=arguments, defaults={"rows": 8})
    run.save_json("summary", summary)
    run.save_verdicts(verdicts)
    for name in drawn:
        run.save_figure(name, figures.bars(BAR, x="delta", y="token", title=f"<i>{name}</i>", unit="nats"))
    return run


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Run, Run]:
    same = VERDICT | {"name": "alike"}
    first = [same, VERDICT, VERDICT | {"name": "only-a"}]
    second = [
        same,
        VERDICT | {"decision": "refuted", "effect": 0.25, "claim": "The student <b>avoids</b> owl."},
    ]
    summary = {"trait": "owl", "effects": {"x": 1.5}, "lineages": [{"seed": 0, "members": {"student": 1.0}}]}
    lineages = [{"seed": seed, "members": {"student": value}} for seed, value in enumerate((2.0, 4.0, None))]
    a = make(tmp_path / "one" / "run", first, summary, ["margins", "lens"], trait="owl")
    other = {"trait": "owl", "effects": {"x": 1.25, "y": 7}, "lineages": lineages}
    return a, make(tmp_path / "two" / "run", second, other, ["margins"], trait="oak")


@pytest.fixture
def shown(pair: tuple[Run, Run], tmp_path: Path) -> Page:
    return Page.read(compare_runs(*pair, out=tmp_path / "page.html"))


def test_changed_decisions_come_first(shown: Page) -> None:
    assert shown.words.startswith("Comparison: one/run and two/run")
    assert "1 of 2 shared claims decided otherwise, 1 judged in one run only, 1 alike." in shown.words
    places = [
        shown.words.index(words)
        for words in (
            "Decided otherwise same-init-transfers",
            "In one run only only-a",
            "Decided alike alike",
        )
    ]
    assert places == sorted(places)
    assert "The two runs word this claim differently. Effect B − A: −0.2741 nats ." in shown.words
    assert "The student <b>avoids</b> owl." in shown.words
    assert "B Not judged in this run." in shown.words


def test_numbers_stand_with_their_differences(shown: Page) -> None:
    assert (
        "effects x 1.5 1.25 −0.25 lineages 1 3 +2 mean margin of student (nats) 1 3 +2 effects y – 7 –"
        in shown.words
    )


def test_only_settings_that_differ_are_listed(shown: Page) -> None:
    settings = shown.words[shown.words.rindex("What was set otherwise") :]
    assert "setting A B trait owl oak Figures" in settings
    assert settings.startswith("What was set otherwise 1 of ")


def test_figures_stand_in_pairs(shown: Page) -> None:
    assert [plot["data-figure"] for plot in shown.all("div", "plot")] == ["A/margins", "B/margins"]
    assert "A: <i>margins</i> B: <i>margins</i> Only in A: lens." in shown.words
    assert set(shown.figures) >= {"A/margins", "B/margins"}


def test_both_intervals_share_one_axis(pair: tuple[Run, Run], shown: Page) -> None:
    circles = [float(circle["cx"]) for circle in shown.all("circle")]
    assert circles[0] == pytest.approx(30 + 340 * 0.5241 / 0.75, abs=0.1)
    assert circles[1] == pytest.approx(30 + 340 * 0.25 / 0.75, abs=0.1)


def test_runs_without_anything_compare_too(tmp_path: Path) -> None:
    runs = [Run.open(tmp_path / name, command="trace", arguments={}, defaults={}) for name in "ab"]
    shown = Page.read(compare_runs(*runs, out=tmp_path / "page.html"))
    assert shown.words.startswith("Comparison: a and b")
    for words in (
        "Neither run judges a claim.",
        "Neither summary holds a number.",
        "Neither run holds a figure.",
    ):
        assert words in shown.words
    assert "0 of " in shown.words


def test_the_same_folder_twice_is_refused(pair: tuple[Run, Run], tmp_path: Path) -> None:
    again = Run.load(tmp_path / "one" / ".." / "one" / "run")
    with pytest.raises(
        InputError, match=r"is named twice; pass the folders of two different runs to compare$"
    ):
        compare_runs(pair[0], again, out=tmp_path / "page.html")


def test_a_folder_is_no_place_for_the_page(pair: tuple[Run, Run], tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"is a folder; pass a file for the page, such as .*comparison\.html$"
    ):
        compare_runs(*pair, out=tmp_path)


def test_the_command_line_compares(
    pair: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp.cli import main as cli

    def call(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["interp", "report", *arguments])
        cli.main()

    page = tmp_path / "compared.html"
    call("--compare", *(str(run.folder) for run in pair), "--out", str(page))
    assert Page.read(page).words.startswith("Comparison")
    for wrong in ([], [str(pair[0].folder), "--compare", *(str(run.folder) for run in pair)]):
        with pytest.raises(SystemExit):
            call(*wrong)


def test_a_folder_that_is_no_run_cannot_be_compared(
    pair: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from interp.cli import main as cli

    argv = ["interp", "report", "--compare", str(pair[0].folder), str(tmp_path)]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit):
        cli.main()
    assert "is not a run: it has no run.json" in capsys.readouterr().err
