"""What a simulated node is made of. One scenario format and one result format for all tiers.

core   the real cores over a light carrier; up to 20,000 hosts
quic   whole nodes with real QUIC and TLS; tens of hosts
model  arrays and constants fitted to `core`; up to a million hosts
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from p2pstream.errors import BadConfig, MissingHelper
from simulations.scenario import Scenario
from simulations.simulation import Outcome, Progress, Simulation

TIERS = ("core", "quic", "model")
HOSTS_MAX = {"core": 20_000, "quic": 200, "model": 1_100_000}  # 82 kB, 2 MB, 0.5 kB each.

UNCOUNTED = {
    "model": (
        "duplicate_ratio", "control_ratio", "pieces_verified", "pieces_refused", "lookup_s_p50",
        "lookup_s_p95", "lookup_hops_p50", "signatures_checked",
    ),
}  # fmt: skip
"""Figures of which a tier knows nothing: they are null."""


class Runs(Protocol):
    """A scenario with its dice thrown."""

    def run(self, progress: Progress | None = None) -> Outcome:
        """All phases."""


def simulation(tier: str, scenario: Scenario, seed: int) -> Runs:
    """One seed, ready to run. Raises `BadConfig`, and `MissingHelper` without numpy."""
    check(tier, scenario)
    if tier == "quic":
        from simulations.quic import WholeSimulation  # noqa: PLC0415  # It loads all of QUIC.

        return WholeSimulation(scenario, seed)
    if tier == "model":
        from simulations.model.run import Model  # noqa: PLC0415  # Without numpy it is not there.

        return Model(scenario, seed)
    return Simulation(scenario, seed)


def check(tier: str, scenario: Scenario) -> None:
    """Raises `BadConfig` for what this tier cannot do, `MissingHelper` for what it lacks."""
    hosts = sum(group.n for group in scenario.groups)
    if hosts > HOSTS_MAX[tier]:
        raise BadConfig(
            f"{scenario.name}: {hosts} hosts are too many for the tier {tier}",
            hint=f"It has room for {HOSTS_MAX[tier]}. Use fewer, or another tier.",
        )
    for key, why in _lacking(tier, scenario):
        raise BadConfig(
            f"{scenario.name}: {key}: not in the tier {tier}: {why}",
            hint="Leave it out, or use --tier core.",
        )


def _lacking(tier: str, scenario: Scenario) -> Iterator[tuple[str, str]]:
    if tier == "quic":
        from simulations.quic import lacking  # noqa: PLC0415  # As above.

        yield from lacking(scenario)
    if tier == "model":
        try:
            from simulations.model.homes import lacking as unmodelled  # noqa: PLC0415  # As above.
        except ImportError as error:
            raise MissingHelper(
                f"the model needs numpy: {error}", hint="pip install 'p2pstream-mesh[sim]'"
            ) from None
        yield from unmodelled(scenario)
