"""The page in a real browser, and what hls.js, mpv and ffprobe make of our streams.

Starting a program and filling a page takes seconds, so tests that change nothing share them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.browsing import SMALL, Page, page, site
from tests.e2e.stage import PATIENCE_S, now

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
LAG_S_MAX = 3.0  # Measured: 0.5 to 0.6 s on an idle machine.


class Program:
    """A gateway with a live source, as a process."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.node.gateway_program", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._commands = self._process.stdin
        self._output = self._process.stdout
        self.url = self._output.readline().strip()

    @property
    def port(self) -> str:
        return self.url.rsplit(":", 1)[1].rstrip("/")

    def tell(self, command: str) -> None:
        self._commands.write(command + "\n")
        self._commands.flush()

    def close(self) -> None:
        self._commands.close()
        try:
            assert self._process.wait(10) == 0
        finally:
            self._process.kill()
            self._output.close()


@contextmanager
def program(*arguments: str) -> Iterator[Program]:
    running = Program(*arguments)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="class")
def steady() -> Iterator[Program]:
    """A program that just goes on."""
    with program() as running:
        yield running


@pytest.fixture(scope="class")
def watched(browser: Any, steady: Program) -> Iterator[Page]:
    """A page that plays what it shows, for tests that only look."""
    with page(browser, steady.url) as seen:
        seen.until_live()
        yield seen


class TestTheSteadyPicture:
    """One program and one page for all of them."""

    def test_the_page_plays_near_the_live_edge_without_a_complaint(self, watched: Page) -> None:
        before, after = watched.steadily(3)

        assert after["mode"] == "mse"
        assert after["frames"] - before["frames"] > 60
        assert after["bufferedS"] < 2
        assert after["reconnects"] == 0
        watched.until(lambda: (watched.stats["lagS"] or 99) < LAG_S_MAX)
        assert watched.complaints == []

    def test_the_page_says_what_the_node_says(self, watched: Page) -> None:
        tab = watched.tab

        assert watched.text("title") == "Harbour cam"
        assert watched.text("share") == "78"
        assert "78 % viewers" in tab.get_attribute("#bar", "aria-label")
        assert tab.locator("#partners tr").count() == 6
        assert tab.locator("#mesh .node").count() == 10
        assert tab.locator("#mesh .link").count() == 16
        assert tab.locator("#mesh-words li").count() == 16
        assert "3 of them feed you, you feed 3" in watched.text("mesh-text")
        assert "0 refused" in watched.text("verified")
        assert "over the last minute" in tab.get_attribute("#spark-lag", "aria-label")

    @pytest.mark.parametrize("width", [390, 1280])
    def test_nothing_sticks_out(self, watched: Page, width: int) -> None:
        watched.tab.set_viewport_size({"width": width, "height": 844})
        shown = watched.tab.evaluate("document.documentElement.scrollWidth")
        watched.tab.set_viewport_size(SMALL)

        assert shown == width

    def test_any_graph_is_drawn(self, watched: Page) -> None:
        assert watched.tab.evaluate(DRAW_GRAPHS) == [48, False]
        assert watched.complaints == []

    def test_the_feed_is_cut_at_boxes_however_it_arrives(self, watched: Page) -> None:
        assert watched.tab.evaluate(CUT_FEED) == ["i" + 10 * "f" + "true"] * 4

    def test_keys_and_buttons_do_what_they_say(self, watched: Page) -> None:
        muted = "document.getElementById('video').muted"
        assert watched.tab.evaluate(muted), "browsers start only what is silent"
        watched.tab.keyboard.press("m")
        assert not watched.tab.evaluate(muted)
        watched.tab.keyboard.press("m")
        watched.tab.click("#unmute")
        assert not watched.tab.evaluate(muted)
        assert watched.tab.is_hidden("#unmute")
        names = watched.tab.evaluate(
            "[...document.querySelectorAll('button, input')]"
            ".map(e => e.getAttribute('aria-label') || e.textContent.trim())"
        )
        assert all(names)

    def test_after_a_pause_nothing_is_replayed(self, watched: Page) -> None:
        watched.tab.keyboard.press("k")
        watched.until(lambda: bool(watched.tab.evaluate("document.getElementById('video').paused")))
        at = watched.stats["currentTime"]
        watched.tab.wait_for_timeout(3500)
        watched.tab.click("#play")

        watched.until(lambda: watched.stats["currentTime"] > at + 3.5)
        watched.until(lambda: (watched.stats["lagS"] or 99) < LAG_S_MAX)

    def test_a_page_of_another_origin_reads_nothing_g_02(
        self, browser: Any, steady: Program, tmp_path: Path
    ) -> None:
        """G-02, by a browser."""
        (tmp_path / "index.html").write_text("<!doctype html><title>evil</title>")
        attempt = """async (url) => {
            const tries = [
                () => fetch(url + 'api/state').then((r) => r.text()),
                () => fetch(url + 'api/state', {method: 'POST', body: 'x'}).then((r) => r.text()),
                () => fetch(url + 'api/state', {method: 'PUT'}).then((r) => r.text()),
                () => fetch(url + 'live/stream.m3u8', {mode: 'no-cors'}).then((r) => r.text()),
                () => new Promise((done, fail) => {
                    const socket = new WebSocket(url.replace('http', 'ws') + 'api/events');
                    socket.onopen = () => done('opened');
                    socket.onerror = () => fail(new Error('refused'));
                }),
            ];
            const results = await Promise.allSettled(tries.map((one) => one()));
            return results.map((r) => r.value ?? '');
        }"""
        with site(tmp_path) as url, page(browser, url) as seen:
            assert seen.tab.evaluate(attempt, steady.url) == [""] * 5

    def test_mpv_and_ffprobe_play_it(self, steady: Program, tool: Callable[[str], str]) -> None:
        play_everywhere(steady.url, tool)


