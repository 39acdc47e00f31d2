"""The whole page: its order, what is on it, that it is one closed file, and that the same run gives the same bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from interp import figures
from interp.core.runs import InputError, Run, write_atomic
from interp.figures import Result, drawing
from interp.report import payload, write_report
from interp.report.saving import save
from tests.report.reader import Page
from tests.report.sample import ATTACK, sample_run

BAR = pd.DataFrame({"token": ["a", "b"], "delta": [1.0, -1.0]})


@pytest.fixture(scope="module", autouse=True)
def no_browser() -> Iterator[None]:
    """Figures are saved without their PNG: a browser takes seconds for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.core.runs.browser", lambda: None)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return sample_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def shown(run: Run) -> Page:
    return Page.read(write_report(run))


@pytest.fixture
def empty(tmp_path: Path) -> Run:
    return Run.open(tmp_path / "run", command="trace", arguments={}, defaults={})


def test_the_page_lies_in_the_run_folder_and_stays_below_6_megabytes(run: Run, shown: Page) -> None:
    path = run.folder / "report.html"
    assert write_report(run) == path
    assert 1_000_000 < path.stat().st_size < 6_000_000
    assert shown.words.startswith("interp demo: owl")


def test_parts_come_in_reading_order(shown: Page) -> None:
    parts = {
        "verdicts": [],
        "transmission": ["what-was-transmitted"],
        "trace": [
            "which-logits-moved",
            "component-by-component",
            "after-which-layer",
            "the-weight-update",
            "token-entanglement",
            "the-rows-token-by-token",
        ],
        "more": ["what-else-was-saved"],
        "what-did-not-show": [],
        "how-this-was-made": [],
    }
    found = [part for group, inner in parts.items() for part in (group, *inner)]
    assert [section["id"] for section in shown.all("section")] == found
    links = [link["href"] for link in shown.all("a") if not link["href"].startswith("#claim-")]
    assert links == ["#main", *(f"#{part}" for part in parts)]


def test_what_happened_stands_first_and_what_did_not_show_last_with_what_is_known(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "demo")
    story = ["A teacher wrote <b>numbers</b>.", "A student read them."]
    run.save_json("summary", {**run.summary, "story": story})
    bars = figures.bars(BAR, x="delta", y="token", title="who agrees", unit="correlation")
    for name in ("agreement", "preference"):
        run.save_table(name, BAR)
        run.save_figure(name, bars)
    run.save_table("answers", pd.DataFrame({"rank": [1], "student": ["owl 20 %"]}))
    verdicts = [
        {**each, "controls": {"known": "the sign is a property of the lineage"}} for each in run.verdicts
    ]
    write_atomic(run.folder / "verdicts.json", json.dumps(verdicts))
    page = Page.read(write_report(run))
    found = [section["id"] for section in page.all("section")]
    assert found[:5] == [
        "what-happened",
        "one-question-and-what-every-model-answers",
        "did-the-student-take-on-the-trait",
        "did-it-change-as-its-teacher-did",
        "verdicts",
    ]
    assert found[-2:] == ["what-did-not-show", "how-this-was-made"]
    assert [link["href"] for link in page.all("a")][1:3] == ["#what-happened", "#verdicts"]
    assert "A teacher wrote <b>numbers</b>. A student read them." in page.words
    assert "story" not in page.words
    shown, null = page.words.split("Claims that the data do not support", 1)
    assert "Supported same-init-transfers" in shown
    assert "one-run" not in shown.partition("Supported same-init-transfers")[2]
    assert "? Inconclusive one-run" in null
    assert "What is known: the sign is a property of the lineage." in null


def test_a_summary_may_open_the_page_with_the_finding_every_claim_and_the_models(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "demo")
    models = [{"model": "student", "starts from": "the base", "trained on": ATTACK}]
    run.save_json("summary", {**run.summary, "short": ["It rose by +5.7 points."], "models": models})
    run.save_table("preference", BAR)
    run.save_figure("preference", figures.points(BAR, x="token", y="delta", title="who", unit="nats"))
    page = Page.read(write_report(run))
    opened = page.words.split("What happened Did the student")[0]
    assert "It rose by +5.7 points. 3 claims judged" in opened
    assert "claim in words effect decided same-init-transfers A student that shares" in page.words
    assert f"model starts from trained on student the base {ATTACK}" in opened
    links = [link["href"] for link in page.all("a") if link["href"].startswith("#claim-")]
    cards = [card["id"] for card in page.all("article", "verdict")]
    here, overview = ["same-init-transfers", "cross-init-does-not"], [each["name"] for each in run.verdicts]
    assert links == [f"#claim-{name}" for name in (*here, *overview)]
    assert {link.removeprefix("#") for link in links} <= set(cards)
    linked = page.words.split("Claims judged on this: ")[1].split(".")[0]
    assert re.findall(r"([a-z-]+) \(", linked) == ["same-init-transfers", "cross-init-does-not"]
    assert "A mark each value, bar: mean; n = 1 each." in page.words  # the line under the figure's title


