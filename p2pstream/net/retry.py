"""Tokens of Retry packets: only who is at an address can bring back what was sent there.

Invariant: nothing is kept for a stranger until it has shown that it reads what is sent to its
address (RFC 9000 8.1.2). A token is good for one address and port, one connection id and
`TOKEN_S`; it carries what must be remembered, and a code over it that only we can make.
"""

from __future__ import annotations

import hmac

from p2pstream.identity import Address

TOKEN_S = 15.0  # security/architecture.md 5.3: clients bring it back at once (RFC 9000 8.1.4).
CODE_BYTES = 16  # 128 bits cannot be guessed.
STAMP_BYTES = 8
CID_BYTES_MAX = 20  # RFC 9000 17.2.


class Tokens:
    """Makes tokens and checks them. `secret` lives no longer than the process: it needs no change.

    original: the connection id that the client chose first, which the handshake has to confirm
    (RFC 9000 7.3). source: the one that our Retry packet gave it.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, address: Address, *, original: bytes, source: bytes, now: float) -> bytes:
        known = int(now * 1000).to_bytes(STAMP_BYTES) + original
        return known + self._code(known, address, source)

    def original(self, token: bytes, address: Address, *, source: bytes, now: float) -> bytes:
        """The original connection id of a token that is good here and now; empty if it is not."""
        known, code = token[:-CODE_BYTES], token[-CODE_BYTES:]
        stamp, original = known[:STAMP_BYTES], known[STAMP_BYTES:]
        if not 0 < len(original) <= CID_BYTES_MAX:
            return b""
        if not hmac.compare_digest(code, self._code(known, address, source)):
            return b""
        return original if now - int.from_bytes(stamp) / 1000 <= TOKEN_S else b""

    def _code(self, known: bytes, address: Address, source: bytes) -> bytes:
        host, port = address
        # Each part has its length before it or a fixed one: no two sets of them read the same.
        parts = (known, host.encode(), port.to_bytes(2), source)
        message = b"".join(len(part).to_bytes(2) + part for part in parts)
        return hmac.digest(self._secret, b"p2pstream retry v1" + message, "sha256")[:CODE_BYTES]
