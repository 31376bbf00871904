"""Which renditions to encode: sizes, bit rates, and how many pictures go into a chunk. Pure."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass

from p2pstream.errors import BadConfig
from p2pstream.stream.chunk import RENDITIONS_MAX, TICKS_PER_S

GOP_S = 1  # design: a key frame every second, for the time it takes to join.
CHUNK_S = 0.2  # Measured: 200 ms is the best of latency against overhead (facts/media.md, 2).
RATES = (10, 12, 15, 20, 24, 25, 30, 50, 60)  # Pictures per second that last whole ticks.
RATE_SMOOTH_MIN = 30  # More pictures per second only where there are cores to encode them.

# Total bits per second by height: the first, third and fifth are the design's ladder, the others
# lie on the same curve.
BITRATES = {144: 150_000, 240: 350_000, 360: 700_000, 480: 1_000_000, 720: 2_500_000}
BITRATES |= {1080: 4_500_000, 2160: 14_000_000}
LADDER = (720, 480, 240)
RUNG_GAP = 0.75  # Wild guess: a rung less than a quarter smaller than the one above helps nobody.
BITRATE_MIN = 100_000  # Audio takes 64 kbit/s of it.
BITRATE_MAX = 100_000_000  # A chunk of 200 ms then fills 2.5 of its 4 MiB.
HEIGHT_MIN, HEIGHT_MAX = 64, 4320

_UNITS = {"": 1, "k": 1000, "m": 1_000_000}
_BITRATE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([km]?)", re.IGNORECASE)
_HEIGHT = re.compile(r"(\d{2,4})p", re.IGNORECASE)
_HINT = 'Write for example "720p:2500k,480p", or one bit rate such as "1M".'


@dataclass(frozen=True, slots=True)
class Wish:
    """One rung as a person asks for it. height None: what the bit rate is good for."""

    height: int | None
    bitrate: int


@dataclass(frozen=True, slots=True)
class Rung:
    """One rendition to encode. Sizes in pixels, bitrate in bits per second, audio included."""

    width: int
    height: int
    bitrate: int
    preset: str

    @property
    def name(self) -> str:
        return f"{self.height}p"


def parse(text: str) -> tuple[Wish, ...]:
    """The rungs that `text` asks for; none of an empty one. Raises `BadConfig`."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if len(words) > RENDITIONS_MAX:
        raise BadConfig(f"{len(words)} renditions, more than {RENDITIONS_MAX}", hint=_HINT)
    wishes = tuple(_wish(word) for word in words)
    if len(wishes) > 1 and any(wish.height is None for wish in wishes):
        raise BadConfig(f"{text!r} names a bit rate without a height", hint=_HINT)
    return wishes


def plan(width: int, height: int, *, wishes: tuple[Wish, ...], cores: int) -> tuple[Rung, ...]:
    """The rungs for a picture of this displayed size, best first. Never larger than the picture."""
    wanted = wishes or _by_default(height, cores=cores)
    sizes = {min(wish.height or height_for(wish.bitrate), height): wish for wish in wanted}
    rungs = []
    for place, tall in enumerate(sorted(sizes, reverse=True)):
        # Measured: on two cores this ladder costs half of one (facts/media.md, 2).
        preset = "superfast" if cores <= 2 and place == 0 else "veryfast"
        size = _even(width * tall / height), _even(tall)
        rungs.append(Rung(*size, sizes[tall].bitrate, preset))
    return tuple(rungs)


def bitrate_for(height: int) -> int:
    """Bits per second that suit pictures of this height, between the points of `BITRATES`."""
    heights = sorted(BITRATES)
    height = min(max(height, heights[0]), heights[-1])
    above = heights[bisect_left(heights, height)]
    below = heights[max(0, heights.index(above) - 1)]
    if above == below:
        return BITRATES[above]
    share = (height - below) / (above - below)
    return round(BITRATES[below] + share * (BITRATES[above] - BITRATES[below]))


def height_for(bitrate: int) -> int:
    """The tallest picture that `bitrate` is good for; 1 Mbit/s gives 360 lines."""
    # A single rendition has no rung below it to fall back on: it stays under the curve.
    return max((h for h in BITRATES if BITRATES[h] * 1.25 <= bitrate), default=min(BITRATES))


def audio_bitrate(rungs: tuple[Rung, ...]) -> int:
    """Bits per second of the audio that all rungs share: a fair part of the smallest one."""
    least = min(rung.bitrate for rung in rungs)
    if least >= 1_500_000:
        return 128_000
    return 96_000 if least >= 300_000 else 64_000


def rate(measured: float, *, cores: int) -> int:
    """The constant frame rate that is nearest to the measured one and within our means."""
    fits = [fps for fps in RATES if fps <= RATE_SMOOTH_MIN or cores > 2]
    if measured > fits[-1] * 1.1:
        # Half of 50 or 60 pictures drops every second one; any other rate would stutter.
        measured /= 2
    return min(fits, key=lambda fps: abs(fps - measured))


def frames_per_chunk(fps: int) -> int:
    """A divisor of the GOP, or its last chunk would wait for the next key frame."""
    gop = fps * GOP_S
    return min((n for n in range(1, gop + 1) if gop % n == 0), key=lambda n: abs(n / fps - CHUNK_S))


def frame_ticks(fps: int) -> int:
    """How long one picture lasts."""
    return TICKS_PER_S // fps


def _wish(word: str) -> Wish:
    size, colon, rest = word.partition(":")
    if named := _HEIGHT.fullmatch(size):
        height = int(named[1])
        if not HEIGHT_MIN <= height <= HEIGHT_MAX:
            raise BadConfig(f"{word!r} is not a height I can encode", hint=_HINT)
        return Wish(height, _bits(rest) if colon else bitrate_for(height))
    return Wish(None, _bits(word))


def _bits(text: str) -> int:
    found = _BITRATE.fullmatch(text.strip())
    if not found:
        raise BadConfig(f"{text!r} is not a bit rate", hint=_HINT)
    bitrate = int(float(found[1]) * _UNITS[found[2].lower()])
    if not BITRATE_MIN <= bitrate <= BITRATE_MAX:
        raise BadConfig(f"{text!r} is not between 100k and 100M", hint=_HINT)
    return bitrate


def _by_default(height: int, *, cores: int) -> tuple[Wish, ...]:
    rungs = LADDER if cores > 1 else LADDER[1:]
    heights = [h for h in (min(rungs[0], height), *rungs[1:]) if h <= height]
    kept = [heights[0]]
    kept += [h for h in heights[1:] if h <= kept[-1] * RUNG_GAP]
    return tuple(Wish(h, bitrate_for(h)) for h in kept)


def _even(length: float) -> int:
    return max(2, round(length / 2) * 2)
