"""Encodes every picture once for each rung, and the sound once for all. Worker only.

Every rung gets the same pictures at the same times and a key frame after the same count of them,
so key frames are aligned by construction. With x264's zerolatency each picture comes out at once.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from p2pstream.media import fragment
from p2pstream.media.fragment import Sample
from p2pstream.media.ladder import GOP_S, Rung, audio_bitrate, frame_ticks
from p2pstream.media.pace import SoundClock
from p2pstream.media.records import Rendition
from p2pstream.stream.chunk import TICKS_PER_S

SOUND_RATE = 48_000  # What most sources have, and every player plays.
AAC_FRAME = 1024  # Samples: ISO/IEC 14496-3, AAC-LC.
# 30 ms. Less is heard by nobody (ITU-R BT.1359: from 45 ms on), and jitter must not make holes.
SOUND_TOLERANCE = SOUND_RATE * 30 // 1000
# Of what sound leaves. Boxes take 1 %; x264 overshoots by 2 to 4 (measured on the test picture).
VIDEO_SHARE = 0.96
# Where the pictures are short of time too. Measured at 96 kbit/s: 1 % of a core instead of 4.
SOUND_CHEAP = {"aac_coder": "fast", "aac_pns": "0", "aac_is": "0", "aac_ms": "0", "aac_tns": "0"}
SILENCE_MAX = SOUND_RATE  # Written at once: a hole of a second.
# One header of both tracks, video first: tracks 1 and 2. Chunks are made by fragment.py.
MUXER = {
    "movflags": "empty_moov+default_base_moof+skip_trailer",
    "use_editlist": "0",
    "video_track_timescale": str(TICKS_PER_S),
}


class Header(io.RawIOBase):
    """A file for libavformat to write a header into. Keeps what comes until `seal`."""

    def __init__(self) -> None:
        super().__init__()
        self._data = bytearray()
        self._sealed = False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: bytes) -> int:  # type: ignore[override]  # libavformat gives bytes.
        if not self._sealed:
            self._data += data
        return len(data)

    def seal(self) -> bytes:
        """What has been written; the rest is dropped."""
        self._sealed = True
        return bytes(self._data)


class Encoders:
    """All rungs of one ladder.

    start: ticks, where the stream's timeline goes on.
    """

    def __init__(self, rungs: tuple[Rung, ...], *, fps: int, start: int, sound: bool) -> None:
        bits = audio_bitrate(rungs) if sound else 0
        self._start = start
        self._rungs = [_RungEncoder(rung, fps=fps, sound_bitrate=bits) for rung in rungs]
        self._pool = ThreadPoolExecutor(len(rungs)) if len(rungs) > 1 else None
        self._sound = _SoundEncoder(self._rungs[0].aac, start) if self._rungs[0].aac else None

    @property
    def renditions(self) -> tuple[Rendition, ...]:
        return tuple(rung.rendition(number) for number, rung in enumerate(self._rungs))

    def picture(self, frame: VideoFrame, at: int) -> tuple[Sample, ...]:
        """`frame`, to be shown at `at` ticks, for each rung."""
        frame.pict_type = PictureType.NONE  # Or the source's key frames would become ours.
        frame.pts, frame.time_base = at - self._start, Fraction(1, TICKS_PER_S)
        if self._pool is None:
            return (self._rungs[0].encode(frame, at),)
        # PyAV lets go of the GIL to scale and to encode.
        return tuple(self._pool.map(lambda rung: rung.encode(frame, at), self._rungs))

    def sound(self, frame: AudioFrame, at: int) -> Iterator[Sample]:
        """The AAC frames that `frame`, to be heard at `at` ticks, completes."""
        if self._sound is not None:
            yield from self._sound.encode(frame, at)

    def finish(self) -> Iterator[Sample]:
        """The rest of the sound."""
        if self._sound is not None:
            yield from self._sound.finish()
        self.close()

    def close(self) -> None:
        """Let threads go."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


