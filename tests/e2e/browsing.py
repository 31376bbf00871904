"""Tabs of a browser, and what is to be seen in them."""

from __future__ import annotations

import functools
import http.server
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.e2e.stage import PATIENCE_S, now

# Without a graphics card a page of 1280 x 720 that plays costs 0.8 of a core, this one 0.35.
SMALL = {"width": 640, "height": 400}

# Reads the clock strip (media/clockstrip.py) from the picture on the screen: its age in ms.
READ_STRIP = """() => {
    const video = document.getElementById('video');
    const {videoWidth: width, videoHeight: height} = video;
    const canvas = window.stripCanvas ??= document.createElement('canvas');
    canvas.width = width; canvas.height = 1;
    const context = canvas.getContext('2d', {willReadFrequently: true});
    context.drawImage(video, 0, Math.floor(height / 24), width, 1, 0, 0, width, 1);
    const wall = Date.now();
    const row = context.getImageData(0, 0, width, 1).data;
    const lit = (block) => row[Math.floor((2 * block + 1) * width / 68) * 4] > 128;
    if (!lit(0) || lit(33)) return null;
    let stamp = 0;
    for (let bit = 0; bit < 32; bit += 1) if (lit(bit + 1)) stamp += 2 ** bit;
    return (wall % 2 ** 32) - stamp;
}"""


class Page:
    """A tab, with all that it complained about."""

    def __init__(self, browser: Any, url: str) -> None:
        self.tab = browser.new_page(viewport=SMALL)
        self.complaints: list[str] = []
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("console", self._on_console)
        self.tab.goto(url)

    def _on_console(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    @property
    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = self.tab.evaluate("window.p2pstream.stats")
        return stats

    def text(self, name: str) -> str:
        text: str = self.tab.text_content(f"#{name}")
        return text

    def state(self) -> str:
        state: str = self.tab.evaluate("document.body.dataset.state")
        return state

    def shows(self, state: str) -> bool:
        return self.state() == state

    def until_live(self) -> None:
        self.until(lambda: self.shows("live") and self.stats["frames"] > 30)

    def until(self, true: Callable[[], Any], timeout_s: float = PATIENCE_S) -> None:
        deadline = now() + timeout_s
        while not true():
            assert now() < deadline, (self.state(), self.stats)
            self.tab.wait_for_timeout(50)

    def steadily(
        self, seconds: float, look: Callable[[], int] = lambda: 0
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Plays so much without a stall, a jump or a change of what `look` says: stats, two times.

        A machine that is too busy for a while may try again, until patience ends.
        """
        deadline = now() + PATIENCE_S + 2 * seconds
        before, upset = self.stats, look()
        while True:
            self.tab.wait_for_timeout(250)
            after, said = self.stats, look()
            if said != upset or any(after[key] > before[key] for key in ("stalls", "jumps")):
                before, upset = after, said
            if after["currentTime"] >= before["currentTime"] + seconds:
                return before, after
            assert now() < deadline, (self.state(), after)

    def strip_lag_s(self) -> float | None:
        """The age of the picture that is on the screen now."""
        lag_ms = self.tab.evaluate(READ_STRIP)
        return None if lag_ms is None else lag_ms / 1000


@contextmanager
def page(browser: Any, url: str) -> Iterator[Page]:
    opened = Page(browser, url)
    try:
        yield opened
    finally:
        opened.tab.close()


class _Site(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, and under /live/ what a viewer's gateway answers."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: Any, gateway: str, **named: Any) -> None:
        self.gateway = gateway
        super().__init__(*arguments, **named)

    def do_GET(self) -> None:
        if not (self.gateway and self.path.startswith("/live/")):
            super().do_GET()
            return
        try:
            with urllib.request.urlopen(self.gateway + self.path[1:], timeout=30) as answer:
                status, body, kind = answer.status, answer.read(), answer.headers["content-type"]
        except urllib.error.HTTPError as error:
            status, body, kind = error.code, b"", "text/plain"
            error.close()
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def site(folder: Path, gateway: str = "") -> Iterator[str]:
    """Somebody's web site, on another port, that shows the stream through a player of its own.

    gateway: where it finds what is asked for under /live/.
    """
    handler = functools.partial(_Site, directory=str(folder), gateway=gateway)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
