"""How `p2pstream status` sees a running node: a UNIX socket that says its state and hangs up.

One socket a process, in the runtime folder of the user, which nobody else may enter.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from p2pstream.errors import DiskFull

STATE_BYTES_MAX = 4 * 1024 * 1024  # Of one node's state; a hundred times what it is.
ANSWER_S = 2.0  # A node that takes longer hangs.


@asynccontextmanager
async def showing(
    folder: Path, command: str, state: Callable[[], dict[str, Any]]
) -> AsyncIterator[None]:
    """Let `status` ask for `state()` while the block runs. Raises `DiskFull`."""
    path = folder / f"{os.getpid()}.sock"
    try:
        _make_room(path)
        server = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await server.bind(str(path))
    except OSError as error:
        raise DiskFull(
            f"cannot make {path}: {error.strerror}",
            hint="Set XDG_RUNTIME_DIR to a folder of yours.",
        ) from None
    server.listen(4)

    async def answer(stream: trio.SocketStream) -> None:
        about = {"pid": os.getpid(), "command": command, **state()}
        with trio.move_on_after(ANSWER_S), suppress(trio.BrokenResourceError):
            async with stream:
                await stream.send_all(json.dumps(about).encode())

    async with trio.open_nursery() as nursery:
        listener = trio.SocketListener(server)
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        with _gone_after(path):
            yield
        nursery.cancel_scope.cancel()


async def running(folder: Path) -> list[dict[str, Any]]:
    """The states of all nodes that run here. Sockets of dead ones are cleared away."""
    found = []
    for path in _sockets(folder):
        state = await _ask(path)
        if state is not None:
            found.append(state)
    return found


async def _ask(path: Path) -> dict[str, Any] | None:
    data = b""
    try:
        with trio.move_on_after(ANSWER_S):
            async with await trio.open_unix_socket(str(path)) as stream:
                async for some in stream:
                    data += some
                    if len(data) > STATE_BYTES_MAX:
                        return None
    except OSError:
        _clear(path)
        return None
    with suppress(ValueError, RecursionError):
        state = json.loads(data)
        return state if isinstance(state, dict) else None
    return None


# A few file names in a folder of ours: not worth a thread.


def _make_room(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _clear(path)


def _sockets(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.sock"))


def _clear(path: Path) -> None:
    path.unlink(missing_ok=True)


@contextmanager
def _gone_after(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        _clear(path)