class _RungEncoder:
    def __init__(self, rung: Rung, *, fps: int, sound_bitrate: int) -> None:
        self._rung = rung
        self._duration = frame_ticks(fps)
        self._reformatter = VideoReformatter()
        header = Header()
        self._container = av.open(header, "w", format="mp4", options=MUXER, buffer_size=1 << 20)
        bits = round((rung.bitrate - sound_bitrate) * VIDEO_SHARE)
        self._video = self._container.add_stream(
            "libx264",
            rate=fps,
            options=_x264_options(rung.preset, bits=bits, gop=fps * GOP_S),
            width=rung.width,
            height=rung.height,
            pix_fmt="yuv420p",
            bit_rate=bits,
        )
        self._video.codec_context.time_base = Fraction(1, TICKS_PER_S)
        self.aac = self._add_sound(sound_bitrate) if sound_bitrate else None
        self._container.start_encoding()
        self._init = header.seal()

    def rendition(self, number: int) -> Rendition:
        return Rendition(
            rendition=number,
            name=self._rung.name,
            width=self._rung.width,
            height=self._rung.height,
            bitrate=self._rung.bitrate,
            codecs=fragment.codecs(self._init),
            data=self._init,
        )

    def encode(self, frame: VideoFrame, at: int) -> Sample:
        rung = self._rung
        scaled = self._reformatter.reformat(
            frame, rung.width, rung.height, "yuv420p", interpolation=Interpolation.FAST_BILINEAR
        )
        (packet,) = self._video.encode(scaled)
        units = fragment.without_sei(fragment.nal_units(bytes(packet)))
        data = fragment.avc_sample(units, ())
        return Sample(at, self._duration, packet.is_keyframe, data)

    def _add_sound(self, bitrate: int) -> AudioCodecContext:
        """Every rung's header names the sound; only the first rung's encoder is used."""
        options = SOUND_CHEAP if self._rung.preset == "superfast" else {}
        stream = self._container.add_stream(
            "aac", rate=SOUND_RATE, options=options, layout="stereo", bit_rate=bitrate
        )
        return stream.codec_context


class _SoundEncoder:
    def __init__(self, context: AudioCodecContext, start: int) -> None:
        self._context = context
        self._base = start * SOUND_RATE // TICKS_PER_S
        self._clock = SoundClock(self._base, SOUND_TOLERANCE)
        self._resampler = AudioResampler(format="fltp", layout="stereo", rate=SOUND_RATE)
        self._fifo = AudioFifo()
        self._read = 0

    def encode(self, frame: AudioFrame, at: int) -> Iterator[Sample]:
        where = at * SOUND_RATE // TICKS_PER_S
        frame.pts = None  # Times are ours; the resampler would object to a jump of the source's.
        for heard in self._resampler.resample(frame):
            self._write(heard, where)
            where += heard.samples
        yield from self._drain()

    def finish(self) -> Iterator[Sample]:
        yield from self._drain(partial=True)
        yield from self._samples(None)

    def _write(self, heard: AudioFrame, where: int) -> None:
        gap = self._clock.gap(where)
        if gap < 0:
            return
        while gap > 0:
            self._put(_silence(min(gap, SILENCE_MAX)))
            gap -= SILENCE_MAX
        self._put(heard)

    def _put(self, heard: AudioFrame) -> None:
        heard.pts = None
        self._fifo.write(heard)
        self._clock.advance(heard.samples)

    def _drain(self, *, partial: bool = False) -> Iterator[Sample]:
        while (heard := self._fifo.read(AAC_FRAME, partial)) is not None:
            heard.pts, heard.time_base = self._read, Fraction(1, SOUND_RATE)
            self._read += heard.samples
            yield from self._samples(heard)

    def _samples(self, heard: AudioFrame | None) -> Iterator[Sample]:
        for packet in self._context.encode(heard):
            # The first frame, at -1024, only primes the decoder.
            if packet.pts is not None and packet.pts >= 0:
                yield Sample(self._base + packet.pts, AAC_FRAME, True, bytes(packet))


def _x264_options(preset: str, *, bits: int, gop: int) -> dict[str, str]:
    """Measured in facts/media.md, part 2. bits: per second."""
    return {
        "preset": preset,
        "tune": "zerolatency",
        "profile": "main",
        "bf": "0",
        "forced-idr": "1",
        "threads": "1",
        "maxrate": str(bits),
        "bufsize": str(bits // 2),
        "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0:repeat-headers=1",
    }


def _silence(samples: int) -> AudioFrame:
    frame = AudioFrame(format="fltp", layout="stereo", samples=samples)
    frame.sample_rate = SOUND_RATE
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    return frame
