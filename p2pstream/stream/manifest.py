"""How an `Init` travels: one canonical msgpack array, named by its hash in every head."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated

from msgspec import Meta

from p2pstream.errors import BadMessage
from p2pstream.stream.chunk import HASH_BYTES, INIT_BYTES_MAX, Init
from p2pstream.wire.codec import U8, U16, U32, Codec, Message

Name = Annotated[str, Meta(max_length=32, pattern=r"\A[\w .+-]+\Z")]
Codecs = Annotated[str, Meta(max_length=64, pattern=r"\A[A-Za-z0-9.,]+\Z")]  # RFC 6381.


class _Init(Message, frozen=True, tag=0):
    rendition: U8
    name: Name
    width: U16
    height: U16
    bitrate: U32
    codecs: Codecs
    data: Annotated[bytes, Meta(max_length=INIT_BYTES_MAX)]


_CODEC = Codec(_Init)


def pack_init(init: Init) -> bytes:
    return _CODEC.pack(
        _Init(
            init.rendition, init.name, init.width, init.height, init.bitrate, init.codecs, init.data
        )
    )


def unpack_init(data: bytes) -> Init:
    """Raises `BadMessage`."""
    message = _CODEC.unpack(data)
    assert isinstance(message, _Init)
    if message.width == 0 or message.height == 0:
        raise BadMessage("init: a picture without size")
    return Init(
        message.rendition, message.name, message.width, message.height,
        message.bitrate, message.codecs, message.data,
    )  # fmt: skip


def init_hash(packed: bytes) -> bytes:
    return sha256(b"p2pstream init v1\0" + packed).digest()[:HASH_BYTES]
