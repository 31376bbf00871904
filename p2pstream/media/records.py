"""What the worker tells the node: length-prefixed msgpack records over a pipe.

The worker parses hostile media, so it is not trusted: everything here is bounded, and bytes that
are no record raise `BadMessage` and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from p2pstream.errors import BadMessage
from p2pstream.stream.chunk import CHUNK_BYTES_MAX, INIT_BYTES_MAX, RENDITIONS_MAX, Init
from p2pstream.wire.codec import U8, U32, U53

LENGTH_BYTES = 4
# Eight renditions of the largest chunk are 32 MiB; room for the largest group and its frame.
RECORD_BYTES_MAX = 40 * 1024 * 1024
DIMENSION_MAX = 16_384  # Pixels. H.264 level 6.2 ends at 8192 x 4320.
DURATION_MAX = 90_000 * 60  # Ticks: a minute. A chunk lasts 0.2 s.

Dimension = Annotated[int, Meta(ge=1, le=DIMENSION_MAX)]
Word = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=2000)]
Media = Annotated[bytes, Meta(min_length=1, max_length=CHUNK_BYTES_MAX)]


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all records: [tag, field, ...]."""


class Rendition(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The fields of a `stream.chunk.Init`, checked. bitrate: bits per second, audio included."""

    rendition: U8
    name: Word
    width: Dimension
    height: Dimension
    bitrate: U32
    codecs: Word
    data: Annotated[bytes, Meta(min_length=8, max_length=INIT_BYTES_MAX)]

    @property
    def init(self) -> Init:
        return Init(
            rendition=self.rendition,
            name=self.name,
            width=self.width,
            height=self.height,
            bitrate=self.bitrate,
            codecs=self.codecs,
            data=self.data,
        )


Renditions = Annotated[tuple[Rendition, ...], Meta(min_length=1, max_length=RENDITIONS_MAX)]
Chunks = Annotated[tuple[tuple[U8, Media], ...], Meta(min_length=1, max_length=RENDITIONS_MAX)]


class Opened(Record, tag=1, frozen=True):
    """The source plays, and this is what comes out. Sent again when that changes.

    source: for people. plan: "passthrough" or "encode".
    """

    source: Text
    plan: Word
    renditions: Renditions

    @property
    def inits(self) -> tuple[Init, ...]:
        """How to decode each rendition, best first."""
        return tuple(rendition.init for rendition in self.renditions)


class Group(Record, tag=2, frozen=True):
    """One chunk of every rendition: the same pictures, and key frames in all or none.

    pts, duration: ticks of 1/90000 s. captured_ms: wall clock of the first frame's capture, Unix
    milliseconds. chunks: (rendition, moof + mdat).
    """

    pts: U53
    duration: Annotated[int, Meta(ge=1, le=DURATION_MAX)]
    captured_ms: U53
    key: bool
    discontinuity: bool
    chunks: Chunks


class Warned(Record, tag=3, frozen=True):
    """Something a person may want to know; the show goes on."""

    code: Word
    message: Text


class Failed(Record, tag=4, frozen=True):
    """The worker gives up. code: that of one of `errors.UserError`'s children."""

    code: Word
    message: Text
    hint: Text = ""


class Ended(Record, tag=5, frozen=True):
    """The source has been played to its end."""


AnyRecord = Opened | Group | Warned | Failed | Ended

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyRecord] = msgspec.msgpack.Decoder(AnyRecord)


def pack(record: AnyRecord) -> bytes:
    """`record` with its length in front, ready for the pipe."""
    body = _encoder.encode(record)
    assert len(body) <= RECORD_BYTES_MAX, "a group of bounded chunks cannot be this long"
    return len(body).to_bytes(LENGTH_BYTES) + body


class Unpacker:
    """Cuts the pipe's bytes into records. Holds at most one incomplete record."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[AnyRecord]:
        """Every record that `data` completes. Raises `BadMessage`."""
        self._buffer += data
        while len(self._buffer) >= LENGTH_BYTES:
            end = LENGTH_BYTES + self._length()
            if len(self._buffer) < end:
                return
            body = bytes(memoryview(self._buffer)[LENGTH_BYTES:end])
            del self._buffer[:end]
            yield _unpack(body)

    def _length(self) -> int:
        length = int.from_bytes(self._buffer[:LENGTH_BYTES])
        if length > RECORD_BYTES_MAX:
            raise BadMessage(f"record of {length} bytes, more than {RECORD_BYTES_MAX}")
        return length


def _unpack(body: bytes) -> AnyRecord:
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadMessage(f"not a record: {error}") from None
