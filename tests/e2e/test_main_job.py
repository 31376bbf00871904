"""The main job: real video from a file to a browser, over viewers, every byte proven."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.e2e.browsing import page, site
from tests.e2e.recording import check
from tests.e2e.stage import (
    Actor,
    Stage,
    free_port,
    seconds,
    stage,
    taken,
    ticket_of,
    ticket_via,
    way_to,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

PLAY_S = seconds("PLAY", 4)
LAG_S_MAX = 2.0  # The issue's; measured: 1.2 s with two hops on an idle machine.
HOPS = 2


@dataclass(frozen=True)
class Show:
    """origin -> near -> far: `far` was told of `near` only, and the origin feeds one copy."""

    kind: str
    stage: Stage
    origin: Actor
    near: Actor
    far: Actor
    witness: Actor
    recording: Path

    @property
    def url(self) -> str:
        url: str = self.far.last("page")["url"]
        return url


@pytest.fixture(scope="module", params=["testsrc", "encoded", "passthrough"])
def show(request: pytest.FixtureRequest, film: Callable[[str], Path]) -> Iterator[Show]:
    kind: str = request.param
    source = {
        "testsrc": lambda: ["testsrc", "--ladder", "360p:700k"],
        # For its sound, 5.1. One rendition, since many are a matter of other tests.
        "encoded": lambda: [str(film("bigbuckbunny.mp4")), "--loop", "--ladder", "360p:700k"],
        "passthrough": lambda: [str(film("short-gop.mp4")), "--loop"],
    }[kind]()
    with stage() as made:
        origin = made.broadcast(*source, "--copies", "1", "--title", f"A {kind} show")
        ticket, port = ticket_of(origin), free_port()
        near = made.watch("near", ticket, "--port", str(port))
        near.wait_for("playing")
        witness = made.start("witness", ticket, module="tests.e2e.witness")
        witness.wait_for("head")
        recording = made.folder / "show.mp4"
        far = made.watch(
            "far", ticket_via(ticket, way_to(near, port)), "-o", str(recording), page=True
        )
        far.wait_for("playing")
        yield Show(kind, made, origin, near, far, witness, recording)


def test_a_browser_plays_what_came_over_two_hops(browser: Any, show: Show, pictures: Path) -> None:
    plan = show.origin.last("opened")["plan"]
    assert plan == ("passthrough" if show.kind == "passthrough" else "encode")
    with page(browser, show.url) as seen:
        seen.until_live()
        lags: list[float] = []

        def look() -> int:
            """Reads the clock in the picture; says how often the node has stalled."""
            if show.kind == "testsrc" and (lag_s := seen.strip_lag_s()) is not None:
                lags.append(lag_s)
            stalls: int = show.far.last()["playout"]["stalls"]
            return stalls

        before, after = seen.steadily(PLAY_S, look)
        stats = show.far.next_stats()

        assert after["mode"] == "mse"
        assert after["frames"] - before["frames"] > 0.8 * 24 * PLAY_S
        assert after["reconnects"] == 0
        assert stats["totals"]["hops_max"] >= HOPS
        assert stats["totals"]["from_peers"] > 0.5 * taken(stats["totals"])
        assert stats["totals"]["pieces_refused"] == 0
        if show.kind == "testsrc":
            assert len(lags) > PLAY_S, "the clock strip could not be read"
            # Where the machine was busy as the page began, its player keeps more in its buffer, and
            # forgets that with time.
            seen.until(lambda: look() >= 0 and 0 < median(lags[-16:]) <= LAG_S_MAX)
        print(f"{show.kind}: strip lag {sorted(lags)[len(lags) // 2 :]}")

        assert seen.text("title") == f"A {show.kind} show"
        assert seen.text("badge-text") == "live"
        share = round(100 * stats["totals"]["from_peers"] / taken(stats["totals"]))
        assert abs(int(seen.text("share")) - share) <= 5
        assert seen.tab.locator("#partners tr").count() == len(stats["partners"]) >= 2
        assert seen.tab.locator("#mesh .node").count() >= 3
        assert "0 refused" in seen.text("verified")
        assert seen.complaints == []
        for width, height in ((1280, 900), (390, 844)):
            seen.tab.set_viewport_size({"width": width, "height": height})
            seen.tab.wait_for_timeout(700)
            assert seen.tab.evaluate("document.documentElement.scrollWidth") <= width
            seen.tab.screenshot(path=pictures / f"{show.kind}-{width}.png", full_page=True)
        print(f"screenshots in {pictures}")


# Players that are not ours, all at the same viewer.

ONE_SHOW = pytest.mark.parametrize("show", ["passthrough"], indirect=True)

HLSJS_PAGE = """<!doctype html><title>hls.js</title><video id=video muted playsinline></video>
<script src="hls.js"></script><script>
const video = document.getElementById('video'), errors = [];
const hls = new Hls({lowLatencyMode: true, maxLiveSyncPlaybackRate: 1.5});
hls.on(Hls.Events.ERROR, (_, data) => errors.push([data.details, data.fatal]));
hls.loadSource('live/index.m3u8');
hls.attachMedia(video);
video.play();
window.p2pstream = {get stats() { return {
    frames: video.getVideoPlaybackQuality().totalVideoFrames, at: video.currentTime,
    latency: hls.latency, fatal: errors.filter((error) => error[1]), errors}; }};
