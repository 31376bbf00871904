"""Messages on a byte stream: a 16-bit length, then that many bytes."""

from __future__ import annotations

from collections.abc import Iterator

from p2pstream.errors import BadMessage
from p2pstream.wire.codec import LENGTH_BYTES, MESSAGE_BYTES_MAX


class Unframer:
    """Cuts a byte stream back into bodies. Holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Every body that `data` completes. Raises `BadMessage` for one that is too long."""
        self._buffer += data
        while len(self._buffer) >= LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:LENGTH_BYTES])
            if length > MESSAGE_BYTES_MAX:
                raise BadMessage(f"frame of {length} bytes, more than {MESSAGE_BYTES_MAX}")
            end = LENGTH_BYTES + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[LENGTH_BYTES:end])
            del self._buffer[:end]
            yield body

    @property
    def rest(self) -> bytes:
        """What has arrived of the next frame, or after the last one."""
        return bytes(self._buffer)