# Pages that live through something.


def test_silence_is_said_and_afterwards_the_picture_is_live_again(browser: Any) -> None:
    with program() as running, page(browser, running.url) as seen:
        seen.until_live()
        running.tell("silence")
        seen.until(lambda: seen.shows("waiting"))
        assert "sends nothing" in seen.text("cover-detail")
        seen.tab.wait_for_timeout(2000)
        frames = seen.stats["frames"]
        running.tell("resume")

        seen.until(lambda: seen.shows("live") and seen.stats["frames"] > frames + 30)
        seen.until(lambda: (seen.stats["lagS"] or 99) < LAG_S_MAX)
        assert seen.stats["jumps"] >= 1


def test_a_title_with_markup_is_only_text_g_07_and_the_end_is_said(browser: Any) -> None:
    """G-07."""
    title = '"><img src=x onerror=document.title=1><script>document.title=2</script>'
    with program("--title", title) as running, page(browser, running.url) as seen:
        seen.until_live()
        assert seen.text("title") == title
        assert seen.tab.title().startswith('">')
        running.tell("end")

        seen.until(lambda: seen.shows("ended"))
        seen.until(lambda: bool(seen.tab.evaluate("document.getElementById('video').ended")))
        assert seen.text("cover-head") == "The stream has ended"
        assert seen.complaints == []


def test_a_node_that_dies_is_missed_and_found_again(browser: Any) -> None:
    with ExitStack() as stack:
        first = program()
        running = first.__enter__()
        seen = stack.enter_context(page(browser, running.url))
        seen.until_live()
        first.__exit__(None, None, None)
        seen.until(lambda: seen.shows("error"))
        assert "p2pstream" in seen.text("cover-detail")

        stack.enter_context(program("--port", running.port))
        seen.until(lambda: seen.shows("live") and (seen.stats["lagS"] or 99) < LAG_S_MAX)
        assert seen.stats["reconnects"] >= 1


class Switching(NamedTuple):
    """A program that changes the rendition at every key frame, and a site that may read it."""

    program: Program
    site: str


@pytest.fixture(scope="class")
def switching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switching]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text(HLSJS_PAGE)
    with (
        site(folder) as url,
        program("--allow-origin", url.rstrip("/"), "--switch-s", "2") as running,
    ):
        yield Switching(running, url)


class TestAPictureThatChangesItsSize:
    """On our page and in other players."""

    def test_the_picture_goes_on_through_a_change_of_rendition(
        self, browser: Any, switching: Switching
    ) -> None:
        with page(browser, switching.program.url) as seen:
            seen.until_live()
            sees_both_sizes(seen)

            seen.until(lambda: (seen.stats["lagS"] or 99) < LAG_S_MAX)
            assert seen.stats["reconnects"] == 0
            assert seen.complaints == []

    def test_hls_js_plays_our_playlist_from_another_origin(
        self, browser: Any, switching: Switching, hlsjs: Path
    ) -> None:
        source = f"{switching.program.url}live/index.m3u8"
        with page(browser, f"{switching.site}?src={source}") as seen:
            seen.tab.add_script_tag(path=str(hlsjs))
            seen.tab.evaluate("play()")
            seen.until(lambda: seen.stats["frames"] > 30)
            sees_both_sizes(seen)
            moves_on(seen, seconds=3, frames=40)
            seen.until(lambda: seen.stats["latency"] < LAG_S_MAX)
            assert not [error for error in seen.stats["errors"] if error[1]], "fatal"

    def test_mpv_and_ffprobe_play_it(
        self, switching: Switching, tool: Callable[[str], str]
    ) -> None:
        play_everywhere(switching.program.url, tool)


# Tools.


def sees_both_sizes(seen: Page) -> None:
    seen.until(lambda: seen.stats["width"] == 426)
    seen.until(lambda: seen.stats["width"] == 640)