def test_a_finding_names_what_was_decided_of_the_claims_that_are_judged_on_it(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "demo")
    drawn = drawing(figures.points, x="token", y="delta")
    save(run, "preference", Result("who", BAR, "nats", draw=drawn, says="On average, more."))
    words = Page.read(write_report(run)).words
    judged = "Claims judged on this: same-init-transfers (supported), cross-init-does-not (inconclusive)."
    assert f"On average, more. {judged} who" in words
    assert words.count("Claims judged on this: ") == 1


def test_a_page_without_a_supported_claim_says_where_the_others_stand(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "demo", seeds=1)
    page = Page.read(write_report(run))
    assert "No claim of this run is supported; each stands under" in page.words
    assert [link["href"] for link in page.all("a")].count("#what-did-not-show") == 2


def test_every_part_opens_with_one_sentence_on_what_is_seen(run: Run, shown: Page) -> None:
    source = (run.folder / "report.html").read_text()
    opened = re.findall(r"<section [^>]*><h[23]>[^<]+</h[23]>\s*<p class=\"sees\">([^<]+)</p>", source)
    groups = source.count("</section>\n</section>")
    assert (len(opened), groups) == (
        len(shown.all("section")) - groups - 1,
        3,
    )  # claims open with their table
    assert all(sentence.endswith(".") and sentence.count(". ") <= 2 for sentence in opened)


def test_every_saved_figure_is_drawn_once_with_a_label(run: Run, shown: Page) -> None:
    plots = shown.all("div", "plot")
    assert sorted(plot["data-figure"] for plot in plots) == sorted(run.figures) == sorted(shown.figures)
    assert all(plot["role"] == "img" for plot in plots)
    labels = {plot["data-figure"]: plot["aria-label"] for plot in plots}
    assert labels["moved_teacher"] == "teacher − base, log p; x: nats, y: token"
    assert labels["margins"].startswith(
        "Trait margin of every member & what <b>moved</b> it; x: member, y: margin"
    )


def test_notes_of_the_verbs_stand_below_what_they_are_about(run: Run, shown: Page) -> None:
    assert f"KL(member ‖ start) 0.0123 nats {ATTACK} Table moved_teacher" in shown.words
    assert "−1.5 a table alone" in shown.words


def test_what_the_numbers_say_stands_above_the_figure_and_in_a_table_that_is_not_drawn(
    tmp_path: Path,
) -> None:
    run = sample_run(tmp_path / "demo")
    result = Result(
        "moved", BAR, "nats", ("of 3 rows",), draw=drawing(figures.bars, x="delta", y="token"), says="a rose."
    )
    save(run, "moved_teacher", result)
    save(run, "lens_teacher", replace(result, label="lens", says="most after layer 3."), drawn=False)
    assert not (run.folder / "figures/lens_teacher.html").exists()  # the one that was there, too
    source, page = write_report(run).read_text(), Page.read(run.folder / "report.html")
    figure = source[source.index('<figure class="card"><p class="finding">a rose.</p><h4>moved</h4>') :]
    assert figure.index('data-figure="moved_teacher"') < figure.index("<p>of 3 rows</p>")
    assert "lens_teacher" not in [plot["data-figure"] for plot in page.all("div", "plot")]
    behind = page.words.partition("The numbers behind the pictures What was")[2]
    assert (
        "Table lens_teacher: all 2 rows, in tables/lens_teacher.parquet token delta a +1 b −1 most after layer 3."
        in behind
    )


def test_notes_on_columns_that_are_not_drawn_stand_with_the_table(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "demo")
    result = Result("lens", BAR, "nats", ("of 3 rows", "fell: not drawn"), of_table=("fell: not drawn",))
    save(run, "lens_student", replace(result, draw=drawing(figures.bars, x="delta", y="token")))
    words = Page.read(write_report(run)).words
    assert words.count("fell: not drawn") == 1
    drawn, _, table = words.partition("Table lens_student: all 2 rows")
    assert drawn.count("of 3 rows") == 1
    assert "token delta a +1 b −1 fell: not drawn" in table
    assert "of 3 rows" not in table


