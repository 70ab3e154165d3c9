"""The page of oe-report in a real browser: its script, on a screen and on paper.

Without Chromium these tests skip and say so; with CI=true in the environment they fail instead.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oellm.core.tables import select_fields
from oellm.metrics.records import MetricRecord, column_names
from support.processes import ROOT, Run
from support.report_pages import many, score
from support.score_lines import HOSTILE_MODEL
from support.skipping import skip_or_fail

pytestmark = pytest.mark.slow
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
# For each place of a name in a page, a text that would run a script there.
ATTACKS = [
    "<script>document.title='run'</script>",
    '"><img src=x onerror="document.title=\'run\'">',
    "</script></style><svg onload=\"document.title='run'\">",
    "'><a href=https://example.org/run>run</a>",
]
# The texts of the visible cells, row by row.
SHOWN = """return [...document.querySelectorAll("table.board tr")].map(row =>
    [...row.cells].filter(cell => cell.offsetParent).map(cell => cell.innerText.trim())
).filter(row => row.length)"""
SORT = """const head = [...document.querySelectorAll("thead .sort")][arguments[0]];
const begin = performance.now(); head.click(); document.body.offsetHeight;
return performance.now() - begin"""


class Browser:
    """Chromium with a page of oe-report."""

    def __init__(self, driver: Any, run: Run, directory: Path) -> None:
        self.driver, self._run, self.path = driver, run, directory / "report #1.html"

    def show(self, records: list[MetricRecord], *options: str) -> None:
        columns = column_names()
        values = select_fields(records, columns)
        rows = (dict(zip(columns, row, strict=True)) for row in values)
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        self._run("oe-report", f"--output={self.path}", *options, stdin=text)
        # Entries until now are about the start of the browser.
        self.logged("performance"), self.logged("browser")
        self.driver.get(self.path.as_uri())

    def logged(self, kind: str) -> list[Any]:
        entries: list[Any] = self.driver.get_log(kind)
        return entries

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements("css selector", selector)
        return found

    def one(self, selector: str) -> Any:
        (found,) = self.all(selector)
        return found

    def column(self, place: int) -> list[str]:
        """Return the texts of a visible column, without its head."""
        return [row[place] for row in self.script(SHOWN)[1:]]

    def orders(self) -> list[str]:
        return [head.get_attribute("aria-sort") for head in self.all("thead th")]

    def type(self, selector: str, text: str) -> None:
        field = self.one(selector)
        field.clear()
        field.send_keys(text)

    def overflows(self) -> bool:
        """Return whether the page, apart from its boards, is wider than the window."""
        wider = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
        return bool(self.script(wider))

    def width(self, pixels: int) -> None:
        metrics = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    check = subprocess.run(
        [ROOT / "scripts" / "install-browser", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    if check.returncode:
        reason = f"{'; '.join(check.stdout.splitlines())} (scripts/install-browser installs it)"
        skip_or_fail(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    yield started
    started.quit()


@pytest.fixture
def browser(driver: Any, run: Run, tmp_path: Path) -> Browser:
    found = Browser(driver, run, tmp_path)
    found.width(1400)
    return found


def small() -> list[MetricRecord]:
    """Return scores of three models on four tasks, one of them in two parts."""
    values = {
        "org/a": (0.25, 0.75, 2.5, 0.5, 0.4, 0.6),
        "org/b": (0.5, 0.25, 1.5, 0.625, 0.5, 0.75),
        "org/c": (0.375, 0.5, 10.5, 0.375, 0.25, 0.5),
    }
    found = []
    for model, (first, second, loss, mmlu, art, law) in values.items():
        found += [score(model, "arc", first, n_shot=25), score(model, "boolq", second)]
        found += [score(model, "loss", loss, higher_is_better=False, stderr=None)]
        found += [score(model, "mmlu", mmlu)]
        found += [score(model, "mmlu_art", art, group="mmlu")]
        found += [score(model, "mmlu_law", law, group="mmlu")]
    # One score is missing.
    return [each for each in found if (each.model_path, each.task) != ("org/b", "boolq")]


def test_a_small_page_shows_its_records(browser: Browser) -> None:
    browser.show(small())
    assert browser.script(SHOWN) == [
        [
            *("model", "average\nof 2 columns", "arc\n25-shot, acc", "boolq\n0-shot, acc"),
            *("loss\n0-shot, acc ↓", "mmlu\n0-shot, acc\n2"),
        ],
        ["a", "0.375", "0.250", "0.750", "2.50", "0.500"],
        ["b", "0.562", "0.500", "–", "1.50", "0.625"],
        ["c", "0.375", "0.375", "0.500", "10.50", "0.375"],
    ]
    for width in (1400, 400):
        browser.width(width)
        assert not browser.overflows()


def test_clicks_and_keys_sort(browser: Browser) -> None:
    browser.show(small())
    model, _, arc, boolq, loss, *_ = browser.all("thead .sort")
    arc.click()
    assert browser.column(0) == ["b", "c", "a"]
    assert browser.orders()[:4] == ["none", "none", "descending", "none"]
    arc.click()
    assert browser.column(0) == ["a", "c", "b"]
    assert browser.orders()[2] == "ascending"
    # The best comes first (the lowest loss), and missing scores last.
    loss.send_keys("\ue007")
    assert browser.column(4) == ["1.50", "2.50", "10.50"]
    assert browser.orders()[4] == "ascending"
    for order in (["0.750", "0.500", "–"], ["0.500", "0.750", "–"]):
        boolq.send_keys(" ")
        assert browser.column(3) == order
    model.click()
    assert browser.column(0) == ["a", "b", "c"]


def test_filters_narrow_down_models_and_tasks(browser: Browser) -> None:
    browser.show(small())
    browser.type("#models", "B ORG")
    assert browser.column(0) == ["b"]
    assert browser.one("output").text == "1 of 3 models shown"
    browser.type("#models", "nothing")
    assert browser.column(0) == []
    browser.type("#models", " ")
    # The filter also finds folded parts.
    browser.type("#tasks", "la")
    assert browser.script(SHOWN)[0][2:] == ["mmlu_law\n0-shot, acc"]
    browser.type("#tasks", "l")
    browser.one("#tasks").send_keys("\ue003")
    assert len(browser.script(SHOWN)[0]) == 6
    assert browser.one("output").text == ""


def test_parts_unfold_and_errors_are_switched_on(browser: Browser) -> None:
    browser.show(small())
    fold = browser.one(".fold")
    fold.send_keys(" ")
    assert fold.get_attribute("aria-expanded") == "true"
    assert browser.script(SHOWN)[1][5:] == ["0.500", "0.400", "0.600"]
    fold.click()
    assert fold.get_attribute("aria-expanded") == "false"
    assert browser.script(SHOWN)[1][5:] == ["0.500"]
    browser.one("#stderrs").click()
    assert browser.script(SHOWN)[1][2:] == [
        "0.250\n±0.013 n=100",
        "0.750\n±0.013 n=100",
        "2.50\nn=100",
        "0.500\n±0.013 n=100",
    ]


def test_names_do_not_run_and_nothing_is_loaded(browser: Browser) -> None:
    names = [*ATTACKS, HOSTILE_MODEL]
    steps = [
        score(f"{name}/step{step}", "curve", 0.1 * step, step=step)
        for name in names
        for step in (1, 2)
    ]
    hostile = [
        score(name, name, 0.5, metric=name, filter=name, run_dir=name, eval_suite=name)
        for name in names
    ]
    browser.show([*hostile, *steps], f"--title={ATTACKS[0]}")
    heads = browser.script('return [...document.querySelectorAll("tbody th")].map(th => th.title)')
    assert {*names} <= {*heads}
    assert browser.driver.title == browser.one("h1").text == ATTACKS[0]
    assert len(browser.all("figure svg")) == 1
    browser.one("#models").send_keys("script")
    for head in browser.all("thead .sort")[:2]:
        browser.script("arguments[0].click()", head)
    assert browser.driver.title == ATTACKS[0]
    assert browser.all("main img, main script, main a[href^=http]") == []
    assert browser.logged("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.logged("performance")]
    asked = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert asked == {browser.path.as_uri()}


def test_the_policy_stops_foreign_scripts(browser: Browser) -> None:
    browser.show(small())
    browser.script("""const script = document.createElement("script");
        script.textContent = "document.title = 'run'"; document.body.append(script);
        document.body.append(Object.assign(new Image(), {src: "https://example.org/x.png"}))""")
    assert browser.driver.title == "Evaluation report"
    messages = [entry["message"] for entry in browser.logged("browser")]
    assert len([text for text in messages if "Content Security Policy" in text]) == 2


def test_a_large_page_is_small_fast_and_within_its_frame(browser: Browser) -> None:
    browser.show(many(200, 60))
    assert browser.path.stat().st_size < 5_000_000
    times = [browser.script(SORT, place) for place in (3, 3, 0)]
    assert max(times) < 1000, times
    assert len(browser.column(0)) == 200
    rows = browser.script('return document.querySelector(".board tbody tr").offsetHeight')
    assert rows < 40, "a name takes more than a line"
    frame = browser.one(".frame")
    assert frame.get_attribute("class").split() == ["frame", "more-right", "more-below"]
    browser.script('document.querySelector(".scroll").scrollTo(1e6, 1e6)')
    # Their events fire with the next frame.
    wait = "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
    browser.driver.execute_async_script(wait)
    assert frame.get_attribute("class") == "frame"
    # The head and the names stay in place.
    edges = """const at = (selector) => document.querySelector(selector).getBoundingClientRect();
        return [at("thead th").top - at(".scroll").top, at("tbody th").left - at(".scroll").left]"""
    assert browser.script(edges) == [1, 1]
    for width in (1400, 400):
        browser.width(width)
        assert not browser.overflows()


def test_paper_has_all_columns(browser: Browser) -> None:
    browser.show(many(5, 60))
    browser.script("""addEventListener("beforeprint", () => {
        window.printed = [...document.querySelectorAll(".prints table")].map(table => [
            [...table.tHead.rows[0].querySelectorAll(".name")].map(name => name.textContent),
            table.tBodies[0].rows.length])})""")
    asked = {"preferCSSPageSize": True, "printBackground": True}
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", asked)
    assert base64.b64decode(printed["data"])[:5] == b"%PDF-"
    tables = browser.script("return window.printed")
    assert [rows for _, rows in tables] == [5] * 3
    assert {heads[0] for heads, _ in tables} == {"model"}
    tasks = [f"task_{number}_of_many" for number in range(30)]
    assert [name for heads, _ in tables for name in heads[1:]] == ["average", *tasks]
    # After printing, the screen is as before.
    assert len(browser.all("table.board")) == 1
    # The width of A4 without margins.
    browser.width(1039)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.script('dispatchEvent(new Event("beforeprint"))')
    widths = [table.size["width"] for table in browser.all(".prints table")]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert len(widths) == 3
    assert max(widths) <= 1039
