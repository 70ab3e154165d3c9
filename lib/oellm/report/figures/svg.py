"""Drawings of matplotlib as SVG and PNG: the same bytes for the same drawing, and no warnings.

matplotlib's SVG has a style sheet, `style` attributes, and ids that would clash with those of other
figures in a page. This module rewrites it to be part of the page; docs/DESIGN.md says why.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from oellm.errors import MachineError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from matplotlib.figure import Figure as Drawing

# The colour of text and axes. In a page they take the colour of its text instead.
INK = "#333333"
# Dots per inch of a PNG.
DPI = 200

_NAMESPACE = "http://www.w3.org/2000/svg"
_FONTS = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
_STYLE: dict[Any, Any] = {
    # Text stays text: readers can search it, and their fonts have glyphs that matplotlib's lacks.
    "svg.fonttype": "none",
    "svg.hashsalt": "oellm",
    # A name with two dollar signs is not a formula.
    "text.parse_math": False,
    "axes.facecolor": "none",
    "axes.unicode_minus": False,
    "path.simplify": False,
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}


@contextlib.contextmanager
def drawing_style() -> Iterator[None]:
    """Set matplotlib's defaults and our style, whatever the user's matplotlibrc says.

    All drawing and rendering happens inside this context. Raises MachineError if matplotlib is
    missing.
    """
    import logging
    import warnings

    # matplotlib warns if it cannot write a cache into the home; our user need not know.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise MachineError("figures need matplotlib: pip install 'oellm[report]'") from None
    with matplotlib.rc_context(), warnings.catch_warnings():
        # matplotlib warns of glyphs that its font lacks; the reader's font may have them.
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def render_png(drawing: Drawing) -> bytes:
    """Return a drawing as PNG on white."""
    stream = io.BytesIO()
    drawing.savefig(stream, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return stream.getvalue()


def render_file(drawing: Drawing, name: str, title: str) -> bytes:
    """Return a drawing as the content of an SVG file, on white, in its own size."""
    content = _tidied(drawing, name, title, attributes={"font-family": _FONTS}, background="white")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{content}\n'.encode()


def render_element(drawing: Drawing, name: str, title: str) -> str:
    """Return a drawing as an element of a page.

    It is transparent and as wide as the element around it, and has the font and colour of the text
    there. Its ids start with `name`; it has no style sheet and no `style` attributes.
    """
    element = _tidied(drawing, name, title, attributes={"width": "100%"}, background="none")
    return element.replace(f'"{INK}"', '"currentColor"')


def _tidied(
    drawing: Drawing, name: str, title: str, *, attributes: dict[str, str], background: str
) -> str:
    """Return matplotlib's SVG without the parts that vary from run to run or are of no use."""
    from xml.etree import ElementTree

    stream = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    drawing.savefig(stream, format="svg", facecolor=background, metadata=nothing)
    # The parser is safe here: matplotlib has just written this text.
    root = ElementTree.fromstring(stream.getvalue())  # noqa: S314
    for parent in root.iter():
        for child in list(parent):
            if child.tag == f"{{{_NAMESPACE}}}style":
                parent.remove(child)
    used = {target for element in root.iter() for target in _references(element)}
    for element in root.iter():
        _tidy(element, name, used)
    root.attrib = {
        "xmlns": _NAMESPACE,
        **{key: root.attrib[key] for key in ("width", "height", "viewBox")},
        **attributes,
        "role": "img",
        "aria-label": title,
        "stroke-linejoin": "round",
    }
    if attributes.get("width"):
        del root.attrib["height"]
    return ElementTree.tostring(root, encoding="unicode")


def _references(element: Element) -> list[str]:
    return re.findall(r"#([\w.-]+)", " ".join(_linking(element).values()))


def _linking(element: Element) -> dict[str, str]:
    """Return the attributes that name other elements by their ids."""
    return {
        key: value
        for key, value in element.attrib.items()
        if key == "clip-path" or key.endswith("href")
    }


def _tidy(element: Element, name: str, used: set[str]) -> None:
    """Shorten an element in place: attributes for styles, short numbers, only ids in use."""
    element.tag = element.tag.partition("}")[2]
    if element.tag != "text":
        element.text = None
    element.tail = None
    attributes: dict[str, Any] = {}
    links = _linking(element)
    for key, value in element.attrib.items():
        if key == "id":
            if value in used:
                attributes["id"] = f"{name}--{value}"
        elif key in links:
            attributes[key.rpartition("}")[2]] = value.replace("#", f"#{name}--")
        elif key == "style":
            attributes |= _declarations(value)
        elif key == "d":
            attributes["d"] = _path(value)
        elif key in ("x", "y", "width", "height", "transform"):
            attributes[key] = _rounded(value)
        else:
            attributes[key] = value
    if re.match(r"rotate\(-?0 ", attributes.get("transform", "")):
        del attributes["transform"]
    element.attrib = attributes


def _declarations(text: str) -> dict[str, str]:
    """Return the declarations of a style attribute as attributes, without the font's name."""
    attributes = {}
    for declaration in text.split(";"):
        key, _, value = declaration.strip().partition(": ")
        if key == "font":
            # Until matplotlib 3.9: `font: 10px 'DejaVu Sans', …`.
            key, value = "font-size", value.partition(" ")[0]
        if key and key != "font-family":
            attributes[key] = value
    return attributes


def _path(data: str) -> str:
    data = _rounded(" ".join(data.split()))
    # Points after M or L belong to lines, so that only the first L is needed.
    return data if "C" in data or "Q" in data else data.replace(" L ", " ")


def _rounded(text: str) -> str:
    """Return text with its numbers rounded to hundredths of a point."""
    return re.sub(
        r"-?[0-9]+\.[0-9]+", lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), text
    )
