"""The wall clock in the picture."""

from __future__ import annotations

import av
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.media import clockstrip
from p2pstream.media.options import Source
from p2pstream.media.records import Group
from tests.media.kinds import Join, Play


@given(st.integers(0, 2**32 - 1), st.sampled_from([(320, 180), (640, 360), (426, 240)]))
def test_what_is_drawn_can_be_read(ms: int, size: tuple[int, int]) -> None:
    frame = av.VideoFrame(*size, "yuv420p")

    clockstrip.draw(frame.planes, ms)

    assert clockstrip.read(row_of(frame)) == ms


def test_a_row_without_a_strip_has_no_time() -> None:
    assert clockstrip.read(bytes([16]) * 640) is None
    assert clockstrip.read(bytes([235]) * 640) is None


def test_the_clock_survives_encoding_in_every_rendition(play: Play, joined: Join) -> None:
    records = play(Source("testsrc", rungs="360p,240p:300k"), seconds=0.6)
    groups = [r for r in records if isinstance(r, Group)]
    assert groups

    for rendition in (0, 1):
        with av.open(str(joined(records, rendition))) as container:
            times = [clockstrip.read(row_of(f)) for f in container.decode(video=0)]
        assert times[0] == groups[0].captured_ms % 2**32
        assert set(times) == {times[0]}  # The fixture's wall clock stands still.


def row_of(frame: av.VideoFrame) -> bytes:
    plane = frame.planes[0]
    start = clockstrip.strip_row(frame.height) * plane.line_size
    return bytes(memoryview(plane)[start : start + frame.width])
