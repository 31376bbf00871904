"""How nodes are found by `status`, and what their sockets may say to it."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pstream.node.control import STATE_BYTES_MAX, running, showing
from tests.suites import SUITES, needs


async def test_a_node_shows_what_it_is_while_it_runs(tmp_path: Path) -> None:
    async with showing(tmp_path / "run", "seed", lambda: {"peers": 3}):
        (state,) = await running(tmp_path / "run")
        assert (state["command"], state["peers"]) == ("seed", 3)
    assert await running(tmp_path / "run") == []


async def test_what_is_said_to_a_node_changes_nothing_g_03(tmp_path: Path) -> None:
    """Its socket only speaks, and only to its user: there is nothing that a token would open."""
    folder = tmp_path / "run"
    state = {"peers": 3}
    async with showing(folder, "seed", lambda: state):
        assert folder.stat().st_mode & 0o077 == 0
        (path,) = folder.glob("*.sock")
        for said in (b"POST /stop HTTP/1.1\r\n\r\n", b'{"command":"stop"}\n', b"\0" * 100_000):
            stream = await trio.open_unix_socket(str(path))
            async with stream:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(said)
        (found,) = await running(folder)
        assert (found["command"], found["peers"]) == ("seed", 3)
    assert state == {"peers": 3}


@pytest.mark.parametrize(
    "said", [b"", b"[]", b"{", b"\xff", b'{"x":' * 100_000, b" " * (STATE_BYTES_MAX + 1)]
)
async def test_what_says_anything_else_is_passed_over(
    nursery: trio.Nursery, tmp_path: Path, said: bytes
) -> None:
    await nursery.start(partial(saying, tmp_path / "1.sock", [said]))
    assert await running(tmp_path) == []


@needs("jsontestsuite")
async def test_no_json_of_others_is_trouble(nursery: trio.Nursery, tmp_path: Path) -> None:
    """Whatever happens to be an object is taken for a state, and nothing raises."""
    files = sorted((SUITES / "jsontestsuite" / "test_parsing").iterdir())
    await nursery.start(partial(saying, tmp_path / "1.sock", [p.read_bytes() for p in files]))
    found: list[dict[str, Any]] = []
    for _ in files:
        found += await running(tmp_path)
    good = [p for p in files if p.name.startswith("y_") and b"{" in p.read_bytes().lstrip()[:1]]
    for path in good:
        assert json.loads(path.read_bytes()) in found, path


async def saying(
    path: Path, answers: list[bytes], *, task_status: trio.TaskStatus[list[trio.SocketListener]]
) -> None:
    """To each who connects the next of `answers`."""
    left = iter(answers)
    server = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await server.bind(str(path))
    server.listen(4)

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await stream.send_all(next(left))
            except trio.BrokenResourceError:
                return  # It has heard enough.

    listener = trio.SocketListener(server)
    await trio.serve_listeners(answer, [listener], task_status=task_status)
