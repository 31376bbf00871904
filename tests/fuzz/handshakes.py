"""A peer that means to connect and says something else in TLS than it should: nothing may raise.

One input in sixteen goes the whole way: both ends are real, and what one of them writes into its
CRYPTO streams is changed on the way into its packets, which are then sealed as they ought to be:
4 ms. The others cost a fiftieth of that: an honest end's TLS is set back to each moment of a
handshake, and given a changed message instead of the true one. So hellos, transport parameters,
certificates and signatures are met in their places.
"""

from __future__ import annotations

import random
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar
from zlib import crc32

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.connection import QuicConnectionError

from p2pstream.net.engine import Engine, _Tls
from p2pstream.net.fast import FastEngine
from p2pstream.net.link import HANDSHAKE_S
from tests.fuzz.bites import Bites
from tests.fuzz.pair import Pair

TURNS = 6
WHOLE = 16  # One input in so many goes the whole way.
LIES_MAX = 64
MOMENTS = 10  # RFC 8446 2: a server is told 4 things, a client 6.
SCHEDULES = "_KeyScheduleProxy__schedules"


class Liar(Engine):
    """Changes what TLS wants to say, as `bites` say, flight by flight."""

    bites = Bites(b"")

    def _push_crypto_data(self) -> None:
        for buffer in self._crypto_buffers.values():
            if buffer.tell():
                said = changed(buffer.data, self.bites)
                buffer.seek(0)
                buffer.push_bytes(said[: buffer.capacity])
        super()._push_crypto_data()


class Witness(_Tls):
    """Counts the messages that it is given, and remembers the moments before in `diary`."""

    count: ClassVar[int] = 0
    diary: ClassVar[list[Moment]] = []

    def _handle_reassembled_message(
        self, message_type: int, input_buf: Buffer, output_buf: dict[tls.Epoch, Buffer]
    ) -> None:
        Witness.count += 1
        if len(Witness.diary) < MOMENTS:
            said = input_buf.data_slice(0, input_buf.capacity)
            Witness.diary.append(Moment(self.alpn_cb.__self__, _snapshot(self), said))  # type: ignore[union-attr]
        super()._handle_reassembled_message(message_type, input_buf, output_buf)


class Honest(FastEngine):
    """An engine whose TLS is a `Witness`."""

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls.__class__ = Witness


@dataclass
class Moment:
    """What an end of a connection knew before it was told something."""

    engine: Engine
    context: Witness
    said: bytes

    def again(self, said: bytes) -> None:
        """Be told something else."""
        engine, context = copy(self.engine), _snapshot(self.context)
        engine.tls = context
        context.alpn_cb = engine._alpn_handler
        context.update_traffic_key_cb = lambda *_: None
        room = {epoch: Buffer(capacity=4096) for epoch in self.engine._crypto_buffers}
        with suppress(tls.Alert, QuicConnectionError):
            context.handle_message(said, room)


def one(data: bytes) -> int:
    """Returns how many TLS messages an honest end was given."""
    before, bites = Witness.count, Bites(data)
    if crc32(data) % WHOLE:  # Not a byte of the input: the fuzzer prefers what reaches more code.
        _lie(bites)
    else:
        _connect(bites)
    return max(1, Witness.count - before)


def seeds() -> list[bytes]:
    """The truth, and lies in several places."""
    rng = random.Random(1)
    lies = [
        bytes([1, at, kind]) + rng.randbytes(9) for at in range(0, 256, 32) for kind in (0, 1, 2)
    ]
    return [bytes([first]) + lie for first in range(MOMENTS) for lie in [b"", *lies]]


def changed(data: bytes, bites: Bites) -> bytes:
    """`data` with as many changes as the next byte says: other bytes, fewer or more of them."""
    for _ in range(bites.number() % 5):
        at = bites.number() * len(data) // 256 + bites.number() % 16
        kind, size = bites.number() % 3, bites.number() % 8
        new = bites.take(size) if kind else b""
        data = data[:at] + new + data[at + (size if kind < 2 else 0) :]
    return data


def _connect(bites: Bites) -> None:
    """The first byte says who lies."""
    liar = bites.number() & 1
    Liar.bites = bites  # A caller says hello as soon as it is made.
    pair = Pair(Honest, Liar) if liar else Pair(Liar, Honest)
    pair.talk(TURNS)
    honest = pair.links[1 - liar]
    honest.wake(now=pair.now + HANDSHAKE_S)
    assert honest.up or honest.closed


def _lie(bites: Bites) -> None:
    """The first byte says when, and so on."""
    for _ in range(LIES_MAX):
        moment = bites.choose(Witness.diary)
        moment.again(changed(moment.said, bites))
        if not bites:
            return


def _snapshot(context: Witness) -> Witness:
    """A copy that may be told something without consequences for `context`."""
    out: Any = copy(context)
    out.key_schedule = _fork(context.key_schedule)
    if context._key_schedule_proxy is not None:
        out._key_schedule_proxy = copy(context._key_schedule_proxy)
        schedules = vars(context._key_schedule_proxy)[SCHEDULES]
        vars(out._key_schedule_proxy)[SCHEDULES] = {
            suite: _fork(schedule) for suite, schedule in schedules.items()
        }
    return out  # type: ignore[no-any-return]


def _fork(schedule: tls.KeySchedule | None) -> tls.KeySchedule | None:
    out = copy(schedule)
    if out is not None:
        out.hash = out.hash.copy()
    return out


Pair(Honest, Honest).talk(TURNS)
assert len(Witness.diary) == MOMENTS, "both ends were told everything"
