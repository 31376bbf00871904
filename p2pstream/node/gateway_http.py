"""HTTP/1.1 for a few local clients: an ASGI application over trio and h11, with limits.

Why not a server off the shelf: anycorn 0.20.1 (and hypercorn) send with a shielded scope and no
deadline, so one client that stops reading holds up the shutdown for ever; they count no sockets;
and they answer `Upgrade: h2c` by changing the protocol before the application is asked. ASGI is
the seam: a server that learns these things can take this module's place.

Invariants: there are at most `CONNECTIONS_MAX` sockets. A full house shows the door to the client
that has kept us waiting longest, to send a request or to take an answer; so readers that stall
cannot lock out a player that does not. Nothing a client does raises out of `serve`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from math import inf
from typing import Any
from urllib.parse import unquote_to_bytes

import h11
import trio

CONNECTIONS_MAX = 64  # security/architecture.md 5.5, like the next two.
HEADER_BYTES_MAX = 16 * 1024
HEADER_S_MAX = 10.0  # To send a whole request, from connecting or from the last answer.
PATH_BYTES_MAX = 1024  # Our longest has 110 bytes.
SEND_S_MAX = 10.0  # For one write to a socket, 16 to 256 KiB: no player is that slow.
LINGER_S = 0.5  # Wild guess: for a refused client to read why.
RECEIVE_BYTES = 4096
WRITE_BYTES = 256 * 1024  # So that the deadline is that of a piece, not that of a segment.

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOST = (trio.BrokenResourceError, trio.ClosedResourceError)


async def serve(app: App, listeners: Sequence[trio.SocketListener]) -> None:
    """Answer requests with `app` until cancelled. Takes over the listeners."""
    async with trio.open_nursery() as nursery:
        house = _House(app)
        nursery.start_soon(trio.serve_listeners, house.welcome, list(listeners))


class ClientGone(OSError):
    """The client left, or is too slow. An `OSError`, as ASGI asks of `send`."""


class _House:
    """The connections there are."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._guests: set[_Connection] = set()

    async def welcome(self, stream: trio.SocketStream) -> None:
        if len(self._guests) >= CONNECTIONS_MAX and not self._make_room():
            await trio.aclose_forcefully(stream)
            return
        guest = _Connection(stream, self._app)
        self._guests.add(guest)
        try:
            await guest.run()
        finally:
            self._guests.discard(guest)

    def _make_room(self) -> bool:
        slowest = min(self._guests, key=lambda guest: guest.waiting_since)
        if slowest.waiting_since == inf:
            return False
        self._guests.discard(slowest)
        slowest.scope.cancel()
        return True


class _Connection:
    """One client. `waiting_since`: when we began to wait for it, inf when it waits for us."""

    def __init__(self, stream: trio.SocketStream, app: App) -> None:
        self.scope = trio.CancelScope()
        self.client = _client(stream)
        self.waiting_since = trio.current_time()
        self._stream = stream
        self._app = app
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_BYTES_MAX)

    async def run(self) -> None:
        with self.scope:
            try:
                while await self._exchange():
                    self._http.start_next_cycle()
            except (*_LOST, ClientGone):
                pass
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint)
        # Without a word: whoever owes us an answer would make us wait for that too.
        await trio.aclose_forcefully(self._stream)

    async def _exchange(self) -> bool:
        """One request and its answer. False when it was the last of this connection."""
        request = await self._request()
        if request is None:
            return False
        if status := _fault(request):
            await self._refuse(status)
            return False
        self.waiting_since = inf
        await _Exchange(self, request).run(self._app)
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _request(self) -> h11.Request | None:
        """The next request, and None when none comes (in time)."""
        self.waiting_since = trio.current_time()
        with trio.move_on_after(HEADER_S_MAX):
            while (event := self._http.next_event()) is h11.NEED_DATA:
                await self.hear()
            if isinstance(event, h11.Request):
                return event
        return None

    async def hear(self) -> bool:
        """Take in what the client says. False when it will say no more."""
        data = await self._stream.receive_some(RECEIVE_BYTES)
        self._http.receive_data(data)
        return bool(data)

    def over(self) -> None:
        """There is no more to the request: `_fault` let no body in."""
        if self._http.their_state is h11.SEND_BODY:
            self._http.next_event()

    async def say(self, event: h11.Event) -> None:
        """Send, or raise `ClientGone`."""
        data = self._http.send(event) or b""
        for at in range(0, len(data), WRITE_BYTES):
            await self._write(data[at : at + WRITE_BYTES])

    async def _write(self, data: bytes) -> None:
        self.waiting_since = trio.current_time()
        with trio.move_on_after(SEND_S_MAX) as patience:
            try:
                await self._stream.send_all(data)
            except _LOST as error:
                raise ClientGone from error
        if patience.cancelled_caught:
            raise ClientGone
        self.waiting_since = inf

    async def _refuse(self, status: int) -> None:
        if self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        headers = [("content-length", "0"), ("connection", "close")]
        try:
            await self.say(h11.Response(status_code=status, headers=headers))
            await self.say(h11.EndOfMessage())
            await self._stream.send_eof()
            # A socket closed with bytes unread resets, and takes the answer away with it.
            with trio.move_on_after(LINGER_S):
                while await self._stream.receive_some(RECEIVE_BYTES):
                    pass
        except (*_LOST, ClientGone):
            pass


