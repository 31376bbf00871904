"""Passing H.264 and AAC through as they are: whether that can be done, and how. Worker only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import av

from p2pstream.errors import MediaFailed
from p2pstream.media import fragment
from p2pstream.media.encode import MUXER, Header
from p2pstream.media.fragment import Sample
from p2pstream.media.opening import Input
from p2pstream.media.pace import SoundClock
from p2pstream.media.records import Rendition
from p2pstream.media.source import AnyPacket, Item, ticks
from p2pstream.stream.chunk import TICKS_PER_S

# Every browser decodes these (facts/media.md, 4).
H264_PROFILES = {"Baseline", "Constrained Baseline", "Main", "High"}
CHANNELS_MAX = 2
LOOK_S_LIVE = 2.5  # design: how long a live source is watched before it is encoded after all.
LOOK_PACKETS_MAX = 20_000  # Of a file: some minutes, read in a fraction of a second.
AAC_FRAME = 1024
SOUND_TOLERANCE = AAC_FRAME // 2  # Samples: whole frames can only be placed, not cut.


@dataclass(slots=True)
class Look:
    """What a look ahead over a source's packets found. problem: why not to pass it through."""

    packets: list[AnyPacket] = field(default_factory=list)
    parameters: list[bytes] = field(default_factory=list)
    sound_config: bytes = b""
    bitrate: int = 0
    problem: str = ""


def codec_problem(opened: Input) -> str:
    """Why these codecs cannot be passed through; empty if they can."""
    video = opened.video.codec_context
    if video.name != "h264":
        return f"the video is {video.name}"
    if video.profile not in H264_PROFILES or video.pix_fmt not in {"yuv420p", "yuvj420p"}:
        return f"the video is H.264 {video.profile} {video.pix_fmt}"
    if opened.audio is None:
        return ""
    audio = opened.audio.codec_context
    if audio.name != "aac" or audio.profile != "LC":
        return f"the audio is {audio.name} {audio.profile or ''}".strip()
    if audio.channels > CHANNELS_MAX:
        return f"the audio has {audio.channels} channels"
    return ""


def look(opened: Input, source: Iterable[AnyPacket], *, interval_s_max: float) -> Look:
    """Read `source` until it is clear whether to pass it through."""
    found = Look()
    keys: list[int] = []
    shown: list[int] = []
    size = 0
    for count, packet in enumerate(source):
        if not opened.seekable:
            found.packets.append(packet)
        if packet.stream_index != opened.video.index:
            _look_at_sound(found, packet)
        elif packet.pts is not None and packet.size:
            units = _units_or_none(opened, packet)
            found.parameters = found.parameters or fragment.parameter_sets(units)
            shown.append(ticks(packet.pts, packet.time_base))
            keys.extend(shown[-1:] if fragment.is_idr(units) else [])
        size += packet.size
        if _seen_enough(opened, count, keys, shown):
            break

    found.parameters = known_parameters(opened) or found.parameters
    end = max(shown, default=0) + round(TICKS_PER_S / opened.fps)
    found.bitrate = max(1, round(size * 8 * TICKS_PER_S / (end - min(shown, default=0))))
    found.problem = _problem(found, [*keys, end] if keys else [], interval_s_max)
    return found


def known_parameters(opened: Input) -> list[bytes]:
    """The SPS and PPS that the container says."""
    extra = bytes(opened.video.codec_context.extradata or b"")
    if extra[:1] != b"\1":
        return fragment.parameter_sets(fragment.nal_units(extra))
    try:
        return fragment.avcc_parameters(extra)[0]
    except ValueError:
        return []


def units_of(opened: Input, packet: AnyPacket) -> list[bytes]:
    """The NAL units of a packet, however the container packs them. Raises `MediaFailed`."""
    extra = bytes(opened.video.codec_context.extradata or b"")
    if extra[:1] != b"\1":
        return fragment.nal_units(bytes(packet))
    try:
        return fragment.sized_nal_units(bytes(packet), (extra[4] & 3) + 1)
    except (ValueError, IndexError) as error:
        raise MediaFailed("The source's video is damaged.") from error


