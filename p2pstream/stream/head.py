"""The head: the signed record of one `seq`, over all renditions at once. The unit of trust.

Fixed layout, big-endian (docs/wire.md, part 4). Each head carries the hash of the one before it, so
that gaps show and two heads for one (epoch, seq) prove that the broadcaster forked its stream.
A head is identified by the hash of its signed part, never by its signature.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256

from p2pstream.errors import BadMessage, Misbehaviour
from p2pstream.identity import ID_BYTES, SIGNATURE_BYTES, StreamId, StreamKey
from p2pstream.stream.chunk import (
    CHUNK_BYTES_MAX,
    HASH_BYTES,
    RENDITIONS_MAX,
    TICKS_PER_S,
    piece_count,
)
from p2pstream.stream.epoch import Epoch
from p2pstream.stream.merkle import HASH_BYTES as ROOT_BYTES

TAG = b"p2pstream head v1\0"
HEAD_BYTES_MAX = 2048  # security/architecture.md 5.5.
DURATION_MAX = 2 * TICKS_PER_S  # Wild guess: chunks last 0.2 s; beyond 2 s nothing is live.
FRESH_MS_BACK = (
    150_000  # 5.2: as old as the longest window we keep (120 s) and 30 s of wrong clock.
)
FRESH_MS_AHEAD = 10_000  # 5.2.
BURST = 4  # How much above the announced bit rate one chunk may be (key frames): wild guess.
HEADS_PARSED = 64  # Kept: the same head comes from several partners. As many as a window holds.
NO_HEAD = bytes(ID_BYTES)  # The hash of the head before the first one.

KEY, DISCONTINUITY, END = 1, 2, 4  # The flags.
_FLAGS_KNOWN = KEY | DISCONTINUITY | END

_FIXED = struct.Struct(f">{len(TAG)}s32sIQ32sQQQIBIB")
_RENDITION = struct.Struct(f">B{HASH_BYTES}sI{ROOT_BYTES}s")


@dataclass(frozen=True, slots=True)
class Part:
    """What a head says of one rendition's chunk. root: RFC 6962 over its pieces. size: bytes."""

    rendition: int
    init: bytes
    size: int
    root: bytes
    pieces: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pieces", piece_count(self.size))


@dataclass(frozen=True, slots=True)
class Head:
    """A head whose layout and bounds were checked; `verify` checks who made it.

    captured_ms, not_after_ms: Unix milliseconds. pts, duration: ticks. content_key: 0, not sealed.
    What follows from these is worked out once, since it is asked for each piece. key: decoding may
    start here, in every rendition. end: the broadcaster ended the stream, nothing follows. size,
    size_max: bytes of all renditions, and of the largest; 0 without any. end_s, duration_s: where
    it ends on the stream's time line, and how long it is, in seconds.
    """

    stream: StreamId
    epoch: int
    seq: int
    previous: bytes
    captured_ms: int
    not_after_ms: int
    pts: int
    duration: int
    flags: int
    content_key: int
    parts: tuple[Part, ...]
    raw: bytes
    hash: bytes = field(init=False)
    key: bool = field(init=False)
    discontinuity: bool = field(init=False)
    end: bool = field(init=False)
    size: int = field(init=False)
    size_max: int = field(init=False)
    end_s: float = field(init=False)
    duration_s: float = field(init=False)
    _signature_and_rest: tuple[bytes, bytes] = field(init=False)

    def __post_init__(self) -> None:
        signed, sizes = self.raw[:-SIGNATURE_BYTES], [part.size for part in self.parts]
        follows = {
            "hash": sha256(signed).digest(),
            "key": bool(self.flags & KEY),
            "discontinuity": bool(self.flags & DISCONTINUITY),
            "end": bool(self.flags & END),
            "size": sum(sizes),
            "size_max": max(sizes, default=0),
            "end_s": (self.pts + self.duration) / TICKS_PER_S,
            "duration_s": self.duration / TICKS_PER_S,
            "_signature_and_rest": (self.raw[-SIGNATURE_BYTES:], signed),
        }
        for name, value in follows.items():
            object.__setattr__(self, name, value)

    def part(self, rendition: int) -> Part | None:
        return next((part for part in self.parts if part.rendition == rendition), None)

    def verify(self, epoch: Epoch, *, wall_ms: int) -> None:
        """Raises unless the epoch's signer made this head for this stream, lately.

        `Misbehaviour` proves that the sender lies. Another epoch or time is a `BadMessage`: the
        sender may not have heard of the new epoch, or our own clock may be wrong. The signature
        is checked last: it costs most.
        """
        if self.stream != epoch.stream:
            raise Misbehaviour("head of another stream")
        if self.epoch != epoch.number:
            raise BadMessage(f"head of epoch {self.epoch}, the stream is in {epoch.number}")
        if not epoch.covers(self.captured_ms):
            raise BadMessage("head from outside the time of its epoch")
        if not wall_ms - FRESH_MS_BACK <= self.captured_ms <= wall_ms + FRESH_MS_AHEAD:
            raise BadMessage("stale head: not captured now by this node's clock")
        if self.size > self._bytes_max(epoch):
            raise Misbehaviour("exceeds_epoch_limits: more bytes than the announced bit rate")
        if not epoch.signer.verify(*self._signature_and_rest):
            raise Misbehaviour("head with a wrong signature")

    def _bytes_max(self, epoch: Epoch) -> float:
        return BURST * epoch.bitrate_max / 8 * max(self.duration / TICKS_PER_S, 0.2)


