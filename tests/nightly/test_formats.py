"""A row that failed for its format is due once: on the first night that decodes the format, and no other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from pix2score.catalog.expressions import Expression
from pix2score.errors import ImageFailure
from pix2score.images import decode
from pix2score.images.formats import heif, jxl, refusals
from pix2score.images.formats.signatures import BY_EXTRAS
from pix2score.nightly import formats, publication
from tests.support.nights import World, keys
from tests.support.pictures import EIGHT

FEW = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60)
JXL = b"\xff\x0a" + bytes(60)
AVIF = b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(60)
PSD = b"8BPS\0\1" + bytes(60)
IMAGES = {(2, 0): HEIC, (3, 0): JXL, (4, 0): PSD, (5, 0): AVIF}
CONTENT = {**keys(1), **{key: f"UNSUPPORTED {key}" for key in IMAGES}}


class Machine:
    """Where some formats are decoded and others are not."""

    def __init__(self, patch: pytest.MonkeyPatch, world: World) -> None:
        self._patch, self._world = patch, world

    def decodes(self, *more: str) -> None:
        """From now on: the first formats and these. What fails says so in the words of the decoder."""
        known = (*FEW, *more)
        for module in (decode, refusals, formats, publication):
            self._patch.setattr(module, "FORMATS", known)
        self._patch.setattr(refusals, "PLAIN", known)
        self._patch.setattr(heif, "FORMATS", tuple({"HEIF"} & {*more}))
        self._patch.setattr(jxl, "FORMATS", tuple({"JXL"} & {*more}))
        for key, data in IMAGES.items():
            with pytest.raises(ImageFailure) as caught:
                decode.to_rgb(data, EIGHT)
            is_unread = caught.value.code == "UNSUPPORTED"
            self._world.details[key] = caught.value.detail if is_unread else "AVIF: broken"

    def due(self) -> list[tuple[int | str, int]]:
        """Keys that a night would work on."""
        plan, publication = self._world.plan(CONTENT)
        self._world.stage(plan, publication)
        self._world.folder.delete(
            [entry.path for entry in self._world.folder.entries(f"staged/{publication.origin.run}")]
        )
        return sorted(self._world.scored)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


@pytest.fixture
def machine(world: World, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch, world)


def test_rows_are_due_once_on_the_night_that_decodes_their_format(world: World, machine: Machine) -> None:
    machine.decodes("AVIF")
    world.night(CONTENT)
    assert machine.due() == []
    machine.decodes("AVIF", "HEIF")
    assert machine.due() == [(2, 0)]
    world.is_read = {(2, 0)}
    world.night(CONTENT)
    assert world.scored == [(2, 0)]
    assert world.rows()[2, 0]["status"] == "ok"
    assert world.rows()[2, 0]["attempts"] == 1
    assert machine.due() == []
    machine.decodes("AVIF")  # a night elsewhere, then here again
    assert world.night(CONTENT) is None
    machine.decodes("AVIF", "HEIF", "JXL")
    assert machine.due() == [(3, 0)]


def test_a_row_that_fails_again_says_so_in_other_words_and_is_not_due(world: World, machine: Machine) -> None:
    machine.decodes()
    world.night(CONTENT)
    machine.decodes("HEIF", "JXL", "AVIF")
    assert machine.due() == [(2, 0), (3, 0), (5, 0)]
    world.night(CONTENT)  # none of them is whole
    assert world.scored == [(2, 0), (3, 0), (5, 0)]
    assert machine.due() == []


def test_a_night_that_did_not_come_to_a_row_leaves_it_due(world: World, machine: Machine) -> None:
    machine.decodes()
    world.night(CONTENT)
    machine.decodes("HEIF")
    world.night({**CONTENT, (9, 0): "v9"}, where=Expression("--where", "illust_id = 9"))
    assert world.scored == [(9, 0)]
    plan, _ = world.plan({**CONTENT, (9, 0): "v9"})
    assert plan.counts.retry == 1


def test_a_staged_failure_is_resumed_unless_its_format_is_decoded_now(world: World, machine: Machine) -> None:
    world.night(keys(1))
    machine.decodes()
    world.night(CONTENT, killed_after=2)
    machine.decodes("HEIF")
    plan, publication = world.plan(CONTENT)
    world.stage(plan, publication)
    assert world.scored == [(2, 0)]
    assert plan.counts.resumed == 3


@pytest.mark.parametrize(
    ("detail", "read"),
    [
        ("not one of JPEG, PNG, WEBP, GIF, BMP, TIFF; begins with b'x'", ["AVIF"]),
        ("not one of JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF; begins with b'x'", ["HEIF"]),
    ],
)
def test_words_of_earlier_versions_count(
    world: World, machine: Machine, detail: str, read: list[str]
) -> None:
    machine.decodes(*(["AVIF"] if "AVIF" in detail else []))
    world.details[4, 0] = detail
    world.night(CONTENT)
    assert (4, 0) not in machine.due()
    machine.decodes(*read, *(["AVIF"] if "AVIF" in detail else []))
    assert (4, 0) in machine.due()


@pytest.mark.parametrize(
    "detail",
    [
        "a 12-bit JPEG: only 8 bits are decoded",
        "a TIFF of 12-bit signed grey, samples per pixel 1",
        "HEIF: RuntimeError: Unsupported feature",
        "of no known format, begins with b'x'; decoded are JPEG, PNG, WEBP, GIF, BMP, TIFF",
        "floating-point pixels have no agreed range",
    ],
)
def test_rows_of_formats_that_stay_unread_stay(world: World, machine: Machine, detail: str) -> None:
    machine.decodes()
    world.details[4, 0] = detail
    world.night(CONTENT)
    machine.decodes(*BY_EXTRAS)
    assert machine.due() == [(2, 0), (3, 0), (5, 0)]


def test_every_format_of_an_extra_has_words() -> None:
    assert {*_extras()} <= {*BY_EXTRAS}


def _extras() -> Iterable[str]:
    return {*decode.FORMATS} - {*FEW}
