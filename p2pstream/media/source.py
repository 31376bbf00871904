"""The source's packets and frames in the order and at the times of the stream. Worker only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from typing import TypeAlias

import av
import av.error
from av.audio.frame import AudioFrame
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame

from p2pstream.errors import MediaFailed, UnsupportedCodec
from p2pstream.media.opening import Input, open_input
from p2pstream.media.options import Order
from p2pstream.media.pace import JUMP_TICKS, Timeline
from p2pstream.stream.chunk import TICKS_PER_S

# In quotes: PyAV's classes are generic in their stubs only.
AnyPacket: TypeAlias = "Packet[Stream]"
Payload: TypeAlias = "Packet[Stream] | VideoFrame | AudioFrame"

# How far sound runs ahead of the pictures, in ticks. The AAC encoder looks two frames (43 ms)
# ahead, and a chunk should not wait for it. A live source's sound cannot come early.
LEAD_TICKS = TICKS_PER_S // 10
HELD_MAX = 2000  # Frames of sound that wait for pictures: 40 s. A broken file drops the oldest.
REORDER_MAX = 16  # Pictures: ITU-T H.264, A.3.1, max_dec_frame_buffering.
HOLE_MAX_FILE = TICKS_PER_S * 60  # Wild guess: screen recordings leave out what does not change.
BAD_PACKETS_MAX = 100  # In a row: 3 s of video. Joining a live stream mid-GOP gives some.


@dataclass(frozen=True, slots=True)
class Item:
    """A packet or frame. at, duration: ticks, on the source's or the stream's timeline.

    cts: ticks from a packet's decoding to its showing.
    """

    video: bool
    at: int
    duration: int
    payload: Payload
    cts: int = 0


def packets(opened: Input) -> Iterator[AnyPacket]:
    """The packets of the streams we use, each stream's last one empty.

    Raises `MediaFailed` when the source breaks off.
    """
    wanted = [opened.video] if opened.audio is None else [opened.video, opened.audio]
    try:
        yield from opened.container.demux(*wanted)
    except av.error.EOFError:
        return
    except av.error.FFmpegError as error:
        if not opened.live:
            return  # A file that is cut short plays as far as it goes.
        raise MediaFailed(f"The source broke off: {error.strerror}.") from error


def packet_items(opened: Input, source: Iterable[AnyPacket]) -> Iterator[Item]:
    """Packets in decoding order, at the times of the source: a picture's is its dts.

    With B frames pictures are shown later than that, all by the same delay. The other way, to
    decode them later and show them at once (negative cts, as CMAF allows), makes FFmpeg's players
    show them that delay too late against the sound (measured: 66 ms).
    """
    nominal = round(TICKS_PER_S / opened.fps)
    begun = False
    undated: list[AnyPacket] = []
    for packet in source:
        if packet.pts is None or not packet.size:
            continue
        if packet.stream_index != opened.video.index:
            yield Item(False, ticks(packet.pts, packet.time_base), _duration(packet), packet)
            continue
        begun = begun or packet.is_keyframe
        undated.extend([packet] if begun else [])
        # The first pictures from Matroska and RTSP have no dts, and the key frame is among them.
        if packet.dts is None and len(undated) <= REORDER_MAX:
            continue
        newest = ticks(packet.pts if packet.dts is None else packet.dts, packet.time_base)
        for place, picture in enumerate(undated, start=1 - len(undated)):
            assert picture.pts is not None
            at = newest + place * nominal
            cts = ticks(picture.pts, picture.time_base) - at
            yield Item(True, at, _duration(picture) or nominal, picture, cts=cts)
        undated.clear()


def frame_items(opened: Input, source: Iterable[AnyPacket]) -> Iterator[Item]:
    """Decoded frames in the order they are shown, at the times of the source."""
    duration = round(TICKS_PER_S / opened.fps)
    bad = 0
    for packet in source:
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            bad += 1
            if bad > BAD_PACKETS_MAX:
                raise _undecodable(packet) from None
            continue
        for frame in frames:
            bad = 0
            if not isinstance(frame, VideoFrame | AudioFrame) or frame.pts is None:
                continue
            assert frame.time_base is not None
            is_video = isinstance(frame, VideoFrame)
            at = ticks(frame.pts, frame.time_base)
            yield Item(is_video, at, duration if is_video else 0, frame)


def placed(items: Iterable[Item], timeline: Timeline) -> Iterator[Item]:
    """`items` with their times on the stream's timeline."""
    early: deque[Item] = deque(maxlen=HELD_MAX)
    for item in items:
        if item.video:
            yield replace(item, at=timeline.picture(item.at, item.duration))
        early.extend([] if item.video else [item])
        while early and timeline.known:
            sound = early.popleft()
            yield replace(sound, at=timeline.sound(sound.at))


def interleaved(items: Iterable[Item], lead: int) -> Iterator[Item]:
    """`items` with sound `lead` ticks ahead of the pictures, as far as the source gives it.

    Sound that goes on after the last picture is left out, so that a loop stays in sync.
    """
    pictures: deque[Item] = deque()
    sounds: deque[Item] = deque(maxlen=HELD_MAX)
    newest = end = 0
    for item in items:
        (pictures if item.video else sounds).append(item)
        if item.video:
            newest, end = max(newest, item.at), max(end, item.at + item.cts + item.duration)
        while sounds and sounds[0].at <= newest:
            yield sounds.popleft()
        while pictures and newest - pictures[0].at >= lead:
            yield pictures.popleft()
    yield from (sound for sound in sounds if sound.at < end)
    yield from pictures


class Playback:
    """Everything a source gives, again and again if it is to be looped."""

    def __init__(self, order: Order, opened: Input) -> None:
        self.opened = opened
        self._order = order
        hole_max = JUMP_TICKS if opened.live else HOLE_MAX_FILE
        self._timeline = Timeline(order.start_pts, hole_max=hole_max)
        self._lead = 0 if opened.live else LEAD_TICKS

    def packets(self, first: Iterable[AnyPacket] = ()) -> Iterator[Item]:
        """As coded. first: what has been read already."""
        for source in self._passes(first):
            yield from self._in_order(packet_items(self.opened, source))

    def frames(self, first: Iterable[AnyPacket] = ()) -> Iterator[Item]:
        """Decoded. first: what has been read already."""
        for source in self._passes(first):
            yield from self._in_order(frame_items(self.opened, source))

    def _passes(self, first: Iterable[AnyPacket]) -> Iterator[Iterable[AnyPacket]]:
        yield chain(first, packets(self.opened))
        while self._order.source.loop and self.opened.seekable:
            start = self._timeline.end
            self._timeline.seam()
            self.opened.container.close()
            self.opened = open_input(self._order.source)
            yield packets(self.opened)
            if self._timeline.end == start:
                raise MediaFailed("The file became empty while it was looped.")

    def _in_order(self, items: Iterable[Item]) -> Iterator[Item]:
        return interleaved(placed(items, self._timeline), self._lead)


def ticks(value: int, time_base: Fraction) -> int:
    """`value` in ticks of 1/90000 s."""
    return round(value * time_base * TICKS_PER_S)


def _duration(packet: AnyPacket) -> int:
    return ticks(packet.duration or 0, packet.time_base)


def _undecodable(packet: AnyPacket) -> UnsupportedCodec:
    name = packet.stream.codec_context.name
    return UnsupportedCodec(
        f"The {packet.stream.type} ({name}) cannot be decoded.",
        hint="Convert it first, for example with `ffmpeg -i INPUT -c:v libx264 -c:a aac out.mp4`.",
    )
