"""A headless Chromium on the page of a service, and how a person gives it pictures."""

from __future__ import annotations

import base64
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, Playwright, Route, expect

CHROMIUM = shutil.which("chromium")
MARKS = [
    pytest.mark.page,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium (Debian: apt-get install chromium)"),
]
expect.set_options(timeout=15_000)
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESK = {"viewport": {"width": 1280, "height": 900}}
LOOKS = pytest.mark.parametrize(
    ("device", "scheme"),
    [
        pytest.param(PHONE, "light", id="phone-light"),
        pytest.param(DESK, "dark", id="desk-dark"),
        pytest.param(PHONE, "dark", id="phone-dark", marks=pytest.mark.slow),
        pytest.param(DESK, "light", id="desk-light", marks=pytest.mark.slow),
    ],
)
"""Each device and each scheme once, and slow the other way round."""
GIVE = """([how, files]) => {
  const data = new DataTransfer();
  for (const [name, type, content] of files) {
    data.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name, { type }));
  }
  const told = { bubbles: true, cancelable: true };
  if (how === "paste") {
    document.body.dispatchEvent(new ClipboardEvent("paste", { ...told, clipboardData: data }));
  } else {
    for (const event of ["dragenter", "dragover", "drop"]) {
      document.body.dispatchEvent(new DragEvent(event, { ...told, dataTransfer: data }));
    }
  }
}"""
"""A drop or a paste of files, as the browser reports one."""


@dataclass
class Seen:
    """A page, what its console said, and the addresses that it asked."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def give(self, how: str, paths: Sequence[Path]) -> None:
        """Drop or paste files."""
        files = [(path.name, "image/png", base64.b64encode(path.read_bytes()).decode()) for path in paths]
        self.page.evaluate(GIVE, [how, files])

    def choose(self, paths: Sequence[Path]) -> None:
        """Click the button and choose files."""
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="Choose pictures").click()
        chooser.value.set_files(paths)

    def drop(self, folder: Path) -> None:
        """Drop a file or a folder of this machine, as its desktop does."""
        data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
        browser = self.page.context.new_cdp_session(self.page)
        for event in ("dragEnter", "dragOver", "drop"):
            browser.send("Input.dispatchDragEvent", {"type": event, "x": 300, "y": 200, "data": data})

    @property
    def cards(self) -> Locator:
        """One for each picture."""
        return self.page.locator(".card")

    def answered(self, number: int) -> None:
        """Wait until so many pictures are answered."""
        expect(self.page.locator(".toggle")).to_have_count(number)

    def hold(self, address: str) -> list[Route]:
        """Questions to ``address`` from now on, none of which is answered."""
        held: list[Route] = []
        self.page.route(address, lambda route: held.append(route))  # noqa: PLW0108 - no built-in one
        return held

    def release(self, held: Sequence[Route], num: int) -> None:
        """Let all through that are held, once there are so many, and what comes later."""
        for _ in range(200):
            if len(held) == num:
                break
            self.page.wait_for_timeout(50)
        assert len(held) == num
        for route in held:
            route.continue_()
        self.page.unroute_all()

    def overflow(self) -> int:
        """Pixels that the page is wider than the window."""
        return int(
            self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        )


def launched(playwright: Playwright) -> Browser:
    """Debian's Chromium, with a profile of its own."""
    return playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, chromium_sandbox=False)


@contextmanager
def opened(browser: Browser, url: str, **settings: Any) -> Iterator[Seen]:
    """The page, on a desk unless ``settings`` say otherwise, once it knows which model answers."""
    context = browser.new_context(**{**DESK, **settings})
    seen = Seen(context.new_page())
    seen.page.set_default_timeout(20_000)
    seen.page.on("console", lambda message: seen.said.append(f"{message.type}: {message.text}"))
    seen.page.on("pageerror", lambda error: seen.said.append(str(error)))
    seen.page.on("request", lambda request: seen.asked.append(request.url))
    seen.page.on("filechooser", lambda _: None)  # from now on, not from the moment before a key is pressed
    seen.page.goto(url)
    seen.page.get_by_text("answers 8 heads").wait_for()
    try:
        yield seen
    finally:
        context.close()


class Relay:
    """A port of its own before a service: closed, it is to a browser a service that was stopped.

    ``pace_s``: before each piece of at most 64 KiB that a browser sends is passed on.
    """

    def __init__(self, url: str, pace_s: float = 0.0) -> None:
        self._to, self.pace_s = urlsplit(url), pace_s
        self._listening: socket.socket | None = None
        self._open: list[socket.socket] = []
        self._port = 0
        self.start()
        self.url = f"http://127.0.0.1:{self._port}{self._to.path}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._listening = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def stop(self) -> None:
        """Refuse, and end what goes on."""
        for one in [self._listening, *self._open]:
            if one:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
        self._open = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):  # closed
            while True:
                browser, _ = listening.accept()
                service = socket.create_connection((self._to.hostname, self._to.port))
                self._open += [browser, service]
                for ends in ((browser, service, True), (service, browser, False)):
                    threading.Thread(target=self._copy, args=ends, daemon=True).start()

    def _copy(self, from_: socket.socket, to: socket.socket, is_paced: bool) -> None:
        with suppress(OSError):
            while data := from_.recv(2**16):
                time.sleep(self.pace_s if is_paced else 0)
                to.sendall(data)
        with suppress(OSError):
            to.shutdown(socket.SHUT_WR)
