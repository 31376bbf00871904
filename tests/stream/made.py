"""A broadcaster's keys, certificate and a few signed chunks, the same in every run."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from p2pstream.identity import StreamKey
from p2pstream.stream.chunk import TICKS_PER_S
from p2pstream.stream.chunker import Chunker, Signed
from p2pstream.stream.epoch import Epoch, certify
from p2pstream.stream.head import KEY, Head, Part, sign

ROOT = StreamKey(b"root" * 8)
SIGNER = StreamKey(b"sign" * 8)
OTHER = StreamKey(b"evil" * 8)
NOW_MS = 1_800_000_000_000
EPOCH = certify(ROOT, 7, SIGNER.public, now_ms=NOW_MS, bitrate_max=2_000_000, title="a stream")
INIT = bytes(range(16))
FIFTH = TICKS_PER_S // 5
ROOT_HASH = bytes(range(32))


def a_head(
    seq: int = 1000,
    *,
    key: StreamKey = SIGNER,
    epoch: Epoch = EPOCH,
    previous: bytes = bytes(32),
    captured_ms: int = NOW_MS,
    pts: int = 0,
    duration: int = FIFTH,
    flags: int = KEY,
    parts: tuple[Part, ...] = (Part(0, INIT, 40_000, ROOT_HASH),),
) -> Head:
    """A signed head, with whatever the test is about changed."""
    return sign(
        key, epoch, seq=seq, previous=previous, captured_ms=captured_ms, pts=pts,
        duration=duration, flags=flags, parts=parts,
    )  # fmt: skip


def a_chunker(*, first_seq: int = 1000) -> Chunker:
    return Chunker(SIGNER, EPOCH, first_seq=first_seq)


def signed_chunks(count: int, *, size: int = 40_000, renditions: int = 2) -> list[Signed]:
    """Random media: `renditions` chunks of `size` bytes and less each."""
    rng, chunker = Random(1), a_chunker()
    return [
        chunker.sign(
            {r: (INIT, rng.randbytes(size - 17_000 * r)) for r in range(renditions)},
            captured_ms=NOW_MS + 200 * n, pts=FIFTH * n, duration=FIFTH,
            flags=KEY if n % 5 == 0 else 0,
        )
        for n in range(count)
    ]  # fmt: skip


def other_epoch(number: int, key: StreamKey = OTHER) -> Epoch:
    """A later certificate of the same stream for another signing key."""
    epoch = certify(ROOT, number, key.public, now_ms=NOW_MS, bitrate_max=2_000_000, title="")
    return replace(epoch)
