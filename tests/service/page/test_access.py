"""Whether everybody can see, reach and understand the page: rules, contrast, keys, large letters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("playwright")
pytest.importorskip("axe_playwright_python")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.service.page.browser import LOOKS, MARKS, PHONE, Seen, opened
from tests.service.page.conftest import World
from tests.service.page.contrast import color, contrast, faint_edges, faint_texts, shown

pytestmark = MARKS
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}
HIGHLIGHT = """() => {
  const one = document.body.appendChild(document.createElement("i"));
  Object.assign(one.style, { forcedColorAdjust: "none", color: "Highlight" });
  return getComputedStyle(one).color;
}"""
SMALL = {"viewport": {"width": 195, "height": 420}, "device_scale_factor": 2}  # a phone at 200 %


def states(seen: Seen, world: World) -> Iterator[str]:
    """Bring the page into one state after another."""
    page = seen.page
    seen.give("paste", [])
    yield "nothing given"
    held = seen.hold("**/predict")
    seen.give("drop", world.others[:2])
    expect(page.locator(".card progress:visible")).to_have_count(2)
    yield "waiting"
    seen.release(held, 2)
    seen.answered(2)
    expect(page.locator(".tile")).to_have_count(24)
    page.get_by_role("button", name="Where it looks for bookmark").first.click()
    expect(page.locator(".map img")).to_be_visible()
    page.locator(".tile").nth(2).click()
    page.get_by_role("button", name="Back to").wait_for()
    yield "answered"
    seen.give("drop", [world.broken])
    expect(page.locator(".card .bad")).to_be_visible()
    page.get_by_role("button", name="Close all").click()
    yield "closed, one failed"
    page.route("**/model", lambda route: route.abort())
    page.reload()
    page.get_by_role("button", name="Ask again").wait_for()
    yield "no service"


@LOOKS
def test_no_state_breaks_a_rule_or_is_hard_to_read(
    browser: Browser, url: str, world: World, device: dict[str, Any], scheme: Any
) -> None:
    with opened(browser, url, **device, color_scheme=scheme, reduced_motion="reduce") as seen:
        for state in states(seen, world):
            found = Axe().run(seen.page, options=RULES).response["violations"]
            broken = [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]
            assert broken == [], state
            assert faint_texts(seen.page) == [], state
            assert faint_edges(seen.page) == [], state
            assert seen.page.evaluate("document.getAnimations().length") == 0, state


def test_the_interface_for_programs_breaks_no_rule(browser: Browser, url: str) -> None:
    with opened(browser, url, **PHONE) as seen:
        seen.page.get_by_role("link", name="Interface for programs").click()
        expect(seen.page.get_by_role("heading", level=1)).to_contain_text("interface")
        assert Axe().run(seen.page, options=RULES).response["violations"] == []
        assert seen.overflow() <= 0
        assert seen.said == []


@pytest.mark.parametrize("settings", [PHONE, SMALL], ids=["large letters", "zoomed"])
def test_letters_of_twice_the_size_fit(
    browser: Browser, url: str, world: World, settings: dict[str, Any]
) -> None:
    with opened(browser, url, **settings) as seen:
        before = shown(seen.page, "#choose", "fontSize")
        if settings is PHONE:
            seen.page.evaluate("document.documentElement.style.fontSize = '200%'")
            assert float(shown(seen.page, "#choose", "fontSize")[:-2]) == 2 * float(before[:-2])
        seen.choose([world.others[0], world.broken])
        seen.answered(1)
        expect(seen.page.locator(".tile")).to_have_count(12)
        assert seen.overflow() <= 0
        inside = """(all) => all.filter((one) => {
          const panel = one.closest(".head").getBoundingClientRect();
          return one.getBoundingClientRect().right > panel.right;
        }).map((one) => one.textContent)"""
        assert seen.page.locator(".head td, .head button, .head p").evaluate_all(inside) == []


def test_what_is_shown_by_colour_is_shown_in_forced_colours_too(
    browser: Browser, url: str, world: World
) -> None:
    with opened(browser, url, forced_colors="active", reduced_motion="reduce") as seen:
        held = seen.hold("**/predict")
        seen.choose(world.others[:1])
        expect(seen.page.locator(".card progress")).to_be_visible()
        assert shown(seen.page, ".card progress", "forcedColorAdjust") == "none"
        seen.release(held, 1)
        seen.answered(1)
        best = shown(seen.page, ".best td", "backgroundColor", "::before")
        other = shown(seen.page, "tr:not(.best) td", "backgroundColor", "::before")
        back = shown(seen.page, "body", "backgroundColor")
        assert len({best, other, back}) == 3
        assert best == seen.page.evaluate(HIGHLIGHT)
        toggle = seen.page.get_by_role("button", name="Where it looks").first
        before = toggle.evaluate("(one) => getComputedStyle(one).backgroundColor")
        toggle.click()
        after, ink = toggle.evaluate(
            "(one) => [getComputedStyle(one).backgroundColor, getComputedStyle(one).color]"
        )
        assert after != before
        assert after == seen.page.evaluate(HIGHLIGHT)
        assert contrast(color(after)[0], color(ink)[0]) >= 4.5


def test_things_move_only_where_motion_is_welcome(browser: Browser, url: str, world: World) -> None:
    for motion, moves in (("no-preference", True), ("reduce", False)):
        with opened(browser, url, reduced_motion=motion) as seen:
            seen.hold("**/predict")
            seen.choose(world.others[:1])
            expect(seen.page.locator(".card progress")).to_be_visible()
            assert bool(seen.page.evaluate("document.getAnimations().length")) == moves


def test_the_focus_is_never_lost_with_the_button_that_had_it(seen: Seen, world: World) -> None:
    page = seen.page
    page.route("**/model", lambda route: route.abort(), times=1)
    page.reload()
    page.get_by_role("button", name="Ask again").press("Enter")
    expect(page.get_by_role("button", name="Choose pictures")).to_be_focused()
    seen.hold("**/predict")
    seen.give("drop", world.others)
    cancel = page.get_by_role("button", name=f"Cancel {world.others[0].name}")
    cancel.press("Enter")
    expect(page.get_by_role("button", name=f"Try again {world.others[0].name}")).to_be_focused()
    page.get_by_role("button", name="Stop all").press("Enter")
    expect(page.get_by_role("heading", name="Pictures")).to_be_focused()
    assert shown(page, "#results-title", "outlineStyle") == "solid"
    page.unroute_all()
    page.route("**/similar", lambda route: route.abort(), times=1)
    page.get_by_role("button", name=f"Try again {world.others[1].name}").press("Enter")
    again = page.locator(".similar").get_by_role("button", name="Try again")
    again.press("Enter")
    expect(page.get_by_role("heading", name="Most similar in the catalog")).to_be_focused()
    expect(page.locator(".tile")).to_have_count(12)


def test_a_panel_has_the_roles_and_names_that_a_screen_reader_needs(seen: Seen, world: World) -> None:
    seen.choose(world.others[:1])
    seen.answered(1)
    panel = seen.page.get_by_role("group", name="liked")
    expect(panel.get_by_role("heading", name="liked", level=4)).to_be_visible()
    table = panel.get_by_role("table", name="liked: probability of each answer")
    expect(table.get_by_role("columnheader")).to_have_text(["answer", "probability"])
    expect(table.get_by_role("rowheader")).to_have_text(["yes", "no"])
    expect(seen.cards).to_have_attribute("aria-busy", "false")
    toggle = seen.page.locator(".toggle")
    assert toggle.get_attribute("aria-controls") == seen.page.locator(".card-body").get_attribute("id")
    expect(toggle).to_have_attribute("aria-expanded", "true")
    toggle.click()
    expect(toggle).to_have_attribute("aria-expanded", "false")
    toggle.click()
    expect(seen.page.get_by_role("listitem", name=world.others[0].name)).to_be_visible()
    expect(seen.page.get_by_role("group", name="Most similar in the catalog")).to_be_visible()
    for name in ("Remove", "Raw JSON of", "Where it looks for tag"):
        expect(seen.page.get_by_label(name)).to_have_count(1)
