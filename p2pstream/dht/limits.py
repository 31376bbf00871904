"""How often somebody may ask, and the tokens that tie a put to the address of a query.

Token buckets, one per asker, in a bounded table: the asker not seen for longest is forgotten
first, which can only be generous to it.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Hashable
from functools import lru_cache, partial
from hashlib import blake2b

from p2pstream.identity import NodeId

METERED_MAX = 4096  # Askers remembered by one meter; as many as scores (security 5.6). 0.6 MiB.
TOKEN_BYTES = 16  # 128 bits cannot be guessed, and an answer has little room.
# A token is good in the window it was made in and in the next: 150 s at least, the 5 min of
# security/architecture.md 5.4 at most.
TOKEN_WINDOW_S = 150.0


class Meter:
    """Lets every asker do something `per_s` times a second, and up to `burst` times at once."""

    def __init__(self, *, per_s: float, burst: float, askers_max: int = METERED_MAX) -> None:
        self._per_s = per_s
        self._burst = burst
        self._askers_max = askers_max
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def take(self, asker: Hashable, *, now: float) -> bool:
        """Whether `asker` may, now. Counts it if so."""
        left, at = self._left.pop(asker, (self._burst, now))
        if now > at:
            left += (now - at) * self._per_s
        if left > self._burst:
            left = self._burst
        allowed = left >= 1.0
        self._left[asker] = left - allowed, now  # The latest comes last.
        if len(self._left) > self._askers_max:
            self._left.popitem(last=False)
        return allowed


class Tokens:
    """Write tokens: proof that the holder lately asked us about a key, from the same address.

    So nobody can store what points at a victim from an address that is not its own, and a node
    must be where it says it is. BEP 5 ("announce_peer") has the idea; the two secrets are derived
    from one secret and the time, so nothing needs to be kept or rotated.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret_of = lru_cache(2)(partial(_derive, secret))

    def make(self, host: str, key: bytes, node: NodeId, *, now: float) -> bytes:
        return self._token(_window(now), host, key, node)

    def good(self, token: bytes, host: str, key: bytes, node: NodeId, *, now: float) -> bool:
        """Whether we made `token`, for this asker and key, not too long ago."""
        windows = _window(now), _window(now) - 1
        # That an older one takes longer tells nobody what a good one looks like.
        return any(hmac.compare_digest(token, self._token(w, host, key, node)) for w in windows)

    def _token(self, window: int, host: str, key: bytes, node: NodeId) -> bytes:
        label = host.encode() + b"\0" + key + node
        return _mac(self._secret_of(window), label, TOKEN_BYTES)


def _derive(secret: bytes, window: int) -> bytes:
    return _mac(secret, b"p2pstream write token v1" + window.to_bytes(8, signed=True), 32)


def _mac(secret: bytes, label: bytes, size: int) -> bytes:
    """Keyed BLAKE2b (RFC 7693, 2.9): made for each question, and HMAC takes three times as long."""
    return blake2b(label, key=secret, digest_size=size).digest()


def _window(now: float) -> int:
    return int(now // TOKEN_WINDOW_S)
