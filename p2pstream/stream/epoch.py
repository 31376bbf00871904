"""Who may sign a stream's heads, and until when.

The root key, whose hash is the stream's id, signs an epoch certificate for a signing key that
lives at most a day. A higher epoch wins for ever, so that a stolen signing key can be replaced.
"""

from __future__ import annotations

import struct
import unicodedata
from dataclasses import dataclass

from p2pstream.errors import BadMessage
from p2pstream.identity import SIGNATURE_BYTES, PublicKey, StreamId, StreamKey, stream_id

TAG = b"p2pstream epoch v1\0"
EPOCH_MS_MAX = 24 * 3600 * 1000  # security/architecture.md 5.2.
TITLE_BYTES_MAX = 120  # Wild guess: a long sentence.
CERTIFICATE_BYTES_MAX = 512  # What fits: 176 bytes and the title.
CLOCK_SKEW_MS = 30_000  # security/architecture.md 5.2: how wrong a viewer's clock may be.

_FIXED = struct.Struct(f">{len(TAG)}s32sI32sQQQB")


@dataclass(frozen=True, slots=True)
class Epoch:
    """A verified epoch certificate. raw: its bytes, signature included.

    bitrate_max: bits per second of all renditions together. not_before_ms, not_after_ms: Unix.
    """

    stream: StreamId
    number: int
    signer: PublicKey
    not_before_ms: int
    not_after_ms: int
    bitrate_max: int
    title: str
    raw: bytes

    def covers(self, wall_ms: int) -> bool:
        """Whether the certificate is valid at `wall_ms`, give or take a wrong clock."""
        return self.not_before_ms - CLOCK_SKEW_MS <= wall_ms <= self.not_after_ms + CLOCK_SKEW_MS


def certify(
    root: StreamKey, number: int, signer: PublicKey, *, now_ms: int, bitrate_max: int, title: str
) -> Epoch:
    """A certificate by `root` for `signer`, valid for a day from `now_ms`."""
    text = clean_title(title).encode()
    fixed = _FIXED.pack(
        TAG, root.public, number, signer, now_ms, now_ms + EPOCH_MS_MAX, bitrate_max, len(text)
    )
    return parse(fixed + text + root.sign(fixed + text))


def parse(raw: bytes) -> Epoch:
    """The certificate in `raw`, its signature checked. Raises `BadMessage`.

    Which stream it is for follows from the root key inside; compare `stream` with the one wanted.
    """
    if not _FIXED.size + SIGNATURE_BYTES <= len(raw) <= CERTIFICATE_BYTES_MAX:
        raise BadMessage("epoch certificate: wrong length")
    tag, root, number, signer, not_before, not_after, bitrate, size = _FIXED.unpack_from(raw)
    signed, signature = raw[:-SIGNATURE_BYTES], raw[-SIGNATURE_BYTES:]
    text = signed[_FIXED.size :]
    if tag != TAG or len(text) != size or size > TITLE_BYTES_MAX:
        raise BadMessage("epoch certificate: wrong form")
    if not not_before < not_after <= not_before + EPOCH_MS_MAX:
        raise BadMessage("epoch certificate: valid for more than a day, or never")
    if not PublicKey(root).verify(signature, signed):
        raise BadMessage("epoch certificate: wrong signature")
    title = _title(text)
    return Epoch(
        stream_id(root), number, PublicKey(signer), not_before, not_after, bitrate, title, raw
    )


def clean_title(title: str) -> str:
    """`title` without control characters, in Unicode NFC, cut to `TITLE_BYTES_MAX` bytes."""
    printable = "".join(c for c in unicodedata.normalize("NFC", title) if _printable(c))
    return printable.encode()[:TITLE_BYTES_MAX].decode(errors="ignore").strip()


def _title(text: bytes) -> str:
    try:
        title = text.decode()
    except UnicodeDecodeError:
        raise BadMessage("epoch certificate: the title is not UTF-8") from None
    if clean_title(title) != title:
        raise BadMessage("epoch certificate: the title has characters that it may not have")
    return title


def _printable(character: str) -> bool:
    return unicodedata.category(character)[0] not in "CZ" or character == " "
