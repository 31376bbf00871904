"""The `quic` tier: whole nodes with real aioquic and TLS over virtual UDP, for tens of hosts."""

from __future__ import annotations

from collections.abc import Iterator

import trio

from simulations.checkers import NoAmplifier, NoSpin, Verdict, all_checkers
from simulations.fabric.pins import pinned
from simulations.fabric.virtual import Sockets, VirtualClock
from simulations.fabric.whole import Whole
from simulations.scenario import Hang, Scenario
from simulations.simulation import Progress, Simulation

# They count what only the light carrier and its alarms count.
BLIND = (NoAmplifier, NoSpin)


class WholeSimulation(Simulation):
    """A scenario with whole nodes."""

    tier = "quic"
    kind = Whole

    def __init__(self, scenario: Scenario, seed: int) -> None:
        checkers = [one for one in all_checkers() if not isinstance(one, BLIND)]
        super().__init__(scenario, seed, checkers=checkers)

    def _pass(self, progress: Progress | None) -> list[Verdict]:
        with pinned(self.seed):
            self._clock = VirtualClock(self.world)
            return trio.run(self._live, progress, clock=self._clock)

    async def _live(self, progress: Progress | None) -> list[Verdict]:
        trio.socket.set_custom_socket_factory(Sockets(self.network))
        async with trio.open_nursery() as nursery:
            for peer in self.peers:
                assert isinstance(peer, Whole)
                peer.nursery = nursery
            end = self.scenario.duration_s
            for at in range(1, int(end) + 1):
                await self._until(at)
                self._between(at)
                if progress is not None:
                    progress(at, end)
            await self._until(end)
            verdicts = self._judge()
            for peer in self.peers:
                assert isinstance(peer, Whole)
                peer.carrier.unplug()
            self._clock.stop()
            nursery.cancel_scope.cancel()
        return verdicts

    async def _until(self, when: float) -> None:
        """Until all that was planned for `when` has happened."""
        reached = trio.Event()
        self.world.at(when, reached.set)
        await reached.wait()


def lacking(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """(key, why) of what this tier cannot do."""
    for nth, group in enumerate(scenario.groups):
        if group.clock_drift_ppm:
            yield f"groups[{nth}].clock_drift_ppm", "whole nodes share one monotonic clock"
    for nth, fault in enumerate(scenario.faults):
        if isinstance(fault, Hang):
            yield f"faults[{nth}].kind", "a whole node cannot be stopped and go on"