</script>"""


@ONE_SHOW
def test_hls_js_plays_the_playlist(browser: Any, show: Show, hlsjs: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(HLSJS_PAGE)
    shutil.copy(hlsjs, tmp_path / "hls.js")
    with site(tmp_path, show.url) as url, page(browser, url) as seen:
        seen.until(lambda: seen.stats["frames"] > 30)
        before = seen.stats
        seen.until(lambda: seen.stats["at"] > before["at"] + 4)
        after = seen.stats

        assert after["frames"] - before["frames"] > 60
        assert after["fatal"] == []
        assert 0 < after["latency"] < 5, "that is not low latency"


@ONE_SHOW
def test_mpv_plays_playlist_and_endless_file(show: Show, tool: Callable[[str], str]) -> None:
    command = [tool("mpv"), "--no-config", "--quiet", "--vo=null", "--ao=null", "--frames=90"]
    players = [
        subprocess.Popen(
            [*command, show.url + path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for path in ("live/index.m3u8", "live/stream.mp4")
    ]
    for player in players:
        words, _ = player.communicate(timeout=60)
        assert player.returncode == 0, words
        assert "VO: [null]" in words
        assert "AO: [null]" in words
        assert "rror" not in words


@ONE_SHOW
def test_ffmpeg_plays_playlist_and_endless_file(show: Show, tool: Callable[[str], str]) -> None:
    for path in ("live/index.m3u8", "live/stream.mp4"):
        assert probe(tool("ffprobe"), show.url + path) == {"h264", "aac"}
        decoded = subprocess.run(
            [tool("ffmpeg"), "-v", "error", "-t", "2", "-i", show.url + path, "-f", "null", "-"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (decoded.returncode, decoded.stderr) == (0, "")


@ONE_SHOW
def test_standard_output_can_be_piped(show: Show, tool: Callable[[str], str]) -> None:
    piped = show.stage.start(
        "piped", "watch", ticket_of(show.origin), "--no-page", "--host", "127.0.0.1", "-o", "-",
        "--json", binary=True,
    )  # fmt: skip
    while len(piped.raw) < 200_000:
        assert piped.process.poll() is None, piped.words()
        show.witness.wait_for("head", since=show.witness.lines[-1].at)
    assert piped.stop() == 130
    found = check(bytes(piped.raw), show.witness)
    assert found.inits == 1
    probed = subprocess.run(
        [tool("ffprobe"), "-v", "error", "-show_streams", "-"], input=bytes(piped.raw),
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (probed.returncode, probed.stderr) == (0, b"")
    assert b"codec_name=h264" in probed.stdout


# The end, and what is left of the show.


def test_the_recording_is_what_the_broadcaster_signed(
    show: Show, tool: Callable[[str], str]
) -> None:
    assert show.origin.stop() == 130
    assert show.far.wait() == 0, show.far.words()
    summary = show.far.last("summary")
    show.witness.wait_for("head", lambda head: head["end"])

    found = check(show.recording.read_bytes(), show.witness)

    assert len(found.seqs) == summary["playout"]["played"]
    assert found.gaps == summary["playout"]["skipped"]
    newest = max(line.said["seq"] for line in show.witness.said("head"))
    assert found.seqs[-1] == newest - 1, "the last chunk before the signed end is missing"
    assert probe(tool("ffprobe"), str(show.recording)) >= {"h264"}
    played = subprocess.run(
        [tool("mpv"), "--no-config", "--quiet", "--vo=null", "--ao=null", "--untimed",
         "--frames=60", str(show.recording)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert played.returncode == 0, played.stdout
    assert "rror" not in played.stdout + played.stderr
    assert show.near.wait() == 0
    for actor in (show.origin, show.near, show.far):
        assert actor.noise == [], actor.name


def probe(ffprobe: str, address: str) -> set[str]:
    """The codecs that ffprobe finds there, without a complaint."""
    probed = subprocess.run(
        [ffprobe, "-v", "error", "-print_format", "json", "-show_streams", address],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (probed.returncode, probed.stderr) == (0, "")
    return {stream["codec_name"] for stream in json.loads(probed.stdout)["streams"]}
