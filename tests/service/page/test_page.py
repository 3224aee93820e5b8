"""The page in a real browser: how pictures come in, what is told of them, and what when there is none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Route, expect

from tests.service.page.browser import LOOKS, MARKS, PHONE, Relay, Seen, opened
from tests.service.page.conftest import World
from tests.support.every_head import FITTED
from tests.support.pictures import noise

pytestmark = MARKS
FOR_TOUCH = 44


def test_a_first_visit_says_what_the_page_does_and_which_model_answers(seen: Seen, world: World) -> None:
    page = seen.page
    expect(page.get_by_text("see what the model says of it")).to_be_visible()
    expect(page.locator("#model")).to_contain_text(
        f"Model {world.model.card.version} answers 8 heads: bookmark"
    )
    expect(page.locator("#model")).to_contain_text("snapshot 1 of the catalog")
    expect(page.locator("#results")).to_be_hidden()
    assert seen.said == []


def test_a_chosen_picture_is_answered_by_a_head_of_every_kind(seen: Seen, world: World) -> None:
    seen.choose(world.others[:1])
    seen.answered(1)
    (answer,) = world.model.predict([world.others[0]])
    expect(seen.page.locator(".head")).to_have_count(len(FITTED))
    for head in FITTED.values():
        said: dict[str, Any] = answer.heads[head.name]
        panel = seen.page.get_by_role("group", name=head.name, exact=True)
        text = panel.inner_text()
        if "score" in said:
            assert f"score {said['score']:.2f}" in text
        if "probs" in said:
            names = said.get("tags") or [*head.legend().values()]
            rows = panel.locator("tbody tr").all_inner_texts()
            assert len(rows) == len(said["probs"])
            shown = {row.split("\t")[0].replace("–", "-"): row.split("\t")[1] for row in rows}
            for name, prob in zip(names, said["probs"], strict=True):
                assert abs(float(shown[name].strip("<%")) / 100 - prob) <= 0.006, (head.name, name)
        for key, wanted in {"label": str, "class": str, "yes": lambda yes: "yes" if yes else "no"}.items():
            if key in said:
                assert panel.locator(".headline b").inner_text().replace("–", "-") == wanted(said[key])
        for key, sign in (("value", ""), ("reward", "+-")):
            if key in said:
                headline = panel.locator(".headline b").inner_text()
                assert float(headline) == pytest.approx(said[key], rel=1e-3, abs=6e-3)
                assert not sign or headline[0] in sign
        if "expected" in said:
            assert f"expected {round(said['expected']):,}" in text or said["expected"] < 1000
    assert seen.said == []


def test_only_the_service_is_asked_and_nothing_runs_that_is_not_its_file(
    seen: Seen, world: World, url: str
) -> None:
    seen.choose(world.others[:1])
    seen.answered(1)
    expect(seen.page.locator(".tile")).to_have_count(12)
    hosts = {address for address in seen.asked if not address.startswith((url, "blob:", "data:"))}
    assert hosts == set()
    assert seen.page.locator("script:not([src]), style, [style]:not([style^='--']), [onclick]").count() == 0
    assert seen.said == []


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_pictures_are_taken_as_they_come(seen: Seen, world: World, how: str) -> None:
    seen.give(how, world.others[:2])
    seen.answered(2)
    assert seen.page.locator(".toggle").all_inner_texts() == [path.name for path in world.others[:2]]
    seen.give(how, world.others[2:])
    seen.answered(3)
    assert seen.page.locator(".toggle").first.inner_text() == world.others[2].name
    expect(seen.page.locator("#counts")).to_have_text("3 pictures")
    assert seen.said == []


def test_what_holds_no_file_is_said_and_asks_nothing(seen: Seen) -> None:
    before = len(seen.asked)
    seen.give("paste", [])
    expect(seen.page.locator("#notice")).to_contain_text("There was no file in it")
    assert len(seen.asked) == before


def test_a_broken_picture_among_others_is_told_in_its_place(seen: Seen, world: World, tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no picture at all")
    seen.give("drop", [world.others[0], world.broken, text, world.others[1]])
    seen.answered(2)
    wrong = seen.cards.filter(has_text="broken.png")
    expect(wrong).to_contain_text("The end of this picture is missing. TRUNCATED: ")
    expect(seen.cards.filter(has_text="notes.png")).to_contain_text(
        "no picture of a kind that the model reads"
    )
    expect(seen.page.locator("#counts")).to_have_text("4 pictures · 2 without an answer")
    expect(seen.page.locator("#said")).to_have_text("2 answered, 2 without an answer")
    # The browser itself tells of statuses from 400; the page says nothing.
    assert {line.partition(" (")[0] for line in seen.said} == {
        "error: Failed to load resource: the server responded with a status of 422",
        "error: Failed to load resource: the server responded with a status of 415",
    }


def test_a_service_that_is_stopped_is_told_and_asked_again_when_it_is_back(
    browser: Browser, world: World, url: str
) -> None:
    with Relay(url) as service, opened(browser, service.url) as seen:
        service.stop()
        seen.choose(world.others[:1])
        expect(seen.cards).to_contain_text("The service does not answer. Is it running?")
        service.start()
        seen.page.get_by_role("button", name=f"Try again {world.others[0].name}").click()
        seen.answered(1)
        expect(seen.page.locator(".tile")).to_have_count(12)


def test_a_page_that_is_there_before_its_service_asks_again(browser: Browser, url: str) -> None:
    with opened(browser, url) as seen:
        seen.page.route("**/model", lambda route: route.abort(), times=1)
        seen.page.reload()
        expect(seen.page.locator("#model")).to_have_text("The service does not answer. Is it running?")
        seen.page.get_by_role("button", name="Ask again").click()
        expect(seen.page.locator("#model")).to_contain_text("answers 8 heads")
        expect(seen.page.get_by_role("button", name="Ask again")).to_be_hidden()


def test_how_much_of_a_picture_is_sent_is_shown(
    browser: Browser, url: str, world: World, tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    Image.fromarray(noise(1700, 1700)).save(large, compress_level=0)  # 8 MB: more than sockets hold
    with Relay(url, pace_s=0.02) as service, opened(browser, service.url) as seen:
        seen.choose([large])
        expect(seen.cards).to_contain_text(re.compile(r"Sending, \d+"))
        seen.answered(1)


def test_a_busy_service_is_asked_again_when_it_said(seen: Seen, world: World) -> None:
    told = {"Retry-After": "1", "Content-Type": "application/json"}
    error = json.dumps({"error": {"code": "BUSY", "detail": "32 pictures wait"}})
    seen.page.route("**/predict", lambda route: route.fulfill(status=429, headers=told, body=error), times=1)
    seen.choose(world.others[:1])
    expect(seen.cards).to_contain_text("The service is busy; asked again in 1 s")
    seen.answered(1)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (413, '{"error": {"code": "TOO_LARGE", "detail": "90 MB, at most 64"}}', "too large"),
        (504, "<html>Gateway Timeout</html>", "took longer than the service allows"),
        (500, '{"error": {"code": "INTERNAL", "detail": "a line"}}', "INTERNAL: a line"),
    ],
)
def test_an_error_of_the_service_is_told_in_plain_words(
    seen: Seen, world: World, status: int, body: str, words: str
) -> None:
    seen.page.route("**/predict", lambda route: route.fulfill(status=status, body=body))
    seen.choose(world.others[:1])
    expect(seen.cards).to_contain_text(words)


def come(seen: Seen, held: list[Route], num: int) -> None:
    """Wait until so many requests were held, and see that no more come."""
    for _ in range(200):
        if len(held) >= num:
            break
        seen.page.wait_for_timeout(50)
    assert len(held) == num


def test_few_are_sent_at_a_time_and_all_can_be_stopped(seen: Seen, world: World) -> None:
    held = seen.hold("**/predict")
    seen.give("drop", [*world.pictures.values()])
    asking = seen.page.locator(".card progress:visible")
    expect(asking).to_have_count(3)
    expect(seen.cards.filter(has_text="Waiting for its turn")).to_have_count(9)
    come(seen, held, 3)
    seen.page.get_by_role("button", name="Cancel 1.png").click()
    expect(seen.cards.filter(has_text="Cancelled.")).to_have_count(1)
    expect(seen.cards.filter(has_text="Waiting for its turn")).to_have_count(8)
    expect(asking).to_have_count(3)
    come(seen, held, 4)
    seen.page.get_by_role("button", name="Stop all").click()
    expect(seen.cards.filter(has_text="Cancelled.")).to_have_count(12)
    assert len(held) == 4
    assert seen.said == []


def test_what_is_removed_is_given_back(seen: Seen, world: World) -> None:
    seen.choose(world.others[:2])
    seen.answered(2)
    held = seen.page.evaluate("[...document.querySelectorAll('img.large')].map((image) => image.src)")
    raw = seen.page.get_by_role("link", name="Raw JSON").first.get_attribute("href")
    seen.page.get_by_role("button", name=f"Remove {world.others[0].name}").click()
    expect(seen.page.locator(".toggle").first).to_be_focused()
    seen.page.evaluate(
        "window.readable = (address) => new Promise((resolve) => Object.assign(new Image(), "
        "{ src: address, onload: () => resolve(true), onerror: () => resolve(false) }))"
    )
    assert [seen.page.evaluate("readable", address) for address in held] == [False, True]
    assert raw is not None
    seen.page.get_by_role("button", name="Clear").click()
    expect(seen.page.get_by_role("button", name="Choose pictures")).to_be_focused()
    assert seen.page.evaluate("readable", held[1]) is False


def test_the_raw_json_is_what_the_service_said(seen: Seen, world: World) -> None:
    seen.choose(world.others[:1])
    with seen.page.expect_popup() as popup:
        seen.page.get_by_role("link", name="Raw JSON").click()
    found = json.loads(popup.value.locator("pre").inner_text())
    (answer,) = world.model.predict([world.others[0]])
    assert found["answers"][0]["bookmark"] == answer.heads["bookmark"]


def test_where_a_head_looks_is_shown_and_hidden(seen: Seen, world: World) -> None:
    seen.choose(world.others[:1])
    button = seen.page.get_by_role("button", name="Where it looks for bookmark")
    button.click()
    shown = seen.page.get_by_role("img", name="dimmed where the model does not look for bookmark")
    expect(shown).to_be_visible()
    assert shown.evaluate("(image) => image.naturalWidth") == world.model.card.preprocess.size
    expect(button).to_have_attribute("aria-pressed", "true")
    button.click()
    expect(shown).to_be_hidden()
    button.click()
    expect(shown).to_be_visible()
    assert sum("where=bookmark" in address for address in seen.asked) == 1
    assert seen.said == []


def test_the_most_similar_are_shown_and_lead_to_theirs(seen: Seen, world: World) -> None:
    seen.choose([world.pictures[103, 1]])
    tiles = seen.page.locator(".tile")
    expect(tiles).to_have_count(12)
    expect(tiles.first).to_contain_text("103, page 1")
    expect(tiles.first).to_contain_text("1.00")
    expect.set_options(timeout=10_000)
    assert (
        tiles.first.locator("img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 256
    )
    tiles.nth(1).click()
    second = seen.page.get_by_role("heading", name="Most similar to")
    expect(second).to_be_focused()
    expect(tiles).to_have_count(11)
    expect(seen.page.get_by_role("status")).to_contain_text("11 pictures most similar to ")
    seen.page.get_by_role("button", name="Back to 3.png").click()
    expect(tiles).to_have_count(12)
    assert seen.said == []


def test_names_of_files_are_text(seen: Seen, world: World, tmp_path: Path) -> None:
    named = tmp_path / "<img src=x onerror=alert(1)> & 絵.png"
    named.write_bytes(world.others[0].read_bytes())
    seen.choose([named])
    seen.answered(1)
    assert seen.page.locator(".toggle").inner_text() == named.name
    assert seen.said == []


def test_of_many_the_first_is_open_and_the_others_open_on_demand(seen: Seen, world: World) -> None:
    seen.give("drop", [*world.pictures.values()][:5])
    seen.answered(5)
    bodies = seen.page.locator(".card-body")
    expect(bodies.first).to_be_visible()
    expect(seen.page.locator(".card-body:visible")).to_have_count(1)
    expect(seen.cards.nth(4)).to_contain_text("bookmark ")
    assert sum(address.endswith("/similar") for address in seen.asked) == 1
    seen.page.get_by_role("button", name="Close all").click()
    expect(seen.page.locator(".card-body:visible")).to_have_count(0)
    seen.page.get_by_role("button", name="Open all").click()
    expect(seen.page.locator(".card-body:visible")).to_have_count(5)


def test_everything_is_reached_by_keys(seen: Seen, world: World) -> None:
    keys = seen.page.keyboard
    keys.press("Tab")
    expect(seen.page.get_by_role("button", name="Choose pictures")).to_be_focused()
    with seen.page.expect_file_chooser() as chooser:
        keys.press("Enter")
    chooser.value.set_files(world.others[:1])
    expect(seen.page.locator(".tile")).to_have_count(12)
    path = _tabbed(seen, "Back to|Interface for programs")
    assert path[:3] == ["Clear", world.others[0].name, f"Remove {world.others[0].name}"]
    assert path[3] == f"Raw JSON of {world.others[0].name}"
    assert path[4:12] == [f"Where it looks for {head.name}" for head in FITTED.values()]
    assert len(path) == 12 + 12 + 1
    keys.press("Shift+Tab")
    keys.press("Enter")
    expect(seen.page.get_by_role("heading", name="Most similar to")).to_be_focused()
    seen.page.get_by_role("button", name="Back to").wait_for()
    keys.press("Tab")
    keys.press("Space")
    expect(seen.page.get_by_role("heading", name="Most similar in the catalog")).to_be_focused()


def _tabbed(seen: Seen, last: str) -> list[str]:
    """Names of what has the focus, press after press of Tab, up to the one that ``last`` matches."""
    named = "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"
    found: list[str] = []
    while len(found) < 60 and not (found and found[-1] in last.split("|")):
        seen.page.keyboard.press("Tab")
        found.append(seen.page.evaluate(named))
        outline = seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", f"{found[-1]}: the focus is not seen"
    return found


def test_results_are_told_to_a_screen_reader(seen: Seen, world: World) -> None:
    said = seen.page.get_by_role("status")
    seen.choose(world.others[:1])
    (answer,) = world.model.predict([world.others[0]])
    label = answer.heads["bookmark"]["label"].replace("-", "–")
    expect(said).to_contain_text(f"{world.others[0].name}: bookmark {label}; sanity ")


@LOOKS
def test_it_fits_the_width_in_either_scheme(
    browser: Browser, url: str, world: World, tmp_path: Path, device: dict[str, Any], scheme: Any
) -> None:
    long = tmp_path / f"{'a_very_long_name_without_a_space_' * 4}.png"
    long.write_bytes(world.others[0].read_bytes())
    with opened(browser, url, **device, color_scheme=scheme, reduced_motion="reduce") as seen:
        assert seen.overflow() <= 0
        seen.choose([long, world.broken, world.others[1]])
        seen.answered(2)
        expect(seen.page.locator(".tile")).to_have_count(24)
        seen.page.get_by_role("button", name="Where it looks for tag").first.click()
        expect(seen.page.locator(".map img")).to_be_visible()
        assert seen.overflow() <= 0
        assert _small_targets(seen) == []
        back = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, back[4:-1].split(","))) > 380) == (scheme == "light")


def _small_targets(seen: Seen) -> list[str]:
    """Buttons and links that a finger may miss."""
    found: list[str] = seen.page.evaluate(
        f"""[...document.querySelectorAll("button, a")].filter((one) => one.checkVisibility())
        .filter((one) => {{ const box = one.getBoundingClientRect();
          return Math.min(box.width, box.height) < {FOR_TOUCH} - 0.01; }}).map((one) => one.textContent)"""
    )
    return found


def test_on_a_phone_a_photo_may_be_taken(browser: Browser, url: str, world: World) -> None:
    with opened(browser, url, **PHONE) as seen:
        with seen.page.expect_file_chooser() as chooser:
            seen.page.get_by_role("button", name="Take a photo").tap()
        assert chooser.value.element.get_attribute("capture") == "environment"
        chooser.value.set_files(world.others[0])
        seen.answered(1)
    with opened(browser, url) as seen:
        expect(seen.page.get_by_role("button", name="Take a photo")).to_be_hidden()
