"""A broadcaster that dies without a word, and the one that takes its place."""

from __future__ import annotations

from pathlib import Path

import trio
from trio.testing import MockClock

from p2pstream.identity import NodeKey, StreamKey
from p2pstream.media.ingest import Ingest
from p2pstream.media.options import Source
from p2pstream.media.records import Group, Opened, Rendition
from p2pstream.node.broadcaster import Broadcaster
from p2pstream.node.node import Node
from p2pstream.node.state import Store
from p2pstream.stream.chunk import TICKS_PER_S
from p2pstream.stream.head import Head
from p2pstream.stream.window import Window

ROOT = StreamKey(b"r" * 32)
BEGAN_S = 1.7e9
GROUP_S = 0.2
LIVES, AWAY_S = 5, 0.2
OPENED = Opened("a film", "encode", (Rendition(0, "360p", 640, 360, 500_000, "avc1", b"init"),))


async def test_h_10_killed_within_a_group_and_back_at_once_it_signs_no_seq_twice(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """All that outlives it is the store; a viewer takes every head, in order."""
    del autojump_clock
    signed: list[Head] = []
    for life in range(LIVES):
        await broadcast(tmp_path, signed, groups=3 + 2 * life)
        await trio.sleep(AWAY_S)
    places = [(head.epoch, head.seq) for head in signed]
    assert len(places) == sum(3 + 2 * life for life in range(LIVES))
    assert places == sorted(set(places))
    assert len({seq for _, seq in places}) == len(places)
    assert len({epoch for epoch, _ in places}) == LIVES
    viewer = Window()
    for head in signed:
        assert viewer.add_head(head)


async def broadcast(folder: Path, signed: list[Head], *, groups: int) -> None:
    """A broadcaster's life. Nothing is said at its end, and nothing is saved then."""
    async with trio.open_nursery() as nursery:
        node = Node(
            NodeKey(b"n" * 32),
            host="127.0.0.1",
            allow_private=True,
            clock=lambda: BEGAN_S + trio.current_time(),
        )
        await nursery.start(node.run)
        one = Broadcaster(node, ROOT, Store(folder), Ingest(Source("testsrc")), "film")
        one.start()
        one._on_news(OPENED)
        for number in range(groups):
            one._on_news(group(number))
            await trio.sleep(GROUP_S if number < groups - 1 else GROUP_S / 2)
        window = one.swarm.window
        signed += [head for seq in window if (head := window.head(seq)) is not None]
        nursery.cancel_scope.cancel()


def group(number: int) -> Group:
    ticks = int(GROUP_S * TICKS_PER_S)
    captured_ms = int((BEGAN_S + trio.current_time()) * 1000)
    return Group(number * ticks, ticks, captured_ms, number == 0, False, ((0, b"moof"),))
