"""Small films, made on the spot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from p2pstream.media.options import Order, Source
from p2pstream.media.pace import Unpaced
from p2pstream.media.produce import Clock, produce
from p2pstream.media.records import AnyRecord, Group, Opened
from tests.media.kinds import Film, Join, Play


@pytest.fixture
def film(tmp_path: Path) -> Film:
    """Makes a film of 160x120, 25 pictures per second, and a hum."""

    def make(
        name: str = "film.mp4",
        *,
        seconds: float = 2.0,
        gop: int = 25,
        b_frames: int = 0,
        video: str = "libx264",
        audio: str = "aac",
        layout: str = "stereo",
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as out:
            pictures = _add_video(out, video, gop, b_frames) if video else None
            hum = _add_audio(out, audio, layout) if audio else None
            if pictures:
                for frame in _pictures(round(seconds * 25)):
                    out.mux(pictures.encode(frame))
                out.mux(pictures.encode(None))
            if hum:
                for sound in _silence(round(seconds * 48000 / 1024), layout):
                    out.mux(hum.encode(sound))
                out.mux(hum.encode(None))
        return path

    return make


@pytest.fixture
def play() -> Play:
    """Runs the worker's inside here and now, as fast as it can, and returns what it says."""

    def run(source: Source, *, seconds: float = 1e9, **options: float) -> list[AnyRecord]:
        order = Order(source, **options)  # type: ignore[arg-type]
        clock = Clock(monotonic=lambda: 0.0, wall=lambda: 1_700_000_000.0)
        records: list[AnyRecord] = []
        for record in produce(order, Unpaced(), clock):
            records.append(record)
            if sum(r.duration for r in records if isinstance(r, Group)) >= seconds * 90_000:
                break
        return records

    return run


@pytest.fixture
def joined(tmp_path: Path) -> Join:
    """What a viewer of one rendition ends up with, as one file."""

    def join(records: list[AnyRecord], rendition: int = 0) -> Path:
        (opened,) = (r for r in records if isinstance(r, Opened))
        groups = [r for r in records if isinstance(r, Group)]
        path = tmp_path / f"joined.{rendition}.mp4"
        data = [opened.inits[rendition].data, *(dict(g.chunks)[rendition] for g in groups)]
        path.write_bytes(b"".join(data))
        return path

    return join


@pytest.fixture
def footage() -> Path:
    """Real films. They are not in the repository."""
    folder = os.environ.get("P2PSTREAM_FOOTAGE")
    if not folder:
        pytest.skip("P2PSTREAM_FOOTAGE names no folder with world.mp4, bigbuckbunny.mp4, ...")
    return Path(folder)


def _add_video(out: OutputContainer, codec: str, gop: int, b_frames: int) -> VideoStream:
    options = {"x264-params": f"scenecut=0:bframes={b_frames}:open-gop=0"}
    stream = out.add_stream(codec, rate=25, options=options if codec == "libx264" else {})
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.gop_size, stream.pix_fmt = 160, 120, gop, "yuv420p"
    return stream


def _add_audio(out: OutputContainer, codec: str, layout: str) -> AudioStream:
    stream = out.add_stream(codec, rate=48000, layout=layout)
    assert isinstance(stream, AudioStream)
    return stream


def _pictures(count: int) -> Iterator[av.VideoFrame]:
    for at in range(count):
        frame = av.VideoFrame(160, 120, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([(at * 7) % 200 + 20]) * plane.buffer_size)
        frame.pts, frame.time_base = at, Fraction(1, 25)
        yield frame


def _silence(count: int, layout: str) -> Iterator[av.AudioFrame]:
    for at in range(count):
        frame = av.AudioFrame("fltp", layout, 1024)
        frame.sample_rate = 48000
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts, frame.time_base = at * 1024, Fraction(1, 48000)
        yield frame