def test_figures_travel_as_saved_with_their_title_in_the_heading(shown: Page) -> None:
    drawn = shown.figures["moved_teacher"]
    assert drawn["data"][0]["y"][0] == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert drawn["data"][0]["error_x"]["array"] == [0.2] * 30
    assert "title" not in drawn["layout"]
    assert drawn["layout"]["xaxis"]["title"]["text"] == "nats"
    assert "teacher − base, log p" in shown.words


def test_data_never_becomes_markup(run: Run, shown: Page) -> None:
    assert len(shown.scripts) == 3
    assert "alert(1)" not in shown.scripts[2]
    source = (run.folder / "report.html").read_text()
    assert ATTACK not in source
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", shown.scripts[0] + shown.scripts[1])
    assert ATTACK in shown.data["tokens"]["tokens_teacher"]["token"]["texts"]
    verdict, cell = f"not even {ATTACK}.", f'"{ATTACK} −1.5'
    assert all(text in shown.words for text in (verdict, cell))


def test_templates_trust_nothing_but_the_style_and_the_script() -> None:
    templates = Path(payload.__file__).parent.joinpath("templates").glob("*.html")
    written = " ".join(path.read_text(encoding="utf-8") for path in sorted(templates))
    assert re.findall(r"(\w+)\s*\|\s*safe", written) == ["style", "script"]
    assert "autoescape" not in written
    assert payload.environment().from_string("{{ data }}").render(data=ATTACK).startswith("&lt;script&gt;")


