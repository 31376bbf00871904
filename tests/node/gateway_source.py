"""A live source for the tests: x264 and AAC by PyAV, muxed into chunks of 200 ms, in real time.

The top of the picture carries the wall clock as a strip of blocks, so that a player can say how
old what it shows is. The writer of fragments here is independent of the one in p2pstream/media.
"""

from __future__ import annotations

import hashlib
import io
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from threading import Event
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType

from p2pstream.stream.chunk import TICKS_PER_S, Chunk, Init

FPS = 30
CHUNK_FRAMES = 6
GOP_FRAMES = 60
LATE_S_MAX = 0.5
AUDIO_RATE = 48_000
FIRST_S = 1  # Media time starts here, since AAC's priming would lie before zero.
STRIP_BITS = 32


@dataclass(frozen=True)
class Rung:
    rendition: int
    name: str
    width: int
    height: int
    kbps: int


RUNGS = (Rung(0, "360p", 640, 360, 900), Rung(1, "240p", 426, 240, 300))


@dataclass(frozen=True)
class Sample:
    dts: int
    duration: int
    key: bool
    data: bytes


def live(
    on_init: Callable[[Init, bytes], None],
    on_chunk: Callable[[Chunk], None],
    stop: Event,
    *,
    switch_s: float = 0,
    rungs: tuple[Rung, ...] = RUNGS[:1],
) -> None:
    """Produce until `stop`, one rendition at a time, another one every `switch_s` seconds.

    A machine that is too busy for it gets fewer pictures a second, and each is still a new one.
    """
    encoders = [Encoder(rung) for rung in rungs]
    for encoder in encoders:
        on_init(encoder.init, encoder.hash)
    began = time.perf_counter()
    for number, (picture, sound) in enumerate(_pictures(rungs[0])):
        due_s = number / FPS
        late_s = time.perf_counter() - began - due_s
        if late_s > LATE_S_MAX:
            began += late_s
        if stop.wait(max(0, -late_s)):
            return
        at_ms = time.time_ns() // 1_000_000
        turn = int(due_s // switch_s) % len(encoders) if switch_s else 0
        for index, encoder in enumerate(encoders):
            for chunk in encoder.encode(picture, sound, number, at_ms):
                if index == turn:
                    on_chunk(chunk)


@dataclass
class Encoder:
    """One rendition: frames in, chunks out."""

    rung: Rung
    seq: int = 0
    video: list[Sample] = field(default_factory=list)
    audio: list[Sample] = field(default_factory=list)
    captured_ms: int = 0

    def __post_init__(self) -> None:
        sink = _Sink()
        flags = "empty_moov+default_base_moof+frag_custom+skip_trailer"
        options = {"movflags": flags, "video_track_timescale": str(TICKS_PER_S)}
        self._out = av.open(sink, "w", format="mp4", options=options)
        self._video: Any = self._out.add_stream(
            "libx264",
            rate=FPS,
            options={
                "preset": "superfast",
                "tune": "zerolatency",
                "profile": "main",
                "bf": "0",
                "forced-idr": "1",
                "threads": "1",
                "x264-params": "keyint=infinite:scenecut=0:repeat-headers=1",
            },
        )
        self._video.width, self._video.height = self.rung.width, self.rung.height
        self._video.pix_fmt, self._video.bit_rate = "yuv420p", self.rung.kbps * 1000
        self._video.codec_context.time_base = Fraction(1, TICKS_PER_S)
        self._audio: Any = self._out.add_stream("aac", rate=AUDIO_RATE, layout="stereo")
        self._out.start_encoding()
        self._sound_samples = 0
        data = bytes(sink.data)
        self.hash = hashlib.sha256(data).digest()[:16]
        extradata = bytes(self._video.codec_context.extradata or b"")
        profile = extradata[(at := extradata.index(b"\0\0\1\x67") + 4) : at + 3].hex()
        codecs = f"avc1.{profile},mp4a.40.2"
        rung = self.rung
        self.init = Init(
            rung.rendition, rung.name, rung.width, rung.height, rung.kbps * 1000, codecs, data
        )

    def encode(
        self, picture: np.ndarray, sound: np.ndarray, number: int, at_ms: int
    ) -> Iterator[Chunk]:
        self._hear(sound)
        frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
        if (frame.width, frame.height) != (self.rung.width, self.rung.height):
            frame = frame.reformat(self.rung.width, self.rung.height)
        planes = frame.to_ndarray()
        _stamp(planes, self.rung, at_ms)
        frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
        frame.pts, frame.time_base = number * TICKS_PER_S // FPS, Fraction(1, TICKS_PER_S)
        key = number % GOP_FRAMES == 0
        frame.pict_type = PictureType.I if key else PictureType.NONE
        if not self.video:
            self.captured_ms = at_ms
        for packet in self._video.encode(frame):
            dts = packet.dts + FIRST_S * TICKS_PER_S
            self.video.append(
                Sample(dts, TICKS_PER_S // FPS, packet.is_keyframe, _avcc(bytes(packet)))
            )
        if len(self.video) == CHUNK_FRAMES:
            yield self._cut()

    def _hear(self, sound: np.ndarray) -> None:
        frame = av.AudioFrame.from_ndarray(sound, "fltp", "stereo")
        frame.sample_rate, frame.pts = AUDIO_RATE, self._sound_samples
        frame.time_base = Fraction(1, AUDIO_RATE)
        self._sound_samples += sound.shape[1]
        for packet in self._audio.encode(frame):
            if packet.dts >= 0:
                dts = packet.dts + FIRST_S * AUDIO_RATE
                self.audio.append(Sample(dts, 1024, key=True, data=bytes(packet)))

    def _cut(self) -> Chunk:
        video, audio = self.video, self.audio
        self.video, self.audio = [], []
        self.seq += 1
        return Chunk(
            seq=self.seq,
            rendition=self.rung.rendition,
            init=self.hash,
            pts=video[0].dts,
            duration=sum(sample.duration for sample in video),
            captured_ms=self.captured_ms,
            key=video[0].key,
            discontinuity=False,
            pieces=(fragment(self.seq, [(1, video), (2, audio)]),),
        )


def fragment(number: int, tracks: list[tuple[int, list[Sample]]]) -> bytes:
    """A moof and its mdat (ISO/IEC 14496-12, 8.8.4), for the tracks that have samples."""
    tracks = [(track, samples) for track, samples in tracks if samples]
    sizes = [sum(len(sample.data) for sample in samples) for _, samples in tracks]

    def moof(offset: int) -> bytes:
        trafs = []
        for (track, samples), size in zip(tracks, sizes, strict=True):
            trafs.append(_traf(track, samples, offset))
            offset += size
        return _box(b"moof", _box(b"mfhd", struct.pack(">II", 0, number)), *trafs)

    data = [sample.data for _, samples in tracks for sample in samples]
    return moof(len(moof(0)) + 8) + _box(b"mdat", *data)


def _traf(track: int, samples: list[Sample], offset: int) -> bytes:
    rows = b"".join(
        struct.pack(
            ">III", sample.duration, len(sample.data), 0x02000000 if sample.key else 0x01010000
        )
        for sample in samples
    )
    return _box(
        b"traf",
        _box(b"tfhd", struct.pack(">II", 0x020000, track)),
        _box(b"tfdt", struct.pack(">IQ", 0x01000000, samples[0].dts)),
        _box(b"trun", struct.pack(">IIi", 0x00000701, len(samples), offset), rows),
    )


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _avcc(annex_b: bytes) -> bytes:
    """NAL units behind start codes, with lengths instead; parameter sets stay in band."""
    units = annex_b.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in units)


def _pictures(rung: Rung) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Test pictures as planes of yuv420p, each with its 1/30 s of a beeping tone."""
    source = av.open(f"testsrc2=size={rung.width}x{rung.height}:rate={FPS}", format="lavfi")
    per_frame = AUDIO_RATE // FPS
    for number, frame in enumerate(source.decode(video=0)):
        at = (np.arange(per_frame) + number * per_frame) / AUDIO_RATE
        tone = 0.1 * np.sin(2 * np.pi * 440 * at) * (at % 1 < 0.1)
        yield frame.to_ndarray(), np.stack([tone, tone]).astype(np.float32)


def _stamp(planes: np.ndarray, rung: Rung, at_ms: int) -> None:
    """The wall clock as 1 + 32 blocks of luma at the top (facts/media.md 7)."""
    height, strip = rung.height, rung.height // 12
    edges = [at * rung.width // (STRIP_BITS + 2) for at in range(STRIP_BITS + 3)]
    planes[:strip] = 16
    planes[:strip, : edges[1]] = 235
    for bit in range(STRIP_BITS):
        if at_ms >> bit & 1:
            planes[:strip, edges[bit + 1] : edges[bit + 2]] = 235
    quarter = height // 4
    for chroma in (planes[height : height + quarter], planes[height + quarter :]):
        chroma.reshape(height // 2, rung.width // 2)[: strip // 2] = 128


class _Sink(io.RawIOBase):
    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)
