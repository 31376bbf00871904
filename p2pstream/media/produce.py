"""From an order to records: opens the source, chooses a plan, and plays it. Worker only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from av.audio.frame import AudioFrame
from av.packet import Packet
from av.video.frame import VideoFrame

from p2pstream.errors import MediaFailed
from p2pstream.media import clockstrip, ladder, passthrough
from p2pstream.media.chunker import Chunker
from p2pstream.media.encode import SOUND_RATE, Encoders
from p2pstream.media.opening import Input, open_input
from p2pstream.media.options import Order, is_url
from p2pstream.media.pace import ConstantRate, Pacer
from p2pstream.media.passthrough import Look, Passthrough
from p2pstream.media.records import AnyRecord, Ended, Group, Opened, Warned
from p2pstream.media.source import AnyPacket, Playback, packets
from p2pstream.stream.chunk import TICKS_PER_S


@dataclass(frozen=True, slots=True)
class Clock:
    """The worker's time. monotonic: seconds. wall: seconds since 1970."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]


def produce(order: Order, pacer: Pacer, clock: Clock) -> Iterator[AnyRecord]:
    """Everything the node is told, in order. Raises `UserError`."""
    opened = open_input(order.source, skip=order.skip)
    began = clock.monotonic()
    found = _look(order, opened)
    if not opened.seekable and found.packets:
        # A live source went on while we looked: what piled up is late, not early.
        pacer.begin(order.start_pts, at=began)
    show = _Show(order, opened, pacer, clock)
    yield from show.encode(found) if found.problem else show.pass_through(found)
    if opened.live and is_url(order.source.input):
        raise MediaFailed("The source has ended.", hint="Start the source again.")
    yield Ended()


def _look(order: Order, opened: Input) -> Look:
    if order.source.rungs:
        return Look(problem="renditions were asked for")
    if problem := passthrough.codec_problem(opened):
        return Look(problem=problem)
    limit = order.key_interval_s_max
    if not opened.seekable:
        return passthrough.look(opened, packets(opened), interval_s_max=limit)
    probe = open_input(order.source)
    try:
        return passthrough.look(probe, packets(probe), interval_s_max=limit)
    finally:
        probe.container.close()


class _Show:
    def __init__(self, order: Order, opened: Input, pacer: Pacer, clock: Clock) -> None:
        self._order = order
        self._opened = opened
        self._pacer = pacer
        self._clock = clock
        self._stalls = 0

    def pass_through(self, found: Look) -> Iterator[AnyRecord]:
        playback = Playback(self._order, self._opened)
        through = Passthrough(self._opened, found, self._order.start_pts)
        chunker = Chunker(target=round(ladder.CHUNK_S * TICKS_PER_S), sound_rate=through.sound_rate)
        yield Opened(_describe(self._opened), "passthrough", through.renditions)
        captured_ms = 0
        for item in playback.packets(found.packets):
            assert isinstance(item.payload, Packet)
            if item.video:
                before, captured_ms = captured_ms, self._wait(item.at)
                for sample in through.picture(item, item.payload):
                    yield from chunker.picture((sample,), before)
                yield from self._warnings()
            else:
                for sample in through.sound(item, item.payload):
                    yield from chunker.sound(sample)
        for sample in through.finish():
            yield from chunker.picture((sample,), captured_ms)
        yield from chunker.finish()

    def encode(self, found: Look) -> Iterator[AnyRecord]:
        opened, cores = self._opened, len(os.sched_getaffinity(0))
        wishes = ladder.parse(self._order.source.rungs)
        rungs = ladder.plan(*opened.display_size, wishes=wishes, cores=cores)
        fps = ladder.rate(opened.fps, cores=cores)
        start, sound = self._order.start_pts, opened.audio is not None
        encoders = Encoders(rungs, fps=fps, start=start, sound=sound)
        try:
            yield Opened(_describe(opened), "encode", encoders.renditions)
            if opened.video.codec_context.name == "h264" and not wishes:
                yield Warned("encoding", f"Cannot be passed through: {found.problem}.")
            yield from self._encode(found.packets, encoders, fps)
        finally:
            encoders.close()

    def _encode(self, first: list[AnyPacket], encoders: Encoders, fps: int) -> Iterator[AnyRecord]:
        opened, start = self._opened, self._order.start_pts
        duration = ladder.frame_ticks(fps)
        chunker = Chunker(
            target=ladder.frames_per_chunk(fps) * duration,
            sound_rate=SOUND_RATE if opened.audio else 0,
        )
        rate = ConstantRate(start, duration)
        shown: VideoFrame | None = None
        for item in Playback(self._order, opened).frames(first):
            if isinstance(item.payload, AudioFrame):
                for sample in encoders.sound(item.payload, item.at):
                    yield from chunker.sound(sample)
                continue
            assert isinstance(item.payload, VideoFrame)
            slots = list(rate.slots(item.at))
            for slot in slots:
                # A hole shows what was there before it.
                frame = item.payload if slot == slots[-1] or shown is None else shown
                yield from self._picture(frame, slot, encoders, chunker)
            shown = item.payload
            yield from self._warnings()
        for sample in encoders.finish():
            yield from chunker.sound(sample)
        yield from chunker.finish()

    def _picture(
        self, frame: VideoFrame, slot: int, encoders: Encoders, chunker: Chunker
    ) -> Iterator[Group]:
        captured_ms = self._wait(slot)
        if self._opened.stamped:
            frame.make_writable()
            clockstrip.draw(frame.planes, captured_ms)
        yield from chunker.picture(encoders.picture(frame, slot), captured_ms)

    def _wait(self, at: int) -> int:
        """Until a picture is due; when it was, in Unix milliseconds."""
        late_s = self._pacer.wait(at)
        return round((self._clock.wall() - late_s) * 1000)

    def _warnings(self) -> Iterator[Warned]:
        if self._pacer.stalls == self._stalls:
            return
        self._stalls = self._pacer.stalls
        yield Warned(
            "behind",
            "A second behind real time: the source stalled, or this computer is too slow.",
        )


def _describe(opened: Input) -> str:
    video = opened.video.codec_context
    if opened.stamped:
        return f"test picture {video.width}x{video.height} {opened.fps:g} fps, beep"
    text = f"{video.name} {video.width}x{video.height} {opened.fps:g} fps"
    if opened.audio is None:
        return f"{text}, no audio"
    audio = opened.audio.codec_context
    return f"{text}, {audio.name} {audio.sample_rate} Hz {audio.layout.name}"
