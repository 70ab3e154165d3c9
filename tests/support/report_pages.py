"""Pages of oe-report, as a browser without scripts shows them, and records to make them from."""

from __future__ import annotations

import html.parser
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from oellm.metrics.records import MetricRecord
from oellm.report import page as report
from oellm.report.runs import RunFacts, UnreadableRun
from support.pivots import record

# Elements that have no end tag.
_VOID = ("meta", "input", "br", "link", "img")


class Node:
    """An element: its tag, its attributes, and its children, which are elements and texts."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Node | str] = []

    @property
    def text(self) -> str:
        """Return all its text, as one line."""
        texts = (child if isinstance(child, str) else child.text for child in self.children)
        return " ".join("".join(texts).split())

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    def all(self, tag: str, **attributes: str) -> list[Node]:
        """Return the elements in it with a tag ("" for any) and attributes, in document order."""
        return [node for node in self._below() if node._is(tag, attributes)]

    def one(self, tag: str, **attributes: str) -> Node:
        (found,) = self.all(tag, **attributes)
        return found

    def _is(self, tag: str, attributes: dict[str, str]) -> bool:
        return tag in ("", self.tag) and attributes.items() <= self.attributes.items()

    def _below(self) -> Iterator[Node]:
        for child in self.children:
            if isinstance(child, Node):
                yield child
                yield from child._below()


class _Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Node("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in _VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> ends what it did not begin"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parsed(text: str) -> Node:
    """Return the root of a page; fails if an element is not closed properly."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].tag}> has no end"
    return reader.open[0]


class Cells(NamedTuple):
    """A leaderboard: its headers, and its cells by full model name."""

    heads: list[Node]
    rows: dict[str, list[Node]]

    def column(self, head: str) -> dict[str, Node]:
        """Return the cells of the column whose header is `head`."""
        (place,) = (n for n, each in enumerate(self.heads) if each.all("button")[0].text == head)
        return {model: cells[place] for model, cells in self.rows.items()}


def boards(page: Node) -> list[Cells]:
    """Return the leaderboards of a page or of part of one."""
    tables = [table for table in page.all("table") if "board" in table.classes]
    return [
        Cells(
            table.one("thead").all("th"),
            {
                row.attributes["data-name"]: row.all("th") + row.all("td")
                for row in table.one("tbody").all("tr")
            },
        )
        for table in tables
    ]


def page(
    records: Sequence[MetricRecord],
    runs: Sequence[RunFacts | UnreadableRun] = (),
    title: str = "Scores",
) -> Node:
    """Return the page of records, without figures."""
    contents = report.PageContents(
        title=title,
        records=records,
        runs=runs,
        figures=report.PageFigures(curves=[], language_map=None),
        languages={},
    )
    return parsed(report.render_page(contents, lambda _: None))


def score(model: str, task: str, value: float, **others: Any) -> MetricRecord:
    """Return a primary metric record."""
    usual: dict[str, Any] = {"eval_id": "", "n_samples": 100, "stderr": 0.0125}
    return record(model, task, value, **{**usual, **others})


def many(models: int, tasks: int) -> list[MetricRecord]:
    """Return records of checkpoints on tasks. Half of the tasks are parts of the others."""
    chance = random.Random(models)
    own = tasks // 2
    found = []
    for number in range(models):
        step = {"step": 1000 * (number // 4 + 1)}
        run = f"/evals/open-sci-ref-1.7b-nemotron-300B-{number % 4}/hf/iter_{step['step']:07d}"
        for task in range(tasks):
            group = "" if task < own else f"task_{task % own}_of_many"
            name = f"{group}_part_{task}" if group else f"task_{task}_of_many"
            found.append(score(run, name, round(chance.random(), 6), group=group, **step))
    return found
