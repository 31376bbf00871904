"""The node and its worker: a real process, killed, starved and cancelled."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from p2pstream.errors import BadConfig, InputNotFound, MediaFailed, NoVideo
from p2pstream.media import ingest
from p2pstream.media.ingest import Ingest, News, Restarted
from p2pstream.media.options import Source
from p2pstream.media.records import Ended, Group, Opened, Warned
from tests.media.kinds import Film

SMALL = Source("testsrc", rungs="200k", size=(160, 120))


class Viewer:
    """Keeps what is delivered, and lets tests wait for it."""

    def __init__(self) -> None:
        self.news: list[News] = []
        self._changed = trio.Event()

    def deliver(self, item: News) -> None:
        self.news.append(item)
        self._changed.set()
        self._changed = trio.Event()

    @property
    def groups(self) -> list[Group]:
        return [item for item in self.news if isinstance(item, Group)]

    async def wait_groups(self, count: int) -> None:
        with trio.fail_after(20):
            while len(self.groups) < count:
                await self._changed.wait()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_file_is_played_to_its_end(film: Film) -> None:
    viewer = Viewer()

    await Ingest(Source(str(film())), paced=False).run(viewer.deliver)

    assert isinstance(viewer.news[0], Opened)
    assert viewer.news[-1] == Ended()
    assert sum(group.duration for group in viewer.groups) == 180_000


async def test_a_paced_source_is_never_ahead_of_time() -> None:
    viewer = Viewer()
    source = Ingest(SMALL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run, viewer.deliver)
        await viewer.wait_groups(1)
        began = trio.current_time()
        await viewer.wait_groups(6)
        assert trio.current_time() - began > 0.8
        nursery.cancel_scope.cancel()


async def test_a_killed_worker_is_replaced_and_the_timeline_goes_on() -> None:
    viewer = Viewer()
    source = Ingest(SMALL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run, viewer.deliver)
        await viewer.wait_groups(3)
        assert source.pid is not None
        os.kill(source.pid, signal.SIGKILL)
        before = len(viewer.groups)
        await viewer.wait_groups(before + 2)
        nursery.cancel_scope.cancel()

    at = next(i for i, item in enumerate(viewer.news) if isinstance(item, Restarted))
    restarted = viewer.news[at]
    assert restarted == Restarted("the media worker was killed by SIGKILL", 1)
    assert isinstance(viewer.news[at + 1], Opened)
    old = [item for item in viewer.news[:at] if isinstance(item, Group)]
    new = [item for item in viewer.news[at:] if isinstance(item, Group)]
    assert [group.discontinuity for group in new[:2]] == [True, False]
    assert new[0].key
    assert new[0].pts >= old[-1].pts + old[-1].duration


async def test_cancelling_leaves_no_process_behind() -> None:
    viewer = Viewer()
    source = Ingest(SMALL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run, viewer.deliver)
        await viewer.wait_groups(1)
        pid = source.pid
        assert pid is not None
        nursery.cancel_scope.cancel()

    assert not alive(pid)  # A zombie would still be there.
    assert source.pid is None


async def test_too_many_deaths_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "BACKOFF_S", (0.0,) * 5)
    viewer = Viewer()
    source = Ingest(SMALL)

    def kill(item: News) -> None:
        viewer.deliver(item)
        if isinstance(item, Opened) and source.pid:
            os.kill(source.pid, signal.SIGKILL)

    with pytest.raises(MediaFailed, match="SIGKILL"):
        await source.run(kill)
    attempts = [item.attempt for item in viewer.news if isinstance(item, Restarted)]
    assert attempts == [1, 2, 3, 4, 5]


async def test_a_silent_worker_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "SILENCE_S_MAX", 0.7)
    viewer = Viewer()
    source = Ingest(SMALL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run, viewer.deliver)
        await viewer.wait_groups(1)
        assert source.pid is not None
        os.kill(source.pid, signal.SIGSTOP)
        await viewer.wait_groups(len(viewer.groups) + 1)
        nursery.cancel_scope.cancel()

    (restarted,) = (item for item in viewer.news if isinstance(item, Restarted))
    assert "said nothing for 0.7 s" in restarted.reason


async def test_mistakes_are_told_at_once_and_not_tried_again(film: Film, tmp_path: Path) -> None:
    for path, error in (
        (tmp_path / "missing.mp4", InputNotFound),
        (film("sound.m4a", video=""), NoVideo),
    ):
        viewer = Viewer()
        with pytest.raises(error) as caught:
            await Ingest(Source(str(path))).run(viewer.deliver)
        assert caught.value.hint
        assert viewer.news == []


def test_nonsense_rungs_are_refused_before_anything_starts() -> None:
    with pytest.raises(BadConfig):
        Ingest(Source("testsrc", rungs="nonsense"))


@pytest.mark.parametrize("audio", ["aac", "libmp3lame"])
async def test_standard_input_is_read_from_the_descriptor_given(film: Film, audio: str) -> None:
    viewer = Viewer()
    with film("film.ts", audio=audio).open("rb") as file:
        await Ingest(Source("-"), stdin=file.fileno(), paced=False).run(viewer.deliver)

    assert viewer.news[-1] == Ended()
    assert sum(group.duration for group in viewer.groups) == 180_000
    assert not [item for item in viewer.news if isinstance(item, Warned) and item.code == "behind"]


async def test_the_worker_ends_with_its_reader_and_at_sigterm() -> None:
    from p2pstream.media.options import Order

    command = [sys.executable, "-m", "p2pstream.media.worker", Order(SMALL).text()]
    for action in ("leave", "terminate"):
        process = await trio.lowlevel.open_process(command, stdout=-1)
        assert process.stdout is not None
        assert await process.stdout.receive_some(1)
        if action == "leave":
            await process.stdout.aclose()
        else:
            process.terminate()
        with trio.fail_after(5):
            assert await process.wait() == 0
        await process.stdout.aclose()


def test_the_node_does_not_load_ffmpeg() -> None:
    import subprocess

    code = "import sys, p2pstream.media.ingest; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_live_address_that_ends_is_asked_again(film: Film) -> None:
    data = film("film.ts").read_bytes()
    viewer = Viewer()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        source = Ingest(Source(f"tcp://127.0.0.1:{port}"), paced=False)
        nursery.start_soon(source.run, viewer.deliver)
        await viewer.wait_groups(12)
        nursery.cancel_scope.cancel()

    restarted = next(item for item in viewer.news if isinstance(item, Restarted))
    assert restarted.reason == "The source has ended."
    assert viewer.groups[10].discontinuity
    assert viewer.groups[10].pts == 180_000
