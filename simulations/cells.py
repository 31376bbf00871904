"""Cells: one seed of one scenario each, computed here, by processes, or by a Dask cluster.

The result does not depend on where: each cell is a simulation of its own, and rows come in the
order of the cells.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from threading import Lock
from typing import Any

from p2pstream import __version__
from p2pstream.errors import MissingHelper, NoPeers, UserError

CONNECT_S = 10.0  # For a scheduler to answer.
_one_at_a_time = Lock()  # A simulation takes hold of its process: garbage, signatures.

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """values: what the scenario's file says (`reading.load`). where: what to call it. tier: what a
    node is made of (`tiers.py`).
    """

    values: dict[str, Any]
    where: str
    seed: int
    tier: str = "core"


Work = Callable[[Cell], Row]


def spread(
    work: Work, cells: list[Cell], *, jobs: int = 1, scheduler: str | None = None
) -> Iterator[Row]:
    """A row for each cell, in their order. scheduler: the address of Dask's."""
    if scheduler is not None:
        finished = _by_dask(work, cells, scheduler)
    elif jobs > 1 and len(cells) > 1:
        finished = _by_processes(work, cells, jobs)
    else:
        finished = ((nth, work(cell)) for nth, cell in enumerate(cells))
    early: dict[int, Row] = {}
    due = 0
    for nth, row in finished:
        early[nth] = row
        while due in early:
            yield early.pop(due)
            due += 1


def _by_processes(work: Work, cells: list[Cell], jobs: int) -> Iterator[tuple[int, Row]]:
    # Spawned, not forked: each process starts alike, whatever this one has done before.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(cells)), mp_context=context) as pool:
        asked = {pool.submit(work, cell): nth for nth, cell in enumerate(cells)}
        for future in as_completed(asked):
            yield asked[future], future.result()


def _by_dask(work: Work, cells: list[Cell], scheduler: str) -> Iterator[tuple[int, Row]]:
    """Raises `UserError` when the cluster is not there, or would give other results."""
    try:
        import distributed  # noqa: PLC0415  # The extra [cluster].
    except ImportError:
        raise MissingHelper(
            "Dask is not installed", hint="pip install 'p2pstream-mesh[cluster]'"
        ) from None
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise NoPeers(
            f"no Dask scheduler answers at {scheduler}: {error}", hint="Start one: dask scheduler."
        ) from None
    with client:
        others = {str(one) for one in client.run(version).values()} - {__version__}
        if others:
            raise UserError(
                f"workers have p2pstream {', '.join(sorted(others))}, here is {__version__}",
                hint="Install the same version everywhere.",
            )
        asked = {client.submit(alone, work, cell, pure=False): n for n, cell in enumerate(cells)}
        for future in distributed.as_completed(list(asked)):
            yield asked[future], future.result()


def version() -> str:
    """Of what a worker has installed."""
    return __version__


def alone(work: Work, cell: Cell) -> Row:
    """A worker may have threads; a simulation wants its process for itself."""
    with _one_at_a_time:
        return work(cell)