class Passthrough:
    """Turns packets into samples. start: ticks, where the stream's timeline goes on."""

    def __init__(self, opened: Input, found: Look, start: int) -> None:
        self._opened = opened
        self._parameters = found.parameters
        self._held: tuple[Item, Sample] | None = None
        self._init = _init(opened, found)
        self._bitrate = found.bitrate
        audio = opened.audio
        self.sound_rate = audio.codec_context.sample_rate if audio else 0
        self._clock = SoundClock(start * self.sound_rate // TICKS_PER_S, SOUND_TOLERANCE)

    @property
    def renditions(self) -> tuple[Rendition, ...]:
        context = self._opened.video.codec_context
        return (
            Rendition(
                rendition=0,
                name=f"{context.height}p",
                width=context.width,
                height=context.height,
                bitrate=self._bitrate,
                codecs=fragment.codecs(self._init),
                data=self._init,
            ),
        )

    def picture(self, item: Item, packet: AnyPacket) -> Iterator[Sample]:
        """The sample before this one: only now is its duration known."""
        units = units_of(self._opened, packet)
        ours = fragment.parameter_sets(units)
        if ours and ours != self._parameters:
            raise MediaFailed("The source changed its picture format.", hint="This mends itself.")
        data = fragment.avc_sample(units, self._parameters)
        sample = Sample(item.at, item.duration, fragment.is_idr(units), data, cts=item.cts)
        yield from self._release(until=item.at)
        self._held = item, sample

    def sound(self, item: Item, packet: AnyPacket) -> Iterator[Sample]:
        """The sample in its place, or none if there is no place for it."""
        data = bytes(packet)
        if fragment.is_adts(data):
            data = fragment.without_adts(data)
        gap = self._clock.gap(item.at * self.sound_rate // TICKS_PER_S)
        if gap < 0:
            return
        self._clock.advance(gap)
        yield Sample(self._clock.advance(AAC_FRAME), AAC_FRAME, True, data)

    def finish(self) -> Iterator[Sample]:
        """The last picture."""
        yield from self._release(until=None)

    def _release(self, until: int | None) -> Iterator[Sample]:
        if self._held is None:
            return
        item, sample = self._held
        self._held = None
        duration = item.duration if until is None else until - item.at
        yield replace(sample, duration=max(1, duration))


def _units_or_none(opened: Input, packet: AnyPacket) -> list[bytes]:
    try:
        return units_of(opened, packet)
    except MediaFailed:
        return []  # Whatever follows: without key frames it will be encoded.


def _look_at_sound(found: Look, packet: AnyPacket) -> None:
    data = bytes(packet)
    if not found.sound_config and fragment.is_adts(data):
        found.sound_config = fragment.adts_config(data)


def _seen_enough(opened: Input, count: int, keys: list[int], shown: list[int]) -> bool:
    if opened.seekable or count > LOOK_PACKETS_MAX or not shown:
        return count > LOOK_PACKETS_MAX
    since = keys[0] if keys else shown[0]
    return len(keys) > 1 or shown[-1] - since >= LOOK_S_LIVE * TICKS_PER_S


def _problem(found: Look, times: list[int], interval_s_max: float) -> str:
    try:
        fragment.avcc(found.parameters)
    except ValueError:
        return "it says nowhere how to decode it"
    if len(times) < 2:
        return "it has no key frame"
    longest_s = max(b - a for a, b in pairwise(times)) / TICKS_PER_S
    if longest_s > interval_s_max:
        return f"its key frames are {longest_s:.1f} s apart, more than {interval_s_max:g} s"
    return ""


def _init(opened: Input, found: Look) -> bytes:
    header = Header()
    out = av.open(header, "w", format="mp4", options=MUXER, buffer_size=1 << 20)
    video = out.add_stream_from_template(opened.video, opaque=True)
    video.codec_context.extradata = fragment.avcc(found.parameters)
    if opened.audio is not None:
        audio = out.add_stream_from_template(opened.audio, opaque=True)
        if found.sound_config:
            audio.codec_context.extradata = found.sound_config
    out.start_encoding()
    return header.seal()