def sign(
    key: StreamKey,
    epoch: Epoch,
    *,
    seq: int,
    previous: bytes,
    captured_ms: int,
    pts: int,
    duration: int,
    flags: int,
    parts: Iterable[Part],
) -> Head:
    """The head of `seq`, signed with the epoch's signing `key`."""
    ordered = sorted(parts, key=lambda part: part.rendition)
    fixed = _FIXED.pack(
        TAG, epoch.stream, epoch.number, seq, previous, captured_ms,
        epoch.not_after_ms, pts, duration, flags, 0, len(ordered),
    )  # fmt: skip
    body = b"".join(_RENDITION.pack(p.rendition, p.init, p.size, p.root) for p in ordered)
    return parse(fixed + body + key.sign(fixed + body))


@lru_cache(HEADS_PARSED)
def parse(raw: bytes) -> Head:
    """The head in `raw`, its layout and bounds checked but not its signature.

    Raises `BadMessage`. There is one encoding of a head: parsing and packing are inverse.
    """
    if not _FIXED.size + SIGNATURE_BYTES <= len(raw) <= HEAD_BYTES_MAX:
        raise BadMessage("head: wrong length")
    tag, stream, epoch, seq, previous, captured, not_after, pts, duration, flags, key, count = (
        _FIXED.unpack_from(raw)
    )
    if tag != TAG or len(raw) != _FIXED.size + count * _RENDITION.size + SIGNATURE_BYTES:
        raise BadMessage("head: wrong form")
    if flags & ~_FLAGS_KNOWN or max(seq, captured, not_after, pts) >= 2**53:
        raise BadMessage("head: a flag or a number out of range")
    parts = tuple(
        Part(*_RENDITION.unpack_from(raw, _FIXED.size + n * _RENDITION.size)) for n in range(count)
    )
    _check_parts(parts, duration, ended=bool(flags & END))
    return Head(
        StreamId(stream), epoch, seq, previous, captured, not_after, pts, duration, flags, key,
        parts, raw,
    )  # fmt: skip


def _check_parts(parts: tuple[Part, ...], duration: int, *, ended: bool) -> None:
    if ended:  # The last head: it carries no media.
        if parts or duration:
            raise BadMessage("head: media after the end")
        return
    ids = [part.rendition for part in parts]
    if not 1 <= len(parts) <= RENDITIONS_MAX or ids != sorted(set(ids)):
        raise BadMessage("head: no rendition, too many, or out of order")
    if not all(1 <= part.size <= CHUNK_BYTES_MAX for part in parts):
        raise BadMessage("head: an empty chunk or one that is too large")
    if not 1 <= duration <= DURATION_MAX:
        raise BadMessage("head: a duration out of range")
