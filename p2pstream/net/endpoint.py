"""Datagrams to links and back, on one socket that both answers and calls.

Invariants: what one connection's input makes go wrong ends that connection only; strangers get no
answer that is larger than their question, and cost no state beyond the doorman's limits; a timer is
never set to now or earlier, which in virtual time would be for ever (facts/simulation.md 9).
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import inf

import trio
from aioquic._buffer import Buffer
from aioquic.quic.packet import (
    QuicHeader,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)

from p2pstream.core import Happening, LinkDown, LinkUp
from p2pstream.identity import Address, NodeId, NodeKey, secret_bytes
from p2pstream.net import tls
from p2pstream.net.doorman import CONNECTIONS_MAX, UNPROVEN, Doorman
from p2pstream.net.engine import Engine
from p2pstream.net.frames import cutter
from p2pstream.net.link import Close, Link, Vet
from p2pstream.net.recovery import PACING_S
from p2pstream.net.retry import CID_BYTES_MAX, Tokens
from p2pstream.net.udp import Train, Udp, open_udp
from p2pstream.wire.codec import Codec

BURST = 128  # Datagrams read per wake-up: facts/quic.md 3.6, receiving three times cheaper.
INITIAL_BYTES_MIN = 1200  # RFC 9000 14.1.
CID_BYTES = 8  # aioquic's default length of ours; also the least of a client's (RFC 9000 7.2).
# Versions that exist and that we do not speak: their clients are told so. To any other number we
# say nothing (test-catalogue S-02, I-09).
OTHER_VERSIONS = {int(QuicProtocolVersion.VERSION_2), 0xFF00001D}

_LONG = 0x80  # RFC 9000 17.2: header form, fixed bit, packet type.
_FIXED = 0x40
_TYPE = 0x30

_log = logging.getLogger("p2pstream.net")


@dataclass(slots=True)
class EndpointCounters:
    """What one socket has carried, and what was refused at the door."""

    datagrams_in: int = 0
    datagrams_out: int = 0
    bytes_in: int = 0  # Of UDP payload.
    bytes_out: int = 0
    unsent: int = 0  # The system refused to send.
    strays: int = 0  # Belong to no connection and open none.
    refused: int = 0  # Strangers above the doorman's limits.
    retries: int = 0  # Strangers that were asked to prove their address.
    handshakes: int = 0  # Links that came up.
    crashes: int = 0  # Links ended by an exception of ours.


@dataclass(slots=True)
class _Entry:
    address: Address  # Where it came in from; it may move later.
    cids: set[bytes]


class Endpoint:
    """One UDP socket and the links on it.

    report: told what happens to each link. settle: called each turn before anything is sent, for
    work that was put aside; returns when it wants the next turn.
    """

    def __init__(
        self,
        key: NodeKey,
        codec: Codec,
        *,
        vet: Vet,
        report: Callable[[Link, Happening], None],
        settle: Callable[[float], float],
        agent: str,
        engine: type[Engine] = Engine,
        yields: bool = False,
    ) -> None:
        self.counters = EndpointCounters()
        self._calling = tls.configuration(key, dialling=True, yields=yields)
        self._answering = tls.configuration(key, dialling=False, yields=yields)
        self._codec = codec
        self._vet = vet
        self._report = report
        self._settle = settle
        self._agent = agent
        self._engine = engine
        self._udp: Udp | None = None
        self._doorman = Doorman()
        self._tokens = Tokens(secret_bytes())
        self._links: dict[Link, _Entry] = {}
        self._by_cid: dict[bytes, Link] = {}
        self._dirty: dict[Link, None] = {}  # To be flushed, in order.
        self._timers: list[tuple[float, int, Link]] = []  # A heap; see `_arm`.
        self._armed: dict[Link, list[float]] = {}  # Their entries in `_timers`, earliest last.
        self._order = count()
        self._settle_at = inf
        self._turning = False
        self._poked = trio.Event()
        self._nap: trio.CancelScope | None = None

    # What the carrier calls.

    @property
    def address(self) -> Address:
        """Where the socket is bound."""
        assert self._udp is not None, "not bound yet"
        return self._udp.address

    def dial(self, address: Address, expected: NodeId) -> Link | None:
        """Start calling `expected` at `address`; None when there are too many connections."""
        if self._doorman.connections >= CONNECTIONS_MAX:
            return None
        now = trio.current_time()
        engine = self._engine(configuration=self._calling)
        link = self._enter(engine, address, dialled=True, expected=expected, now=now)
        engine.connect(address, now=now)
        self.touch(link)
        return link

    def touch(self, link: Link) -> None:
        """`link` has something to send, or was closed."""
        if link in self._links:
            self._dirty[link] = None
            if not self._turning:
                self.poke()

    def poke(self) -> None:
        """There is something to settle."""
        if not self._turning:
            self._poked.set()

    async def run(
        self,
        host: str,
        port: int,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Carry datagrams until cancelled; then say good-bye. Raises `PortInUse`."""
        self._udp = await open_udp(host, port)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, self._udp)
                nursery.start_soon(self._tend, self._udp)
                task_status.started()
        finally:
            await self._say_goodbye(self._udp)
            self._udp.close()

    # Tasks.

    async def _listen(self, udp: Udp) -> None:
        while True:
            trains = await udp.receive(BURST)
            now = trio.current_time()
            self._turning = True
            for data, size, address in trains:
                self._on_train(data, size, address, now)
            self._turn(udp, now)
            if self._nap is not None and (at := self._alarm()) != self._nap.deadline:
                self._nap.deadline = at
            await udp.flush()

    async def _tend(self, udp: Udp) -> None:
        while True:
            with trio.CancelScope(deadline=self._alarm()) as self._nap:
                await self._poked.wait()
            self._nap = None
            self._poked = trio.Event()
            self._turn(udp, trio.current_time())
            await udp.flush()

    async def _say_goodbye(self, udp: Udp) -> None:
        now = trio.current_time()
        for link in list(self._links):
            if not link.closed:
                link.close(Close.BYE)
                self._report(link, LinkDown("shutdown"))
            self._dirty[link] = None
        self._turn(udp, now)
        with trio.CancelScope(deadline=now + 1, shield=True):  # Only a virtual socket ever waits.
            await udp.flush()

    # A turn: timers, settling, sending.

    def _turn(self, udp: Udp, now: float) -> None:
        self._turning = True
        try:
            self._fire(now)
            self._settle_at = max(self._settle(now), now + PACING_S)
            while self._dirty:
                dirty, self._dirty = self._dirty, {}
                for link in dirty:
                    self._flush(udp, link, now)
                self._settle_at = max(self._settle(now), now + PACING_S)
        finally:
            self._turning = False
        self.counters.unsent = udp.unsent

    def _alarm(self) -> float:
        return min(self._settle_at, self._timers[0][0] if self._timers else inf)

    def _fire(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, _, link = heapq.heappop(self._timers)
            if link not in self._links:
                continue
            self._armed[link].pop()
            at = link.wake_at(now=now)
            if at > now:
                self._arm(link, at, now)  # Most move on before they are due.
            else:
                self._attend(link, partial(link.wake, now=now))

    def _arm(self, link: Link, at: float, now: float) -> None:
        """See that `link` is woken at `at`.

        Entries are never taken out: when the time of one has come, `_fire` looks whether anything
        is due. Only what is earlier than all entries of the link is put in, so these are few
        however often its timer moves.
        """
        at = max(at, now + PACING_S)
        entries = self._armed[link]
        if at < (entries[-1] if entries else inf):
            entries.append(at)
            heapq.heappush(self._timers, (at, next(self._order), link))

    def _flush(self, udp: Udp, link: Link, now: float) -> None:
        if link not in self._links:
            return
        try:
            trains = link.flush(now=now)
            self._send(udp, trains)
            if link.closed:
                if link.up_at < inf:
                    # Nobody answers to a lost one: without it the peer waits until it is idle.
                    self._send(udp, trains)
                self._forget(link)
            else:
                self._arm(link, link.wake_at(now=now), now)
        except Exception:  # noqa: BLE001  # S-15: only this connection ends.
            self._crash(link)

    def _send(self, udp: Udp, trains: list[Train]) -> None:
        for data, size, _ in trains:
            self.counters.datagrams_out += -(-len(data) // size)
            self.counters.bytes_out += len(data)
        udp.send(trains)

    # Datagrams.

    def _on_train(self, data: bytes, size: int, address: Address, now: float) -> None:
        self.counters.bytes_in += len(data)
        if len(data) <= size or _is_for_one(data, size):
            self._on_datagrams(data, size, address, now)
            return
        for at in range(0, len(data), size):
            self._on_datagrams(data[at : at + size], size, address, now)

    def _on_datagrams(self, data: bytes, size: int, address: Address, now: float) -> None:
        """One, or several for one link."""
        count = -(-len(data) // size) if data else 1
        self.counters.datagrams_in += count
        if len(data) < 1 + CID_BYTES:
            self.counters.strays += 1
            return
        cid = data[6 : 6 + data[5]] if data[0] & _LONG else data[1 : 1 + CID_BYTES]
        link = self._by_cid.get(cid) or self._knock(data, cid, address, now)
        if link is not None:
            self._attend(link, partial(link.receive, data, address, size=size, now=now))

    def _attend(self, link: Link, act: Callable[[], list[Happening]]) -> None:
        self._dirty[link] = None
        try:
            news = act()
        except Exception:  # noqa: BLE001  # S-15: only this connection ends.
            self._crash(link)
            return
        while link.cids:
            cid, issued = link.cids.popleft()
            if issued:
                self._route(cid, link)
            elif self._by_cid.get(cid) is link:
                del self._by_cid[cid]
        for happening in news:
            if isinstance(happening, LinkUp):
                self.counters.handshakes += 1
                if not link.dialled:
                    self._doorman.settled()
            self._report(link, happening)

    def _knock(self, data: bytes, cid: bytes, address: Address, now: float) -> Link | None:
        """A new connection, if that is what a stranger's datagram asks for."""
        first = data[0]
        version = int.from_bytes(data[1:5])
        if not first & _LONG or len(data) < INITIAL_BYTES_MIN or len(cid) > CID_BYTES_MAX:
            self.counters.strays += 1
        elif version in OTHER_VERSIONS:
            self._name_our_version(data, cid, address)
        elif not _is_initial(first, version) or len(cid) < CID_BYTES:
            self.counters.strays += 1
        else:
            return self._open(data, address, now)
        return None

    def _open(self, data: bytes, address: Address, now: float) -> Link | None:
        """The connection that an Initial packet asks for, if it may come in."""
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CID_BYTES)
        except ValueError:
            self.counters.strays += 1
            return None
        cid = original = header.destination_cid
        if header.token:
            # No token of ours, or too old: the client would not listen to another Retry (RFC 9000
            # 8.1.2), and may dial again.
            original = self._tokens.original(header.token, address, source=cid, now=now)
            if not original:
                self.counters.strays += 1
                return None
        refusal = self._doorman.refuses(address, proven=bool(header.token), now=now)
        if refusal == UNPROVEN:
            self._ask_for_proof(header, address, now)
        elif refusal:
            self.counters.refused += 1
        else:
            engine = self._engine(
                configuration=self._answering,
                original_destination_connection_id=original,
                retry_source_connection_id=cid if header.token else None,
            )
            link = self._enter(engine, address, dialled=False, now=now)
            self._route(cid, link)
            return link
        return None

    def _ask_for_proof(self, header: QuicHeader, address: Address, now: float) -> None:
        """RFC 9000 8.1.2. A tenth of what was asked with, and nothing is kept."""
        self.counters.retries += 1
        assert header.version is not None, "an Initial packet has one"
        source = secret_bytes(CID_BYTES)
        token = self._tokens.make(address, original=header.destination_cid, source=source, now=now)
        answer = encode_quic_retry(
            version=header.version,
            source_cid=source,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )
        if self._udp is not None:
            self._send(self._udp, [(answer, len(answer), address)])

    def _name_our_version(self, data: bytes, cid: bytes, address: Address) -> None:
        self.counters.strays += 1
        start = 6 + len(cid)
        source = data[start + 1 : start + 1 + data[start]]
        if self._udp is not None and len(source) <= CID_BYTES_MAX:
            answer = encode_quic_version_negotiation(
                source_cid=cid,
                destination_cid=source,
                supported_versions=[QuicProtocolVersion.VERSION_1],
            )
            self._send(self._udp, [(answer, len(answer), address)])

    # Links come and go.

    def _enter(
        self,
        engine: Engine,
        address: Address,
        *,
        dialled: bool,
        expected: NodeId | None = None,
        now: float,
    ) -> Link:
        link = Link(
            engine,
            self._codec,
            address=address,
            dialled=dialled,
            vet=self._vet,
            agent=self._agent,
            expected=expected,
            now=now,
        )
        self._links[link] = _Entry(address, set())
        self._armed[link] = []
        self._route(engine.host_cid, link)
        self._doorman.enter(address, inbound=not dialled)
        return link

    def _route(self, cid: bytes, link: Link) -> None:
        self._by_cid[cid] = link
        self._links[link].cids.add(cid)

    def _forget(self, link: Link) -> None:
        entry = self._links.pop(link)
        del self._armed[link]
        self._dirty.pop(link, None)
        for cid in entry.cids:
            if self._by_cid.get(cid) is link:
                del self._by_cid[cid]
        if not link.dialled and link.up_at == inf:
            self._doorman.settled()
        self._doorman.leave(entry.address, inbound=not link.dialled)
        link.dissolve()

    def _crash(self, link: Link) -> None:
        """An exception on behalf of one connection: log it, once, and end the connection."""
        _log.exception("link to %s at %s failed", link.peer, link.address)
        self.counters.crashes += 1
        if link not in self._links:
            return
        news = not link.closed
        try:
            link.close(Close.INTERNAL)
            if self._udp is not None:
                self._send(self._udp, link.flush(now=trio.current_time()))
        except Exception:  # noqa: BLE001  # The engine may be in any state.
            _log.debug("and could not say so", exc_info=True)
        self._forget(link)
        if news:
            self._report(link, LinkDown("internal_error"))


def _is_for_one(data: bytes, size: int) -> bool:
    """Whether all of a train are packets with a short header for the same connection id."""
    count = -(-len(data) // size)
    if size <= CID_BYTES or len(data) - size * (count - 1) <= CID_BYTES:
        return False
    cids = cutter(1, CID_BYTES, size - 1 - CID_BYTES, count)(data)
    return max(data[::size]) < _LONG and cids.count(cids[0]) == count


def _is_initial(first: int, version: int) -> bool:
    return version == QuicProtocolVersion.VERSION_1 and first & (_FIXED | _TYPE) == _FIXED