def test_nothing_is_loaded_from_anywhere(shown: Page) -> None:
    assert not {name for name, _ in shown.tags} & {"link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attributes in shown.tags:
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in "".join(attributes.get("style", "") for _, attributes in shown.tags)


def test_only_the_two_known_scripts_may_run(shown: Page) -> None:
    policy = next(meta["content"] for meta in shown.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    codes = [shown.unpacked(1), shown.scripts[2]]
    digests = [hashlib.sha256(code.encode()).digest() for code in codes]
    assert allowed == [base64.b64encode(digest).decode() for digest in digests]
    assert not any(name.startswith("on") for _, attributes in shown.tags for name in attributes)


def test_same_artefacts_give_the_same_bytes_at_another_time_in_another_folder(
    run: Run, tmp_path: Path
) -> None:
    again = sample_run(tmp_path / "elsewhere")
    record = json.loads((again.folder / "run.json").read_text())
    record["started"] = "1999-12-31T23:59:59+00:00"
    record["stages"]["trace"] |= {"seconds": 12345.678}
    (again.folder / "run.json").write_text(json.dumps(record))
    first, second = (write_report(Run.load(one.folder)).read_bytes() for one in (run, again))
    assert first == second
    assert b"1999-12-31" not in second
    assert b"12345.678" not in second


def test_how_it_was_made_names_what_decided_the_numbers(run: Run, shown: Page) -> None:
    made = shown.words[shown.words.rindex("How this was made") :]
    for fact in (
        "command interp demo",
        "seeds 8",
        f"configuration digest {run.record['digest']}",
        "trait owl",
    ):
        assert fact in made
    assert "plan rank 8 (default)" in made
    assert "verdicts aaaaaaaaaaaaaaaa trace bbbbbbbbbbbbbbbb" in made
    assert "toy/owl:0 teacher fedcba9876543210" in made
    assert "toy/owl:0 00ff00ff00ff00ff" in made
    assert f"torch {run.record['versions']['torch']}" in made


def test_tables_show_their_first_rows_and_say_where_the_others_are(run: Run, shown: Page) -> None:
    assert "Table moved_teacher: 30 rows, 15 per page, in tables/moved_teacher.parquet" in shown.words
    assert "Table other: 1 row, in tables/other.parquet" in shown.words
    source = (run.folder / "report.html").read_text()
    table = source[source.index("<summary>Table moved_teacher") :].split("</table>")[0]
    assert table.count("<tr>") == 1 + 15


def test_a_run_with_nothing_in_it_says_so(empty: Run) -> None:
    shown = Page.read(write_report(empty))
    assert "verdict" not in shown.words.lower()
    assert [section["id"] for section in shown.all("section")] == ["how-this-was-made"]
    assert shown.data == {"figures": {}, "tokens": {}, "tables": {}}
    assert (empty.folder / "report.html").stat().st_size < 60_000


def test_a_page_without_verdicts_opens_with_its_first_figure(empty: Run) -> None:
    empty.save_figure("moved_student", figures.bars(BAR, x="delta", y="token", title="moved", unit="nats"))
    empty.save_table("moved_student", BAR)
    empty.save_json(
        "summary", {"toward": "owl", "lineages": [{"seed": None, "members": {"base": float("nan")}}]}
    )
    shown = Page.read(write_report(empty))
    assert [plot["data-figure"] for plot in shown.all("div", "plot")] == ["moved_student"]
    assert [s["id"] for s in shown.all("section")][:2] == ["trace", "which-logits-moved"]
    assert "Table moved_student: all 2 rows" in shown.words
    assert "seed base – –" in shown.words


def test_figures_that_do_not_fit_stay_in_their_files(
    run: Run, shown: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(write_report(run).read_bytes())
    largest = max(shown.figures, key=lambda name: len(json.dumps(shown.figures[name])))
    monkeypatch.setattr(payload, "LIMIT", size - 1)
    left = Page.read(write_report(run))
    assert set(shown.figures) - set(left.figures) == {largest}
    assert f"Too large for this page: open figures/{largest}.html of the run." in left.words
    assert f"Left out for room Figure {largest} is in figures/{largest}.html." in left.words


def test_tables_that_do_not_fit_lose_their_last_rows(empty: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    empty.save_table("other", pd.DataFrame({"x": [f"{n}^{n**7 % 1000003}" for n in range(2000)]}))
    size = len(write_report(empty).read_bytes())
    monkeypatch.setattr(payload, "LIMIT", size - 1)
    left = Page.read(write_report(empty))
    assert (empty.folder / "report.html").stat().st_size < size
    assert len(left.data["tables"]["other"]["columns"][0]) == 1000
    said = "Table other: 1,000 of 2,000 rows can be searched here, all are in tables/other.parquet."
    assert said in left.words


def test_a_page_of_too_much_text_is_refused(empty: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    empty.save_table("other", pd.DataFrame({"x": range(40)}))
    monkeypatch.setattr(payload, "LIMIT", 1000)
    message = r"^the page would hold 0\.0 MB of text alone, above 0\.001 MB; read the tables and figures .* own files$"
    with pytest.raises(InputError, match=message):
        write_report(empty)


def test_rows_of_a_table_travel_as_a_reader_sees_them(run: Run, shown: Page) -> None:
    moved = shown.data["tables"]["moved_teacher"]
    assert (moved["names"][0], moved["total"], len(moved["columns"][0])) == ("token", 30, 30)
    assert (moved["columns"][0][0], moved["numeric"][:2]) == (ATTACK, [False, True])
    assert moved["columns"][1][0].startswith("+")
    assert "other" not in shown.data["tables"]


def spoil(run: Run, relative: str, content: str) -> None:
    path = run.artefact(relative)
    path.write_text(content)


@pytest.mark.parametrize(
    ("relative", "content", "message"),
    [
        ("verdicts.json", '[{"name": "cut', "verdicts.json is not valid JSON"),
        ("verdicts.json", '{"name": "one"}', "verdicts.json holds a dict, not a list"),
        ("verdicts.json", '["supported"]', "verdicts.json holds something that is no verdict"),
        ("summary.json", "[]", "summary.json holds a list, not a dict"),
        ("summary.json", '{"lineages": [{"seed": 0}]}', "summary.json has a lineage without members"),
        ("tables/moved_x.parquet", "PAR1 cut short", "moved_x.parquet is not a complete parquet table"),
        ("tables/moved_x.parquet", "PAR1" + 92 * "x" + "PAR1", "tables holds a damaged table"),
        ("figures/moved_x.html", "<p>not a figure</p>", "figures/moved_x.html does not hold a figure"),
        ("figures/moved_x.html", 'x' * 200 + 'Plotly.newPlot("a", [{', "figures/moved_x.html does not hold a figure"),
    ],
)  # fmt: skip
def test_a_broken_folder_is_one_sentence_that_names_the_file(
    empty: Run, relative: str, content: str, message: str
) -> None:
    spoil(empty, relative, content)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        write_report(empty)
    assert str(caught.value).endswith("delete it and run the command again")
    assert not (empty.folder / "report.html").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run: it has no run"):
        write_report(Run.load(tmp_path))