def moves_on(seen: Page, *, seconds: float, frames: int) -> None:
    """Some time within patience it plays so much with more pictures than that; as `steadily`, for
    players that do not count their stalls.
    """
    deadline = now() + PATIENCE_S
    while True:
        before = after = seen.stats
        while after["at"] <= before["at"] + seconds:
            assert now() < deadline, (before, after)
            seen.tab.wait_for_timeout(50)
            after = seen.stats
        if after["frames"] - before["frames"] > frames:
            return


# Draws thirty graphs; returns the nodes of the last, and whether a number was none.
DRAW_GRAPHS = """async () => {
    const { MeshView } = await import('/web/graph.js');
    const make = (name) => document.createElementNS('http://www.w3.org/2000/svg', name);
    const frame = document.createElement('div');
    document.body.append(frame);
    const svg = frame.appendChild(make('svg'));
    const view = new MeshView(svg, document.createElement('p'), document.createElement('ul'));
    const roles = ['origin', 'seed', 'viewer', 'viewer', 'viewer', 'surprise'];
    const id = (n) => n.toString(16).padStart(8, '0');
    for (let round = 0; round < 30; round += 1) {
        const count = [0, 1, 2, 10, 40, 200][round % 6];
        const nodes = Array.from({length: count}, (_, n) => (
            {id: id(n * (1 + round % 3)), role: roles[(n * 7 + round) % 6], me: n === 3}));
        const links = Array.from({length: count * 2}, (_, n) => ({kbps: n,
            from: id((n * 13) % (count + 2)), to: id((n * 29 + round) % (count + 1))}));
        view.show({graph: {nodes, links}});
        await new Promise(requestAnimationFrame);
    }
    const found = [svg.querySelectorAll('.node:not(.gone)').length,
                   svg.outerHTML.includes('NaN')];
    frame.remove();
    return found;
}"""

# Cuts what the gateway sends, in four ways; returns the kinds of pieces, and whether all is there.
CUT_FEED = """async () => {
    const { BoxSplitter } = await import('/web/boxes.js');
    const get = async (path) => new Uint8Array(await (await fetch(path)).arrayBuffer());
    const list = await (await fetch('/live/stream.m3u8?_HLS_msn=1&_HLS_part=0')).text();
    const init = await get('/live/' + list.match(/MAP:URI="(.*?)"/)[1]);
    const segment = await get('/live/' + list.match(/^[0-9]+[.]m4s$/m)[0]);
    const whole = new Uint8Array([...init, ...segment]);
    const results = [];
    for (const step of [1, 7, 1000, whole.length]) {
        const splitter = new BoxSplitter(), pieces = [];
        for (let at = 0; at < whole.length; at += step) {
            pieces.push(...splitter.push(whole.subarray(at, at + step)));
        }
        const bytes = new Uint8Array(await new Blob(pieces.map((p) => p.data)).arrayBuffer());
        const same = bytes.length === whole.length && bytes.every((b, i) => b === whole[i]);
        results.push(pieces.map((piece) => piece.kind[0]).join('') + same);
    }
    return results;
}"""

HLSJS_PAGE = """<!doctype html><title>hls.js</title><video id=v muted playsinline></video>
<script>
const video = document.getElementById('v'), errors = [];
let hls;
function play() {
  hls = new Hls({lowLatencyMode: true, maxLiveSyncPlaybackRate: 1.5});
  hls.on(Hls.Events.ERROR, (_, data) => errors.push([data.details, data.fatal]));
  hls.loadSource(new URLSearchParams(location.search).get('src'));
  hls.attachMedia(video);
  video.play();
}
const frames = () => video.getVideoPlaybackQuality().totalVideoFrames;
window.p2pstream = {get stats() {
  return {frames: frames(), at: video.currentTime, latency: hls.latency, errors,
          width: video.videoWidth, playing: Boolean(hls.playingDate)}; }};
</script>"""


PATHS = ["live/stream.mp4", "live/stream.m3u8", "live/index.m3u8"]


def play_everywhere(url: str, tool: Callable[[str], str]) -> None:
    """mpv plays every path without a complaint, and ffprobe finds picture and sound there."""
    mpv = [tool("mpv"), "--no-config", "--quiet", "--vo=null", "--ao=null", "--frames=90"]
    ffprobe = [tool("ffprobe"), "-v", "error", "-print_format", "json", "-show_streams"]
    played = [start([*mpv, url + path]) for path in PATHS]
    probed = [start([*ffprobe, url + path]) for path in PATHS]
    shown = [process.communicate(timeout=60)[0] for process in played]
    found = [process.communicate(timeout=60)[0] for process in probed]

    for process, text in zip(played, shown, strict=True):
        assert process.returncode == 0, text
        assert "VO: [null]" in text
        assert "AO: [null]" in text
        assert "rror" not in text
    for text in found:
        assert {one["codec_name"] for one in json.loads(text)["streams"]} == {"h264", "aac"}


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
