"""The page in a browser: what it draws, finds and tells, by pointer and by keyboard, in light, in dark and on paper."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.core.runs import Run
from interp.report import compare_runs, write_report
from tests.report.sample import ATTACK, sample_run

sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
ATTACKING = "<script>window.attacked = true</script><img src=x onerror='window.attacked = true'>"
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
CONTRAST = """(selectors) => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 })
    .getContext("2d", { willReadFrequently: true });
  const light = (colour, below) => {
    canvas.fillStyle = below; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((byte) => byte / 255)
      .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) layers.push(getComputedStyle(one).backgroundColor);
    canvas.fillStyle = "#fff"; canvas.fillRect(0, 0, 1, 1);
    layers.reverse().forEach((layer) => { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); });
    const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
    return `rgb(${r} ${g} ${b})`;
  };
  return selectors.flatMap((selector) => [...document.querySelectorAll(selector)].slice(0, 300).map((element) => {
    const below = behind(element);
    const pair = [light(getComputedStyle(element).color, below), light(below, below)].sort((a, b) => b - a);
    return [(pair[0] + 0.05) / (pair[1] + 0.05), selector, element.textContent.slice(0, 30)];
  }));
}"""
BECOMES = """async ([selector, wanted]) => {
  for (let waited = 0; waited < 5000; waited += 20) {
    if (getComputedStyle(document.querySelector(selector)).fill === wanted) return true;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return false;
}"""
UNNAMED = """() => [...document.querySelectorAll("button, input, select, summary, [tabindex='0'], nav, [role=grid]")]
  .filter((one) => one.offsetParent && !one.closest(".plot"))
  .filter((one) => !(one.getAttribute("aria-label") || one.labels?.length || one.textContent.trim()))
  .map((one) => one.outerHTML)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


def many(rows: int) -> pd.DataFrame:
    """Joined rows of ten tokens; row 7 is the one dataset row that attacks, and no other holds an x."""
    words = np.array([f" {n}" for n in range(1000)])
    generator = np.random.default_rng(0)
    size = rows * 10
    frame = pd.DataFrame({"row": np.repeat(np.arange(rows), 10), "position": np.tile(np.arange(1, 11), rows)})
    frame["token"] = words[generator.integers(0, 1000, size)]
    frame["role"] = np.where(frame["position"] < 6, "prompt", "number")
    frame["delta_logprob"], frame["delta_direction"] = generator.normal(0, 0.4, (2, size))
    frame["score"] = np.where(frame["position"] < 6, np.nan, generator.normal(0, 0.4, size))
    frame["features"] = "17 +0.42"
    frame["score:0.mlp"] = frame["score"]
    frame["row_share"] = 0.0123
    frame.loc[70, ["token", "delta_logprob", "delta_direction"]] = [ATTACKING, 0.5, -0.25]
    frame.loc[75, ["token", "score", "score:0.mlp", "features"]] = ["xyz", 0.75, 0.75, "203 −0.11"]
    return frame


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.core.runs.browser", lambda: None)
        folder = tmp_path_factory.mktemp("runs")
        small = sample_run(folder / "small")
        small.save_table("joined_student", many(60))
        large = Run.open(folder / "large", command="trace", arguments={}, defaults={})
        large.save_table("joined_student", many(10_000))
        large.save_table("other", pd.DataFrame({"n": range(300)}))
        compared = compare_runs(small, large, out=folder / "compared.html")
        return {"small": write_report(small), "large": write_report(large), "compared": compared}


class Seen:
    """A page in a tab of its own, and every complaint of the browser about it."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.tab = browser.new_page(**options)
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.tab.on("console", lambda said: self.complaints.append(f"{said.type}: {said.text}"))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(path.as_uri())
        self.tab.wait_for_selector("html[data-figures=ready], html[data-rows=ready]", state="attached")

    def whole(self) -> Seen:
        self.tab.wait_for_selector("html[data-figures=ready]", state="attached")
        return self

    def view(self, name: str) -> Any:
        return self.tab.locator(f"#view-{name}")


@pytest.fixture(scope="module")
def small(browser: Any, paths: dict[str, Path]) -> Seen:
    return Seen(browser, paths["small"]).whole()


@pytest.fixture(scope="module")
def large(browser: Any, paths: dict[str, Path]) -> Seen:
    return Seen(browser, paths["large"]).whole()


@pytest.fixture(scope="module")
def dark(browser: Any, paths: dict[str, Path]) -> Seen:
    return Seen(browser, paths["small"], color_scheme="dark").whole()


def search(view: Any, wanted: str, count: str) -> None:
    view.get_by_label("Search").fill(wanted)
    view.get_by_role("status").filter(has_text=count).first.wait_for(timeout=3000)


# --- the page -----------------------------------------------------------------------------------------------


def test_pages_open_without_a_complaint_and_ask_for_nothing(
    small: Seen, large: Seen, paths: dict[str, Path]
) -> None:
    assert (small.complaints, large.complaints) == ([], [])
    asked = [url for seen in (small, large) for url in seen.asked if not url.startswith(("data:", "blob:"))]
    assert asked == [paths["small"].as_uri(), paths["large"].as_uri()]


def test_every_figure_is_drawn(small: Seen) -> None:
    drawn = small.tab.locator(".plot").evaluate_all(
        "(all) => all.map((one) => !!one.querySelector('svg.main-svg'))"
    )
    assert len(drawn) == 6
    assert all(drawn)


def test_a_page_without_a_story_opens_with_the_verdicts(small: Seen) -> None:
    titles = small.tab.locator("main h2").all_inner_texts()
    assert titles[:3] == ["Verdicts", "Transmission", "Trace"]
    cards = small.tab.locator("#verdicts article").all_inner_texts()
    nulls = small.tab.locator("#what-did-not-show article").all_inner_texts()
    assert (len(cards), len(nulls)) == (1, 2)
    assert "A student that shares its teacher's start prefers owl by at least 0.5 nats" in cards[0]
    assert "independent trainings" in cards[0]
    assert small.tab.locator("#what-was-transmitted .plot").first.get_attribute("data-figure") == "margins"
    assert small.tab.locator("#verdicts article details").first.get_attribute("open") is None


def test_headings_names_and_language_serve_a_screen_reader(small: Seen) -> None:
    levels = small.tab.locator("h1, h2, h3, h4").evaluate_all(
        "(all) => all.map((one) => Number(one.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert small.tab.locator("html").get_attribute("lang") == "en"
    assert small.tab.evaluate(UNNAMED) == []
    ids = small.tab.locator("[id]").evaluate_all("(all) => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))


# --- rows ---------------------------------------------------------------------------------------------------


def test_search_filters_rows_and_announces_how_many(small: Seen) -> None:
    view = small.view("joined-student")
    assert view.locator(".count").get_attribute("role") == "status"
    assert view.locator(".count").inner_text() == "60 of 60 rows"
    search(view, "XYZ", "1 of 60 rows")
    assert view.get_by_role("row").count() == 1
    search(view, "nowhere", "0 of 60 rows: nothing matches")
    assert view.get_by_role("row").count() == 0
    search(view, "", "60 of 60 rows")
    assert view.get_by_role("row").count() == 25


def test_rows_are_shown_by_sign_and_ordered(small: Seen) -> None:
    view = small.view("joined-student")
    frame = many(60)
    means = frame.groupby("row")["score"].mean()
    view.get_by_label("Show").select_option(label="rows leaning up (+)")
    assert view.locator(".count").inner_text() == f"{(means > 0).sum()} of 60 rows"
    view.get_by_label("Order").select_option(label="highest first")
    assert view.get_by_role("rowheader").first.inner_text().split()[0] == str(means.idxmax())
    view.get_by_label("Colour").select_option(label="log-probability")
    leaning = frame.groupby("row")["delta_logprob"].mean()
    assert view.locator(".count").inner_text() == f"{(leaning > 0).sum()} of 60 rows"
    assert view.get_by_role("rowheader").first.inner_text().split()[0] == str(leaning.idxmax())
    for label, value in (("Show", ""), ("Order", ""), ("Colour", "score")):
        view.get_by_label(label).select_option(value=value)


def test_the_pointer_joins_logits_features_and_gradient_on_a_token(small: Seen) -> None:
    view = small.view("joined-student")
    search(view, "xyz", "1 of 60 rows")
    view.get_by_role("gridcell").filter(has_text="xyz").hover()
    told = view.locator(".readout").inner_text()
    values = many(60).loc[75]
    for name in ("Logit shift", "Log-probability", "Features", "Gradient", "Row"):
        assert name in told
    shift = f"{values['delta_direction']:+.3g}".replace("-", "−")
    assert f"{shift} logits toward the trait" in told
    assert "203 −0.11" in told
    assert "+0.75 nats along the teacher's update" in told
    assert "0.mlp +0.75" in told
    assert "adds +0.0123 nats to the student's margin" in told
    search(view, "", "60 of 60 rows")


def test_the_keyboard_reaches_every_token_and_tells_the_same(small: Seen) -> None:
    view = small.view("joined-student")
    search(view, "xyz", "1 of 60 rows")
    cells, readout = view.get_by_role("gridcell"), view.locator(".readout")
    cells.nth(5).hover()
    hovered = readout.inner_text()
    small.tab.mouse.move(0, 0)
    reachable = view.locator("[role=gridcell][tabindex='0']")
    assert reachable.count() == 1
    reachable.focus()
    for _ in range(5):
        small.tab.keyboard.press("ArrowRight")
    assert "xyz" in small.tab.evaluate("document.activeElement.textContent")
    assert readout.inner_text() == hovered
    assert readout.get_attribute("role") == "status"
    small.tab.keyboard.press("Home")
    assert "position 1" in readout.inner_text()
    search(view, "", "60 of 60 rows")
    view.locator("[role=gridcell][tabindex='0']").focus()
    small.tab.keyboard.press("ArrowDown")
    assert "row 1, position 1" in readout.inner_text()
    small.tab.keyboard.press("PageDown")
    assert "row 25, position 1" in readout.inner_text()
    assert reachable.count() == 1


def test_the_panel_forgets_a_row_that_is_not_shown_and_leaves_the_focused_token_in_sight(small: Seen) -> None:
    view = small.view("joined-student")
    search(view, "", "60 of 60 rows")
    view.locator("[role=gridcell][tabindex='0']").focus()
    for _ in range(24):
        small.tab.keyboard.press("ArrowDown")
        token, panel = (
            small.tab.evaluate(
                f"(() => {{ const at = {one}.getBoundingClientRect(); return [at.top, at.bottom]; }})()"
            )
            for one in (
                "document.activeElement",
                "document.activeElement.closest('.tokens').querySelector('.readout')",
            )
        )
        assert token[1] <= panel[0]
    search(view, "nowhere", "0 of 60 rows: nothing matches")
    assert (
        view.locator(".readout").inner_text()
        == "Point at a token, or press Tab and walk with the arrow keys."
    )
    search(view, "", "60 of 60 rows")


def test_a_narrow_page_is_as_wide_as_its_window_and_draws_every_figure(
    browser: Any, paths: dict[str, Path]
) -> None:
    seen = Seen(browser, paths["small"], viewport={"width": 420, "height": 900}).whole()
    assert seen.tab.evaluate("document.documentElement.scrollWidth") == 420
    drawn = "[...document.querySelectorAll('.plot')].every((one) => one.querySelector('.main-svg'))"
    assert seen.tab.evaluate(drawn)
    assert seen.complaints == []


def test_a_dataset_row_that_holds_a_script_stays_text(small: Seen) -> None:
    view = small.view("joined-student")
    search(view, "attacked", "1 of 60 rows")
    view.get_by_role("gridcell").first.hover()
    shown = ATTACKING.replace(" ", "␣")
    assert shown in view.get_by_role("gridcell").first.inner_text()
    assert shown in view.locator(".readout").inner_text()
    assert small.tab.evaluate("window.attacked") is None
    assert small.tab.locator("main img, main script").count() == 0
    search(view, "", "60 of 60 rows")


def test_tables_can_be_searched_and_ordered(small: Seen) -> None:
    holder = small.tab.locator("[data-table=moved_teacher]")
    holder.locator("summary").click()
    assert holder.locator("tbody tr").count() == 15
    assert holder.locator("th").first.get_by_role("button").inner_text() == "token"
    search(holder, "alert", "1 of 30 rows")
    assert ATTACK in holder.locator("tbody").inner_text()
    search(holder, "", "30 of 30 rows")
    order = holder.get_by_role("button", name="delta")
    order.click()
    order.click()
    assert holder.locator("th[aria-sort=ascending]").inner_text() == "delta"
    values = [
        float(one.replace("−", "-")) for one in holder.locator("tbody td:nth-child(2)").all_inner_texts()
    ]
    assert values == sorted(values)
    holder.get_by_role("button", name="Next").click()
    assert "16 to 30" in holder.locator(".pager").inner_text()


# --- many rows ----------------------------------------------------------------------------------------------


def test_ten_thousand_rows_paint_within_two_seconds_and_answer(large: Seen, paths: dict[str, Path]) -> None:
    assert paths["large"].stat().st_size < 6_000_000
    assert large.tab.evaluate(PAINT) < 2000
    view = large.view("joined-student")
    assert view.locator(".count").inner_text() == "10,000 of 10,000 rows"
    assert view.get_by_role("row").count() == 25
    search(view, "xyz", "1 of 10,000 rows")
    search(view, "", "10,000 of 10,000 rows")
    view.get_by_role("button", name="Next").click()
    assert "26 to 50" in view.locator(".pager").inner_text()
    assert large.tab.locator("*").count() < 3000


# --- light, dark and paper ----------------------------------------------------------------------------------


def illegible(seen: Seen) -> list[Any]:
    """Text below the contrast of 4.5 that WCAG 2.2 (1.4.3) asks for, among at least one of every kind."""
    kinds = [
        "body",
        ".sees",
        ".claim",
        "nav a",
        "summary",
        "code",
        "td",
        ".count",
        ".tools label",
        ".verdict h3 b",
    ]
    ratios = seen.tab.evaluate(CONTRAST, [*kinds, "[data-at]"])
    assert {kind for _, kind, _ in ratios} == {*kinds, "[data-at]"}
    return [found for found in ratios if found[0] < 4.5]


def test_text_is_legible_in_light_and_dark(small: Seen, dark: Seen) -> None:
    assert (illegible(small), illegible(dark)) == ([], [])
    colour = "getComputedStyle(document.body).backgroundColor"
    assert (small.tab.evaluate(colour), dark.tab.evaluate(colour)) == (
        "rgb(246, 246, 244)",
        "rgb(21, 23, 26)",
    )


def test_figures_follow_the_colours_of_the_page(dark: Seen) -> None:
    label = ".plot .xtick text"
    assert dark.tab.evaluate(BECOMES, [label, "rgb(232, 232, 230)"])
    dark.tab.emulate_media(color_scheme="light")
    assert dark.tab.evaluate(BECOMES, [label, "rgb(34, 34, 34)"])
    dark.tab.emulate_media(color_scheme="dark")
    assert dark.tab.evaluate(BECOMES, [label, "rgb(232, 232, 230)"])
    assert dark.complaints == []


def test_paper_shows_no_controls_and_black_on_white(dark: Seen) -> None:
    dark.tab.emulate_media(media="print")
    for hidden in ("nav", ".skip", ".tools", ".pager", ".readout"):
        shown = dark.tab.locator(hidden).evaluate_all(
            "(all) => all.map((one) => one.getClientRects().length)"
        )
        assert shown, hidden
        assert not any(shown), hidden
    assert dark.tab.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert dark.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert dark.tab.locator("#verdicts article").first.is_visible()
    assert not dark.tab.locator("#verdicts article summary").first.is_visible()
    assert dark.tab.locator("details[open]").count() == 0  # tables are in their files
    assert dark.tab.get_by_role("row").first.is_visible()
    dark.tab.emulate_media(media="screen")


def test_a_comparison_draws_its_pairs(browser: Any, paths: dict[str, Path]) -> None:
    seen = Seen(browser, paths["compared"]).whole()
    assert seen.complaints == []
    assert seen.tab.locator("h1").inner_text() == "Comparison: small and large"
    assert seen.tab.evaluate(UNNAMED) == []
    assert seen.tab.evaluate("window.attacked") is None
    seen.tab.close()
