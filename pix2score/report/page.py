"""One report as one self-contained HTML file: sections of sentences, tables, charts and pictures.

By the template ``page.html``.

Owns the form only. What a report says: ``evaluation_page`` and ``report``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pix2score.cli.packages import need
from pix2score.heads.bins import short

NEEDED = ("vl_convert", "jinja2")
LARGE = 1000
"""Numbers from here on are shortened."""


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence; ``mood`` is empty, good, bad or note."""

    text: str
    mood: str = ""


@dataclass(frozen=True, slots=True)
class TextTable:
    """Cells as text; ``prose``: the last column holds sentences, which wrap.

    ``stacks``: on a narrow page every row is a paragraph of names and numbers instead.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    prose: bool = False
    stacks: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """An SVG of ``charts``."""

    svg: str
    caption: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A thumbnail (base64 JPEG, empty if there is none) with its id and what to say of it."""

    id: str
    image: str
    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures side by side; ``search`` puts a box above them that filters by id."""

    title: str
    pictures: Sequence[Picture]
    note: str = ""
    search: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page, shown in the order of its fields."""

    title: str
    lines: Sequence[Line] = ()
    tables: Sequence[TextTable] = ()
    charts: Sequence[Chart] = ()
    galleries: Sequence[Gallery] = field(default_factory=list)


def check_packages() -> None:
    """Raise ``ConfigError`` naming the packages that a report needs and this environment lacks."""
    need("a report", "report", NEEDED)


def page(
    title: str, lead: Sequence[str], facts: Mapping[str, str], sections: Sequence[Section], foot: str
) -> bytes:
    """The file's content. Everything but the charts is escaped: ids and error texts come from strangers."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pix2score.report", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    text = environment.get_template("page.html").render(
        title=title, lead=lead, facts=facts, sections=sections, foot=foot
    )
    return text.encode()


def encoded(image: bytes) -> str:
    """JPEG bytes as the page holds them."""
    return base64.b64encode(image).decode()


def number(value: float | None, digits: int = 3) -> str:
    """A number for a cell, ``-`` where there is none; a large one in a few characters: ``84.5M``."""
    if value is None:
        return "-"
    return short(value) if abs(value) >= LARGE else f"{value:.{digits}f}"