class _Exchange:
    """One request put to the application, and the answer put to the client."""

    def __init__(self, connection: _Connection, request: h11.Request) -> None:
        self._connection = connection
        self._request = request
        self._head = request.method == b"HEAD"
        self._gone = trio.Event()
        self._asked = False

    async def run(self, app: App) -> None:
        self._connection.over()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            try:
                await app(_scope(self._request, self._connection.client), self._receive, self._send)
            except ClientGone:
                self._gone.set()
            nursery.cancel_scope.cancel()
        if self._gone.is_set():
            raise ClientGone

    async def _watch(self) -> None:
        """Notice that the client left. What it says meanwhile is its next request: not yet."""
        try:
            if await self._connection.hear():
                return
        except (*_LOST, h11.RemoteProtocolError):
            pass
        self._gone.set()

    async def _receive(self) -> MutableMapping[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        say = self._connection.say
        if message["type"] == "http.response.start":
            headers = list(message["headers"])
            await say(h11.Response(status_code=message["status"], headers=headers))
            return
        if message.get("body") and not self._head:
            await say(h11.Data(data=message["body"]))
        if not message.get("more_body"):
            await say(h11.EndOfMessage())


def _fault(request: h11.Request) -> int:
    """The status that refuses a request which no application of ours wants to see, or 0."""
    names = {name for name, _ in request.headers}
    if not request.target.startswith(b"/") or request.http_version not in {b"1.0", b"1.1"}:
        return 400  # CONNECT, absolute-form and asterisk-form; HTTP/2 with prior knowledge.
    if len(request.target) > PATH_BYTES_MAX:
        return 414
    if b"upgrade" in names or b"expect" in names:
        return 400
    lengths = {value for name, value in request.headers if name == b"content-length"}
    if b"transfer-encoding" in names or lengths - {b"0"}:
        return 413
    return 0 if _path(request.target) is not None else 400


def _path(target: bytes) -> str | None:
    """The path with its escapes decoded, once; None for bytes that no path of ours has."""
    try:
        path = unquote_to_bytes(target.partition(b"?")[0]).decode("ascii")
    except UnicodeDecodeError:
        return None
    return path if path.isprintable() and "\\" not in path else None


def _client(stream: trio.SocketStream) -> tuple[str, int] | None:
    """The client's address; None of one that has gone already."""
    try:
        host, port, *_ = stream.socket.getpeername()
    except OSError:
        return None
    return host, port


def _scope(request: h11.Request, client: tuple[str, int] | None) -> Scope:
    """The request as ASGI 3 describes it."""
    raw_path, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.http_version.decode("ascii"),
        "method": request.method.decode("ascii"),
        "scheme": "http",
        "path": _path(request.target),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": client,
        "server": None,
    }
