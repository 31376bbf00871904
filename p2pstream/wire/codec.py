"""Messages as canonical msgpack arrays: bounded, typed, one encoding each.

A message is a frozen struct whose class carries a number (its tag); on the wire it is the array
[tag, field, ...]. Decoding refuses, with `BadMessage` and nothing else, what is too long, not of
the declared types and ranges, or not the one canonical encoding (docs/wire.md, part 2). Past this
file only typed values exist.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgpack
import msgspec
from msgspec import Meta

from p2pstream.errors import BadMessage

MESSAGE_BYTES_MAX = 16 * 1024  # security/architecture.md 5.5: control messages.
LENGTH_BYTES = 2
ITEMS_MAX = 64  # The same table: items in any one array.
TEXT_BYTES_MAX = 256  # The same table: strings.

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
U8 = Annotated[int, Meta(ge=0, le=0xFF)]
U16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
# Sequence numbers and times stay below 2^53, so that any language can hold them exactly.
U53 = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of all messages. A subclass gives its `tag=` number and its fields."""


class Codec:
    """Packs and unpacks the messages of the given classes."""

    def __init__(self, *classes: type[Message]) -> None:
        # By tag, not as one union: msgspec would work the union out anew for each message.
        self._classes = {cls.__struct_config__.tag: cls for cls in classes}
        assert len(self._classes) == len(classes), "two classes with one tag"
        self._framed: tuple[Message | None, bytes, bytes] = None, b"", b""

    def pack(self, message: Message) -> bytes:
        """The canonical encoding, at most `MESSAGE_BYTES_MAX` bytes."""
        data = _pack(message)
        assert len(data) <= MESSAGE_BYTES_MAX, f"{type(message).__name__} is too long to send"
        return data

    def frame(self, message: Message, body: bytes = b"") -> bytes:
        """As it travels on a byte stream: its length, its encoding, and the body of a parcel.

        The same often goes to one peer after another: it is put together once, and kept once while
        it waits for all of them.
        """
        last, last_body, data = self._framed
        if message is not last or body is not last_body:
            data = frame(self.pack(message)) + body
            self._framed = message, body, data
        return data

    def unpack(self, data: bytes) -> Message:
        """The message in `data`. Raises `BadMessage`."""
        if len(data) > MESSAGE_BYTES_MAX:
            raise BadMessage(f"message of {len(data)} bytes, more than {MESSAGE_BYTES_MAX}")
        values = _unpack(data)
        try:
            cls = self._classes[values[0]]
        except (LookupError, TypeError):  # Nothing, no array, or a tag that cannot be one.
            raise BadMessage("not a message of a known type") from None
        try:
            message = msgspec.convert(values, cls, strict=True)
        except (msgspec.ValidationError, RecursionError) as error:
            raise BadMessage(f"not a message: {error}") from None
        if _pack(message) != data:
            raise BadMessage(f"non_canonical: {type(message).__name__}")
        return message


# Canonical, as `msgpack.packb` would write it, in a fifth of the time. The hook turns ids, which
# are bytes by another name, into plain ones.
_pack = msgspec.msgpack.Encoder(enc_hook=bytes).encode


def frame(body: bytes) -> bytes:
    """`body` with its length in front."""
    return len(body).to_bytes(LENGTH_BYTES) + body


def _unpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(
            data,
            max_array_len=ITEMS_MAX,
            max_map_len=0,
            max_ext_len=0,
            max_str_len=TEXT_BYTES_MAX,
            max_bin_len=MESSAGE_BYTES_MAX,
        )
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise BadMessage(f"not msgpack: {type(error).__name__}") from None
