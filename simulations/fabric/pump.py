"""What moves a whole node: happenings of the world instead of tasks of trio.

The two tasks of an endpoint and the one of each core cost a switch, a cancel scope and a look at
the kernel each time: a third of a run (measured). A turn does the same here as there.

A node turns once in `TURN_S` at most, and reads all that has come meanwhile: real processors are
busy for a while too, and home lines deliver in bursts. Whatever comes to a node at rest is read at
once, so a lone round trip stays exact.
"""
# ruff: noqa: SLF001  # It takes the place of methods of `Endpoint` and `Driver`; mypy knows them.

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import TYPE_CHECKING, Any

import trio

from p2pstream.identity import Address
from p2pstream.net.carrier import QuicCarrier
from p2pstream.net.drive import Driver
from p2pstream.net.endpoint import Endpoint
from p2pstream.net.udp import Datagram, Train, open_udp, train_end

if TYPE_CHECKING:
    from simulations.fabric.world import World

# Wi-Fi delivers what it has gathered in up to 5.5 ms (IEEE 802.11: aPPDUMaxTime), cable modems send
# each 2 ms. With 4 ms two packets and a half share an ACK, as the light carrier charges, and a run
# costs half of what it does with 0 (measured; lags differ by 0.5 %).
TURN_S = 4e-3


class PumpedEndpoint(Endpoint):
    """An `Endpoint` that the world turns. Made by `adopt`."""

    world: World
    _arrived: list[Datagram]
    _planned_at: float  # When the next turn is; `inf` for none.
    _rested_at: float  # No turn before.
    _poked_now: bool

    async def run(
        self,
        host: str,
        port: int,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """As of `Endpoint`."""
        self._udp = await open_udp(host, port)
        try:
            self.poke()
            task_status.started()
            await trio.sleep_forever()
        finally:
            self._planned_at = -inf
            await self._say_goodbye(self._udp)
            self._udp.close()

    def poke(self) -> None:
        """As of `Endpoint`."""
        if not self._turning and not self._poked_now:
            self._poked_now = True
            self._plan(self.world.now)

    def take(self, data: bytes, source: Address) -> None:
        """A datagram is here."""
        self._arrived.append((data, source))
        if len(self._arrived) == 1:
            self._plan(self.world.now)

    def _plan(self, when: float) -> None:
        when = max(when, self._rested_at)
        if when < self._planned_at and self._udp is not None:
            self._planned_at = when
            self.world.at(when, self._go, when)

    def _go(self, when: float) -> None:
        if when != self._planned_at or self._udp is None:
            return  # Another one was planned since, before this.
        self._planned_at = inf
        now = self.world.now
        arrived, self._arrived = self._arrived, []
        if arrived or self._poked_now or self._alarm() <= now:
            self._poked_now = False
            self._rested_at = now + TURN_S
            self._turning = True
            for train in _trains(arrived):
                self._on_train(*train, now)
            self._turn(self._udp, now)
        self._plan(self._alarm())


class PumpedDriver(Driver):
    """A `Driver` that the world wakes. Made by `adopt_driver`."""

    world: World
    _planned_at: float  # `inf` for never; -inf when it is over.

    async def run(self) -> None:
        """As of `Driver`."""
        try:
            self.poke()
            await trio.sleep_forever()
        finally:
            self._planned_at = -inf

    def poke(self) -> None:
        """As of `Driver`."""
        self._perform_all()
        self._plan()

    def _plan(self) -> None:
        when = self._alarm()
        if when < self._planned_at:
            self._planned_at = when
            self.world.at(when, self._go, when)

    def _go(self, when: float) -> None:
        if when != self._planned_at:
            return  # Over, or an earlier one was planned since.
        self._planned_at, now = inf, self.world.now
        if self._alarm() <= now:
            self._woken_at = now
            self.core.wake(now=now)
            self._perform_all()
        self._plan()


def _trains(datagrams: list[Datagram]) -> Iterator[Train]:
    """Joined as the kernel does (`net/udp.py`)."""
    if len(datagrams) == 1:  # As mostly.
        ((data, source),) = datagrams
        yield data, len(data), source
        return
    start = 0
    while start < len(datagrams):
        stop = train_end(datagrams, start)
        data, source = datagrams[start]
        yield b"".join(part for part, _ in datagrams[start:stop]), len(data), source
        start = stop


def adopt(carrier: QuicCarrier, world: World) -> Callable[[bytes, Address], None]:
    """Let the world turn the endpoint that `carrier` has made for itself; what takes datagrams."""
    endpoint: Any = carrier._endpoint
    endpoint.__class__ = PumpedEndpoint
    endpoint.world = world
    endpoint._arrived = []
    endpoint._planned_at, endpoint._rested_at = inf, -inf
    endpoint._poked_now = False
    take: Callable[[bytes, Address], None] = endpoint.take
    return take


def adopt_driver(driver: Driver, world: World) -> None:
    """Let the world wake the core of `driver`, which does not run yet."""
    pumped: Any = driver
    pumped.__class__ = PumpedDriver
    pumped.world, pumped._planned_at = world, inf
