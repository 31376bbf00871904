"""Gathers samples into groups: a chunk of every rendition, with its share of the sound. Pure.

A group starts with a key frame in all renditions or in none, and groups follow one another
without a hole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from p2pstream.errors import MediaFailed
from p2pstream.media import fragment
from p2pstream.media.fragment import AUDIO_TRACK, VIDEO_TRACK, Run, Sample
from p2pstream.media.records import Group
from p2pstream.stream.chunk import CHUNK_BYTES_MAX, TICKS_PER_S

SOUND_WAIT = TICKS_PER_S // 10  # Half a chunk: sound that is later goes with the next one.
SOUND_MAX = 2000  # Frames of sound that wait for pictures: 40 s.


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture as each rendition codes it. captured_ms: Unix milliseconds."""

    samples: tuple[Sample, ...]
    captured_ms: int


class Chunker:
    """One stream's. target: ticks in a chunk. sound_rate: samples per second, 0 without sound."""

    def __init__(self, *, target: int, sound_rate: int) -> None:
        self._target = target
        self._sound_rate = sound_rate
        self._open: list[Picture] = []
        self._closed: deque[list[Picture]] = deque()
        self._sounds: deque[Sample] = deque(maxlen=SOUND_MAX)
        self._sound_end = 0
        self._end = 0
        self._sequence = 0

    def picture(self, samples: tuple[Sample, ...], captured_ms: int) -> Iterator[Group]:
        """Groups that this picture completes."""
        first = samples[0]
        if first.key:
            self._close()
        self._open.append(Picture(samples, captured_ms))
        self._end = first.dts + first.duration
        if _duration(self._open) + first.duration // 2 > self._target:
            self._close()
        yield from self._ready()

    def sound(self, sample: Sample) -> Iterator[Group]:
        """Groups that this frame of sound completes."""
        self._sounds.append(sample)
        self._sound_end = (sample.dts + sample.duration) * TICKS_PER_S // self._sound_rate
        yield from self._ready()

    def finish(self) -> Iterator[Group]:
        """What is left when the source has ended."""
        self._close()
        while self._closed:
            yield self._group(self._closed.popleft())

    def _close(self) -> None:
        if self._open:
            self._closed.append(self._open)
            self._open = []

    def _ready(self) -> Iterator[Group]:
        while self._closed:
            end = _end(self._closed[0])
            heard = not self._sound_rate or self._sound_end >= end
            if not heard and self._end - end < SOUND_WAIT:
                return
            yield self._group(self._closed.popleft())

    def _group(self, pictures: list[Picture]) -> Group:
        sounds = self._take_sound(_end(pictures))
        chunks = tuple(
            (number, self._chunk([picture.samples[number] for picture in pictures], sounds))
            for number in range(len(pictures[0].samples))
        )
        self._sequence += 1
        return Group(
            pts=pictures[0].samples[0].dts,
            duration=_duration(pictures),
            captured_ms=pictures[0].captured_ms,
            key=pictures[0].samples[0].key,
            discontinuity=False,
            chunks=chunks,
        )

    def _take_sound(self, end: int) -> list[Sample]:
        taken: list[Sample] = []
        while self._sounds and self._sounds[0].dts * TICKS_PER_S < end * self._sound_rate:
            taken.append(self._sounds.popleft())
        # A run has one start time: a hole inside it is the sample's before it.
        return [replace(a, duration=b.dts - a.dts) for a, b in pairwise(taken)] + taken[-1:]

    def _chunk(self, pictures: Sequence[Sample], sounds: Sequence[Sample]) -> bytes:
        runs = [Run(VIDEO_TRACK, pictures), Run(AUDIO_TRACK, sounds)]
        data = fragment.chunk(self._sequence, runs)
        if len(data) > CHUNK_BYTES_MAX:
            raise MediaFailed(
                f"A chunk has {len(data)} bytes, more than {CHUNK_BYTES_MAX}: too high a bit rate.",
                hint="Choose a lower one, for example `--rungs 1080p`.",
            )
        return data


def _duration(pictures: list[Picture]) -> int:
    return sum(picture.samples[0].duration for picture in pictures)


def _end(pictures: list[Picture]) -> int:
    return pictures[0].samples[0].dts + _duration(pictures)
