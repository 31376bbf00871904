"""What would differ between two runs of whole nodes, pinned: trio's dice, aioquic's sets, our gaps.

trio shuffles the tasks that become runnable together, and keeps them in sets ordered by address;
aioquic keeps streams in one; our engine leaves out packet numbers that nobody can foresee, and
acknowledgements tell of every gap. With these three pinned the times, ends and sizes of all
datagrams are those of the seed. Keys and nonces stay random: their lengths are constant, and no
decision looks at them (facts/simulation.md 2, measured).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aioquic.quic.stream import QuicStream
from trio._core import _run

from p2pstream.errors import MissingHelper
from p2pstream.net import engine
from simulations.fabric.dice import die

SCHEDULER = ("_ALLOW_DETERMINISTIC_SCHEDULING", "_r", "GLOBAL_RUN_CONTEXT")


@contextmanager
def pinned(seed: int) -> Iterator[None]:
    """Within it trio and aioquic do the same for the same seed. Raises `MissingHelper`."""
    if not all(hasattr(_run, name) for name in SCHEDULER):
        raise MissingHelper(
            "this trio cannot be made to repeat a run", hint="Install trio 0.31 to 0.35."
        )
    run: Any = _run
    stream: Any = QuicStream
    ours: Any = engine
    old = run._ALLOW_DETERMINISTIC_SCHEDULING, run._r, stream.__hash__  # noqa: SLF001  # As said.
    fresh = ours.secret_bytes
    run._ALLOW_DETERMINISTIC_SCHEDULING = True  # noqa: SLF001
    run._r = die(seed, "scheduler")  # noqa: SLF001
    stream.__hash__ = _number
    ours.secret_bytes = die(seed, "packet numbers").randbytes
    try:
        yield
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING, run._r, stream.__hash__ = old  # noqa: SLF001
        ours.secret_bytes = fresh


def _number(stream: QuicStream) -> int:
    return -1 if stream.stream_id is None else stream.stream_id
