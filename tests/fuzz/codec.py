"""Messages, frames on a byte stream, and inits: `BadMessage`, or the very same bytes again."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

from p2pstream.errors import BadMessage
from p2pstream.stream.chunk import Init
from p2pstream.stream.manifest import pack_init, unpack_init
from p2pstream.wire.codec import frame
from p2pstream.wire.frame import Unframer
from tests.fuzz.bites import Bites
from tests.wire.every import CODEC, EXAMPLES

INIT = Init(1, "360p", 640, 360, 700_000, "avc1.4d401e,mp4a.40.2", b"init")


def one(data: bytes) -> int:
    """The first byte says as what the others are read."""
    bites = Bites(data)
    with suppress(BadMessage):
        bites.choose([_message, _frames, _init])(bites)
    return 1


def seeds() -> list[bytes]:
    """Every message alone, two in a row, and an init."""
    packed = [CODEC.pack(message) for message in EXAMPLES.values()]
    rows = [b"\1\x05" + frame(one) + frame(other) for one, other in pairwise(packed)]
    return [*(b"\0" + data for data in packed), *rows, b"\2" + pack_init(INIT)]


def _message(bites: Bites) -> None:
    data = bites.rest()
    assert CODEC.pack(CODEC.unpack(data)) == data


def _frames(bites: Bites) -> None:
    unframer, step = Unframer(), 1 + bites.number()
    whole, bodies = b"", []
    while bites:
        part = bites.take(step)
        whole += part
        bodies += list(unframer.feed(part))
    assert b"".join(map(frame, bodies)) + unframer.rest == whole


def _init(bites: Bites) -> None:
    data = bites.rest()
    assert pack_init(unpack_init(data)) == data
