"""Contrast as WCAG 2.2 counts it, of what a browser shows: (L1 + .05) / (L2 + .05), 1 to 21."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

Color = tuple[float, float, float]
TEXTS = """() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const one = node.parentElement;
    if (!node.data.trim() || !one.checkVisibility() || one.closest(".unseen, noscript")) continue;
    const style = getComputedStyle(one);
    const behind = [];
    for (let at = one; at; at = at.parentElement) behind.push(getComputedStyle(at).backgroundColor);
    found.push([node.data.trim(), style.color, behind, parseFloat(style.fontSize), +style.fontWeight]);
  }
  return found;
}"""
EDGES = """() => [...document.querySelectorAll("button:not(.tile), .drop")]
  .filter((one) => one.checkVisibility())
  .map((one) => {
    const behind = [];
    for (let at = one.parentElement; at; at = at.parentElement) {
      behind.push(getComputedStyle(at).backgroundColor);
    }
    return [one.textContent.trim().slice(0, 30), getComputedStyle(one).borderTopColor, behind];
  })"""
LARGE_PX, LARGE_BOLD_PX, BOLD = 24, 18.66, 700


def faint_texts(page: Page) -> list[str]:
    """Texts whose contrast is below 4.5, below 3 where they are large."""
    found = []
    for text, ink, behind, size, weight in page.evaluate(TEXTS):
        is_large = size >= LARGE_PX or (size >= LARGE_BOLD_PX and weight >= BOLD)
        if (ratio := contrast(color(ink)[0], seen_behind(behind))) < (3 if is_large else 4.5):
            found.append(f"{text[:40]}: {ratio:.2f}")
    return found


def faint_edges(page: Page) -> list[str]:
    """Buttons whose border is hard to see; without one they are known by their text, tiles by a picture."""
    found = []
    for text, edge, behind in page.evaluate(EDGES):
        line, alpha = color(edge)
        if alpha and (ratio := contrast(line, seen_behind(behind))) < 3:
            found.append(f"{text}: {ratio:.2f}")
    return found


def seen_behind(layers: list[str]) -> Color:
    """The first layer that is not transparent; white where there is none."""
    for layer in layers:
        found, alpha = color(layer)
        if alpha:
            assert alpha == 1, f"{layer}: layers are not mixed here"
            return found
    return (255, 255, 255)


def color(text: str) -> tuple[Color, float]:
    """``rgb(1, 2, 3)`` or ``rgba(1, 2, 3, 0)`` as numbers, and the alpha."""
    red, green, blue, *alpha = (float(part) for part in text[text.index("(") + 1 : -1].split(","))
    return (red, green, blue), (alpha or [1.0])[0]


def contrast(one: Color, other: Color) -> float:
    """1 for the same colour, 21 for black on white."""
    light, dark = sorted([luminance(one), luminance(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(rgb: Color) -> float:
    """0 to 1, of sRGB."""
    shares = [part / 255 for part in rgb]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def shown(page: Page, selector: str, name: str, pseudo: str | None = None) -> Any:
    """A computed property of the first element."""
    return page.locator(selector).first.evaluate(
        "(one, [name, pseudo]) => getComputedStyle(one, pseudo)[name]", [name, pseudo]
    )
