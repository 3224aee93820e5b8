"""What people give the page beside pictures, and pictures that move."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("playwright")
from playwright.sync_api import Browser, expect

from tests.service.page.browser import MARKS, Seen, opened
from tests.service.page.conftest import World

pytestmark = MARKS
RED, BLUE = (220, 20, 30), (20, 30, 220)


def test_of_a_folder_the_pictures_at_all_depths_are_taken(seen: Seen, world: World, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    names = ["a10.png", "a9.png", ".hidden.png", "notes.txt", "deep/er/b.JPG"]
    for path in map(folder.joinpath, names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(world.others[0].read_bytes())
    seen.drop(folder)
    seen.answered(3)
    assert seen.page.locator(".toggle").all_inner_texts() == ["a9.png", "a10.png", "b.JPG"]
    expect(seen.page.locator("body.dropping")).to_have_count(0)
    (tmp_path / "empty").mkdir()
    seen.drop(tmp_path / "empty")
    expect(seen.page.locator("#notice")).to_have_text("There was no picture in the folder.")
    seen.drop(world.others[1])
    seen.answered(4)
    expect(seen.page.locator("#notice")).to_be_empty()
    assert seen.said == []


GONE = """() => {
  const refuse = ([entry]) => {
    const files = Object.getPrototypeOf(entry); // no name leads there
    const { file } = files;
    files.file = function (done, fail) {
      if (this.name === "gone.png") fail(new DOMException("gone since it was listed", "NotFoundError"));
      else file.call(this, done, fail);
    };
  };
  const { webkitGetAsEntry } = DataTransferItem.prototype;
  DataTransferItem.prototype.webkitGetAsEntry = function () {
    const folder = webkitGetAsEntry.call(this);
    folder.createReader().readEntries(refuse);
    return folder;
  };
}"""


def test_a_file_of_a_folder_that_cannot_be_read_costs_none_of_the_others(
    seen: Seen, world: World, tmp_path: Path
) -> None:
    for name in ("a.png", "gone.png", "z.png"):
        (tmp_path / name).write_bytes(world.others[0].read_bytes())
    seen.page.evaluate(GONE)
    seen.drop(tmp_path)
    seen.answered(2)
    assert seen.page.locator(".toggle").all_inner_texts() == ["a.png", "z.png"]


@pytest.mark.slow
def test_of_a_very_large_folder_the_first_thousand_are_taken(seen: Seen, tmp_path: Path) -> None:
    for i in range(1_001):
        (tmp_path / f"{i}.png").touch()
    held = seen.hold("**/predict")
    seen.drop(tmp_path)
    expect(seen.cards).to_have_count(1_000)
    expect(seen.page.locator("#notice")).to_have_text("Only the first 1,000 pictures are taken.")
    assert len(held) <= 3


GIVE_TEXT = """([type, text]) => {
  const data = new DataTransfer();
  data.setData(type, text);
  document.body.dispatchEvent(new ClipboardEvent("paste", { bubbles: true, clipboardData: data }));
}"""


@pytest.mark.parametrize(
    ("kind", "text", "notice"),
    [
        ("text/plain", "https://example.org/a.png\n", "That is a link"),
        ("text/uri-list", "https://example.org/a.png", "That is a link"),
        ("text/plain", "see https://example.org", "There was no file in it"),
    ],
)
def test_what_is_no_file_is_named_where_it_is_seen(
    seen: Seen, world: World, kind: str, text: str, notice: str
) -> None:
    seen.give("paste", world.others[:2])
    seen.answered(2)
    seen.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    before = len(seen.asked)
    seen.page.evaluate(GIVE_TEXT, [kind, text])
    expect(seen.page.locator("#notice")).to_contain_text(notice)
    expect(seen.page.locator("#notice")).to_be_in_viewport()
    expect(seen.page.get_by_role("status")).to_contain_text(notice)
    assert len([one for one in seen.asked[before:] if "/picture" not in one]) == 0
    assert seen.cards.count() == 2


def test_a_picture_of_the_page_is_not_dropped_on_it(seen: Seen, world: World) -> None:
    seen.choose(world.others[:1])
    seen.answered(1)
    seen.page.locator("img.large").drag_to(seen.page.locator("#drop"))
    expect(seen.page.locator("#notice")).to_be_empty()
    assert seen.cards.count() == 1


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_shown(
    browser: Browser, url: str, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"moving.{suffix}"
    red, blue = (Image.new("RGB", (320, 200), color) for color in (RED, BLUE))
    red.save(path, save_all=True, append_images=[blue] * 4, duration=60, loop=0, lossless=True)
    with opened(browser, url) as seen:
        seen.choose([path])
        seen.answered(1)
        expect(seen.page.locator(".picture figcaption")).to_contain_text("320 × 200 px")
        expect(seen.page.locator(".picture figcaption")).to_contain_text("first frame")
        for _ in range(3):
            shown = _middle(seen, tmp_path / "shown.png")
            assert sum(abs(a - b) for a, b in zip(shown, RED, strict=True)) < 30
            seen.page.wait_for_timeout(70)
        assert seen.said == []


def _middle(seen: Seen, path: Path) -> list[int]:
    """The colour in the middle of the picture on the screen."""
    seen.page.locator("img.large").screenshot(path=path)
    with Image.open(path) as image:
        return [*image.convert("RGB").resize((3, 3), Image.Resampling.BOX).tobytes()[12:15]]


def test_pictures_of_any_form_are_told_by_their_pixels(seen: Seen, tmp_path: Path) -> None:
    sizes = {"dot.png": (1, 1), "wide.png": (1200, 10), "tall.png": (10, 1200)}
    for name, form in sizes.items():
        Image.new("RGB", form, RED).save(tmp_path / name)
    seen.choose([tmp_path / name for name in sizes])
    seen.answered(3)
    captions = seen.page.locator(".picture figcaption")
    for i, told in enumerate(["1 × 1 px", "1,200 × 10 px", "10 × 1,200 px"]):
        expect(captions.nth(i)).to_contain_text(told)
        seen.page.get_by_role("button", name="Where it looks for bookmark").nth(i).click()
    expect(captions.first).to_contain_text(f"{(tmp_path / 'dot.png').stat().st_size} bytes")
    expect(seen.page.locator(".map img")).to_have_count(3)
    forms = seen.page.locator(".map img").evaluate_all("(all) => all.map((one) => one.width / one.height)")
    assert forms == pytest.approx([1, 4, 1 / 4], rel=0.02)  # a strip is widened until it can be made out
    assert seen.overflow() <= 0
    assert seen.said == []


def test_the_same_file_twice_is_two_pictures(seen: Seen, world: World) -> None:
    seen.choose(world.others[:1])
    seen.answered(1)
    seen.choose(world.others[:1])
    seen.answered(2)
    seen.page.get_by_role("button", name=f"Remove {world.others[0].name}").first.click()
    seen.answered(1)
    expect(seen.page.locator("#counts")).to_have_text("1 picture")
