"""Answers at the edges of what a service says: many tags, long names, a kind that the page does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Route, expect

from pix2score.serve.predict import answer_json, answer_ranges
from tests.service.page.browser import MARKS, PHONE, Relay, Seen, opened
from tests.service.page.conftest import World

pytestmark = MARKS
LONG = "a_tag_" * 20


def says(seen: Seen, world: World, **heads: Any) -> None:
    """Let the service answer so for these heads, for the others as it does."""
    (answer,) = world.model.predict([world.others[0]])
    card = world.model.card
    said = answer_json("", answer, answer_ranges(card)) | heads
    body = json.dumps({"model_version": card.version, "answers": [said]})
    seen.page.route("**/predict", lambda route: route.fulfill(body=body))


def finds(seen: Seen, url: str, neighbours: list[dict[str, Any]]) -> None:
    """Let the service find these neighbours, each like those of the catalog for the rest."""
    one = {
        "illust_id": 100,
        "page": 0,
        "similarity": 0.5,
        "picture": f"{urlsplit(url).path}picture?id=100&page=0",
    }
    body = json.dumps({"snapshot": 1, "neighbours": [one | neighbour for neighbour in neighbours]})
    seen.page.route("**/similar", lambda route: route.fulfill(body=body))


def panel(seen: Seen, head: str) -> Any:
    return seen.page.get_by_role("group", name=head, exact=True)


def test_a_kind_that_the_page_does_not_know_is_told_by_names_and_values(seen: Seen, world: World) -> None:
    said = {"depth": 3.14159, "angles": [1, 2], "note": "<b>raw</b>"}
    says(seen, world, liked=said)
    seen.choose(world.others[:1])
    seen.answered(1)
    expect(panel(seen, "liked").locator(".headline")).to_have_text("depth 3.142")
    assert panel(seen, "liked").locator("dt").all_inner_texts() == [*said]
    assert panel(seen, "liked").locator("dd").all_inner_texts() == ["3.142", "[1,2]", "<b>raw</b>"]
    assert seen.said == []


def test_of_many_tags_the_first_are_shown_and_all_on_demand(browser: Browser, url: str, world: World) -> None:
    tags = [LONG, *map(str, range(999))]
    with opened(browser, url, **PHONE) as seen:
        says(seen, world, tag={"tags": tags, "probs": [0.99 - i / 2000 for i in range(1000)]})
        seen.choose(world.others[:1])
        seen.answered(1)
        expect(panel(seen, "tag").locator(".headline")).to_have_text(f"{LONG}, 0, 1 and 997 more")
        rows = panel(seen, "tag").locator("tbody tr")
        expect(rows).to_have_count(20)
        assert seen.overflow() <= 0
        panel(seen, "tag").get_by_role("button", name="Show all 1,000").click()
        expect(rows).to_have_count(1000)
        expect(rows.nth(20)).to_be_focused()
        assert rows.last.inner_text().split() == ["998", "49%"]
        assert seen.overflow() <= 0


def test_large_numbers_units_and_the_ends_of_the_scale_are_readable(seen: Seen, world: World) -> None:

    def edit(route: Route) -> None:
        content = route.fetch().json()
        content["heads"][3].update(unit="yen", title="Price")
        route.fulfill(body=json.dumps(content))

    seen.page.route("**/model", edit)
    seen.page.reload()
    expect(seen.page.locator("#model")).to_contain_text("liked, Price")
    legend = {"0": "0-1000", "1": "1000-36900000", "2": "36900000-∞"}
    said = {"bin": 1, "label": "1000-36900000", "probs": [0.0004, 0.99959, 0.00001], "score": 0.9999}
    says(
        seen,
        world,
        bookmark_predict=legend,
        bookmark=said | {"expected": 1234567.8, "median": 2},
        beauty={"value": 1234567.891, "score": 0.001, "residual_std": 45678.9},
    )
    seen.choose(world.others[:1])
    seen.answered(1)
    rows = panel(seen, "bookmark").locator("tbody tr").all_inner_texts()
    assert rows == ["0–1000\t<0.1%", "1000–36,900,000\t100%", "36,900,000–∞\t<0.1%"]
    text = panel(seen, "bookmark").inner_text()
    assert "1000–36,900,000 100%" in text
    assert "expected 1,234,568 · median 36,900,000–∞" in text
    assert "score 1.00\nabove nearly all training pictures" in text
    text = panel(seen, "Price").inner_text()
    assert "1,234,568 yen ± 46,000" in text
    assert "below nearly all training pictures" in text


def test_long_names_take_two_lines_of_a_closed_card(
    browser: Browser, url: str, world: World, tmp_path: Path
) -> None:
    path = tmp_path / f"{LONG}.png"
    path.write_bytes(world.others[0].read_bytes())
    with opened(browser, url, **PHONE) as seen:
        finds(seen, url, [{"illust_id": LONG}, {}])
        seen.choose([path])
        seen.answered(1)
        expect(seen.page.locator(".tile").first).to_have_accessible_name(f"{LONG} similarity 0.50")
        height = "(one) => one.getBoundingClientRect().height"
        whole = seen.page.locator(".toggle").evaluate(height)
        assert seen.page.locator(".tile").first.evaluate(height) < 250
        seen.page.locator(".toggle").click()
        assert seen.page.locator(".toggle").evaluate(height) < 70 < whole
        assert seen.page.locator(".toggle").inner_text() == path.name


def test_a_neighbour_without_a_picture_has_a_word_in_its_place(seen: Seen, world: World, url: str) -> None:
    finds(seen, url, [{"picture": None}, {"picture": "nowhere"}, {"illust_id": 2**53 + 1}, {}])
    seen.choose(world.others[:1])
    tiles = seen.page.locator(".tile")
    expect(tiles.nth(1)).to_contain_text("no picture")
    expect(tiles.nth(0)).to_contain_text("no picture")
    expect(tiles.nth(2)).to_contain_text("9007199254740993")
    expect(tiles.nth(3).locator("img")).to_be_visible()


def test_all_that_a_stopped_service_left_are_asked_again_at_once(
    browser: Browser, world: World, url: str
) -> None:
    given = [*world.pictures.values()][:4]
    with Relay(url) as service, opened(browser, service.url) as seen:
        seen.give("drop", [world.broken])
        expect(seen.cards).to_contain_text("The end of this picture is missing")
        expect(seen.page.get_by_role("button", name="Try again")).to_have_count(0)
        service.pace_s = 60
        seen.give("drop", given)
        expect(seen.cards.filter(has_text="The model looks at it")).to_have_count(3)
        service.stop()
        expect(seen.page.locator("#counts")).to_have_text("5 pictures · 5 without an answer")
        service.pace_s = 0
        service.start()
        retry = seen.page.get_by_role("button", name="Try 4 again")
        retry.press("Enter")
        expect(seen.page.get_by_role("heading", name="Pictures")).to_be_focused()
        seen.answered(4)
        expect(seen.page.locator("#counts")).to_have_text("5 pictures · 1 without an answer")
        expect(retry).to_be_hidden()


def test_a_slow_model_is_told_from_one_that_hangs(browser: Browser, world: World, url: str) -> None:
    with Relay(url) as service, opened(browser, service.url) as seen:
        seen.page.clock.install()
        service.pace_s = 60
        seen.choose(world.others[:1])
        expect(seen.cards).to_contain_text("The model looks at it …")
        seen.page.clock.run_for(7_000)
        expect(seen.cards).to_contain_text("The model looks at it, 7 s …")
        seen.page.get_by_role("button", name="Cancel").click()
        seen.page.clock.run_for(7_000)
        expect(seen.cards).to_contain_text("Cancelled.")


def test_a_service_that_stays_busy_is_named_in_the_end(seen: Seen, world: World) -> None:
    asked: list[Route] = []
    seen.page.clock.install()
    headers = {"Retry-After": "3600", "Content-Type": "application/json"}
    body = json.dumps({"error": {"code": "BUSY", "detail": "128 pictures"}})

    def busy(route: Route) -> None:
        asked.append(route)
        route.fulfill(status=429, headers=headers, body=body)

    seen.page.route("**/predict", busy)
    seen.choose(world.others[:1])
    for _ in range(6):
        expect(seen.cards).to_contain_text("The service is busy; asked again in 60 s")
        seen.page.clock.run_for(60_000)
    expect(seen.cards).to_contain_text("The service is busy. Try again in a moment. BUSY: 128 pictures")
    assert len(asked) == 7


def test_what_is_too_large_for_the_service_is_not_sent(seen: Seen, world: World) -> None:
    def edit(route: Route) -> None:
        content = route.fetch().json()
        content["limits"]["image_bytes"] = 100
        route.fulfill(body=json.dumps(content))

    seen.page.route("**/model", edit)
    seen.page.reload()
    seen.choose(world.others[:1])
    expect(seen.cards).to_contain_text("This picture is too large.")
    expect(seen.cards).to_contain_text("this service takes up to 100 bytes")
    assert not any(address.endswith("/predict") for address in seen.asked)


def test_a_model_that_came_meanwhile_is_introduced(seen: Seen, world: World) -> None:
    says(seen, world)
    seen.choose(world.others[:1])
    seen.answered(1)
    assert sum(address.endswith("/model") for address in seen.asked) == 1
    seen.page.unroute_all()
    body = json.dumps(
        {"model_version": "another", "answers": [{"image": "", "liked": {"yes": True, "prob": 0.9}}]}
    )
    seen.page.route("**/predict", lambda route: route.fulfill(body=body))
    seen.choose(world.others[1:2])
    seen.answered(2)
    assert sum(address.endswith("/model") for address in seen.asked) == 2


def test_the_chance_of_yes_and_the_order_of_classes_are_as_said(seen: Seen, world: World) -> None:
    says(
        seen,
        world,
        liked={"yes": True, "prob": 0.9, "score": 0.5},
        sort={"class": "dog", "prob": 0.6, "probs": [0.1, 0.6, 0.3]},
        beauty={"value": 1.5, "score": 0.5, "residual_std": 0.25},
    )
    seen.choose(world.others[:1])
    seen.answered(1)
    assert "yes 90% yes" in panel(seen, "liked").inner_text()
    assert "1.5 ± 0.25" in panel(seen, "beauty").inner_text()
    assert panel(seen, "sort").get_by_role("rowheader").all_inner_texts() == ["dog", "bird", "cat"]
