"""Hands for one core: tell it what happened, do what it wants, wake it in time.

Invariant: after every call into the core its effects have been performed and its alarm is set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Protocol

import trio

from p2pstream.core import Happening
from p2pstream.identity import NodeId

NAP_S = 1e-3  # Between two alarms, even of a core that is always late: nobody may spin.


class Driven(Protocol):
    """The part of `Core` that its hands use."""

    def receive(self, peer: NodeId, message: Happening, *, now: float) -> None: ...
    def wake(self, *, now: float) -> None: ...
    def wake_at(self) -> float: ...
    def effects(self) -> Iterable[object]: ...


class Driver:
    """Runs one core. `perform` does one effect; it must not block and should not raise."""

    def __init__(self, core: Driven, perform: Callable[[object], None]) -> None:
        self.core = core
        self._perform = perform
        self._performing = False
        self._again = False  # An effect led back into the core: it may want more now.
        self._woken_at = -inf
        self._nap: trio.CancelScope | None = None
        self._due = -inf  # When that ends.

    def tell(self, peer: NodeId, happening: Happening) -> None:
        """Something happened. Raises `PeerError` when the peer is at fault."""
        try:
            self.core.receive(peer, happening, now=trio.current_time())
        finally:
            self.poke()

    def poke(self) -> None:
        """Call this after any other method of the core."""
        self._perform_all()
        # Only to earlier: trio makes much of each move, and most appointments move back.
        if self._nap is None or self.core.wake_at() >= self._due:
            return
        if (at := self._alarm()) < self._due:
            self._nap.deadline = self._due = at

    async def run(self) -> None:
        """Wake the core whenever it asked for it, until cancelled."""
        self._perform_all()
        while True:
            self._due = self._alarm()
            with trio.CancelScope(deadline=self._due) as self._nap:
                await trio.sleep_forever()
            self._nap = None
            now = trio.current_time()
            if now >= self.core.wake_at():  # Else it has moved back meanwhile.
                self._woken_at = now
                self.core.wake(now=now)
                self._perform_all()

    def _perform_all(self) -> None:
        self._again = True
        if self._performing:
            return  # The loop below will see what it caused.
        self._performing = True
        try:
            while self._again:
                self._again = False
                for effect in self.core.effects():
                    self._perform(effect)
        finally:
            self._performing = False

    def _alarm(self) -> float:
        return max(self.core.wake_at(), self._woken_at + NAP_S)
