"""The viewer's own web server: a page with a player, HLS, an endless MP4 and live statistics.

It speaks to browsers, and so to every web site that its user has open. Hence: loopback only unless
asked for in so many words; nobody whom `gateway_guard` refuses; every file from a table in memory.
security/architecture.md 5.8.

Readers are cursors in a `LiveWindow` and have no queues: whoever is slow skips to the live edge.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from errno import EADDRINUSE
from importlib.resources import files
from typing import Any

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from p2pstream.errors import BadConfig, PortInUse
from p2pstream.node import gateway_http
from p2pstream.node.gateway_guard import Guard, empty
from p2pstream.node.gateway_http import App, Receive, Scope, Send
from p2pstream.playback.hls import LiveWindow, Part

LOOPBACK = ("127.0.0.1", "::1")
STATE_EVERY_S = 0.5  # 2 Hz: numbers that people read.
FEEDS_MAX = 32  # Endless answers: half of the sockets, so that the other half stays free.
WAIT_TARGETS = 3  # RFC 8216bis 6.2.5.2: a request may be held for three target durations.
TITLE_CHARS_MAX = 120  # Wild guess: more does not fit a browser's tab or a line of the page.

PAGE = {
    "player.js": "text/javascript; charset=utf-8",
    "boxes.js": "text/javascript; charset=utf-8",
    "view.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "graph.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
M3U8 = "application/vnd.apple.mpegurl"
MP4 = "video/mp4"

_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_MEDIA_NAME = re.compile(
    r"(?P<init>[0-9a-f]{2,64})\.mp4|(?P<msn>[0-9]{1,15})(\.(?P<part>[0-9]{1,4}))?\.m4s", re.ASCII
)

State = Callable[[], dict[str, Any]]
Handler = Callable[[Request], Awaitable[Response]]


class Gateway:
    """Serves one stream to the players of this machine.

    window: what to play; call `published` after each change to it. state: what `/api/state`
    shows, a fresh dictionary fit for JSON at each call. port: 0 for any that is free.

    binds: further addresses to listen on. They need `expose`, and a `token` of at least
    `gateway_guard.TOKEN_CHARS_MIN` characters that then begins every path, so that links in
    playlists keep it.
    hosts: names by which exposed clients may call us. allow_origins: web sites that may read.

    Raises `BadConfig` for binds that were not meant or not guarded.
    """

    def __init__(
        self,
        window: LiveWindow,
        state: State,
        *,
        title: str = "",
        port: int = 0,
        binds: Sequence[str] = (),
        expose: bool = False,
        token: str = "",
        hosts: Sequence[str] = (),
        allow_origins: Sequence[str] = (),
    ) -> None:
        self._guard = Guard(
            binds, expose=expose, token=token, hosts=hosts, allow_origins=allow_origins
        )
        self.port = port
        self._window = window
        self._state = state
        self._title = clean_title(title)
        self._binds = tuple(binds)
        self._news = trio.Event()
        self._stop = trio.Event()
        self._feeds = 0

    @property
    def url(self) -> str:
        """Where the page is, once `serve` has started."""
        return f"http://127.0.0.1:{self.port}/" + self._guard.prefix

    async def serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` (or cancelled, which is as good). Starts with the page's URL.

        Raises `PortInUse`.
        """
        listeners = await self._listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                gateway_http.serve, self._guard.before(self._app(), self.port), listeners
            )
            task_status.started(self.url)
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    def published(self) -> None:
        """The window changed: wake whoever waits for that. In trio's thread."""
        self._news.set()
        self._news = trio.Event()

    def stop(self) -> None:
        """End `serve`, and all that it is sending."""
        self._stop.set()

    # Sockets.

    async def _listen(self) -> list[trio.SocketListener]:
        """The loopback of IPv4, the same port of IPv6 where there is one, and the extra binds."""
        listeners = await _open(LOOPBACK[0], self.port)
        self.port = listeners[0].socket.getsockname()[1]
        with suppress(BadConfig, PortInUse):  # Without IPv6, 127.0.0.1 is enough.
            listeners += await _open(LOOPBACK[1], self.port)
        for bind in self._binds:
            listeners += await _open(bind, self.port)
        return listeners

    # What there is to ask for.

    def _app(self) -> App:
        routes = [
            Route("/", self._page()),
            *(Route(f"/web/{name}", _file(name, mime)) for name, mime in PAGE.items()),
            Route("/favicon.ico", _file("icon.svg", PAGE["icon.svg"])),
            Route("/live/index.m3u8", self._multivariant),
            Route("/live/stream.m3u8", self._playlist),
            Route("/live/stream.mp4", self._endless),
            Route("/live/{name}", self._media),
            Route("/api/state", self._state_now),
            Route("/api/events", self._state_events),
        ]
        app = Starlette(routes=routes)
        app.router.redirect_slashes = False
        return app

    def _page(self) -> Handler:
        text = _read("index.html").decode().replace("{{title}}", html.escape(self._title))
        return _answer(text.encode(), "text/html; charset=utf-8")

    async def _multivariant(self, _: Request) -> Response:
        await self._wait_until(lambda: self._window.current is not None)
        return _found(self._window.multivariant().encode(), M3U8, missing=503)

    async def _playlist(self, request: Request) -> Response:
        """The media playlist, held until it shows what is asked for (RFC 8216bis 6.2.5.2).

        Who asks for nothing is new here, and gives up on a playlist of parts alone (mpv, hls.js):
        it is held until a segment is complete.
        """
        msn, part = _number(request, "_HLS_msn"), _number(request, "_HLS_part")
        if msn == -1 or part == -1 or (msn is None and part is not None):
            return empty(400)
        if msn is None:
            await self._wait_until(lambda: self._window.has_segment)
        else:
            await self._wait_until(lambda: self._window.current is not None)
            if not self._window.expects(msn):
                return empty(400)
            if not await self._wait_until(lambda: self._window.has(msn, part)):
                return empty(503)
        return _found(self._window.playlist().encode(), M3U8, missing=503)

    async def _media(self, request: Request) -> Response:
        """An init, a segment, or a part; the hinted part is held until it is there."""
        name = _MEDIA_NAME.fullmatch(request.path_params["name"])
        if not name:
            return empty(404)
        if name["init"]:
            even = len(name["init"]) % 2 == 0
            return _found(self._window.init(bytes.fromhex(name["init"])) if even else None, MP4)
        msn = int(name["msn"])
        if name["part"] is None:
            return _found(self._window.segment(msn), MP4)
        part = int(name["part"])
        if (msn, part) == self._window.hint():
            await self._wait_until(lambda: self._window.hint() != (msn, part))
        return _found(self._window.part(msn, part), MP4)

    async def _endless(self, _: Request) -> Response:
        """One fragmented MP4 from the newest key chunk on, for players that know no HLS."""
        return self._stream(self._parts(), MP4)

    async def _state_now(self, _: Request) -> Response:
        return Response(_json(self._state()), media_type="application/json")

    async def _state_events(self, _: Request) -> Response:
        """The state twice a second, as server-sent events."""
        return self._stream(self._states(), "text/event-stream")

    def _stream(self, chunks: AsyncGenerator[bytes], mime: str) -> Response:
        if self._feeds >= FEEDS_MAX:
            return empty(503)
        return _Endless(chunks, mime)

    async def _parts(self) -> AsyncGenerator[bytes]:
        with self._feed():
            nth, init = None, b""
            while part := await self._next_part(nth):
                if part.chunk.init != init:
                    init = part.chunk.init
                    yield self._window.init(init) or b""
                yield part.chunk.data
                nth = part.nth + 1

    async def _next_part(self, nth: int | None) -> Part | None:
        """The part to send next, None when there will be none."""
        while (part := self._window.read(nth)) is None and not self._window.ended:
            await self._news.wait()
        return part

    async def _states(self) -> AsyncGenerator[bytes]:
        with self._feed():
            while True:
                yield b"data: " + _json(self._state()) + b"\n\n"
                await trio.sleep(STATE_EVERY_S)

    @contextmanager
    def _feed(self) -> Iterator[None]:
        self._feeds += 1
        try:
            yield
        finally:
            self._feeds -= 1

    async def _wait_until(self, done: Callable[[], bool]) -> bool:
        """Whether it is `done`, now or within three target durations."""
        with trio.move_on_after(WAIT_TARGETS * self._window.target_s):
            while not done():
                await self._news.wait()
        return done()


class _Endless(Response):
    """Sends what a generator yields until the client leaves, and closes the generator.

    Starlette's StreamingResponse leaves that to the garbage collector, which trio warns about.
    """

    def __init__(self, chunks: AsyncGenerator[bytes], mime: str) -> None:
        super().__init__(media_type=mime)
        del self.headers["content-length"]
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with aclosing(self._chunks):
            await send(start)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_left, receive, nursery.cancel_scope)
                if scope["method"] != "HEAD":
                    await self._send_all(send)
                nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _send_all(self, send: Send) -> None:
        with suppress(gateway_http.ClientGone):
            async for chunk in self._chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _cancel_when_left(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def clean_title(title: str) -> str:
    """What people may see of a title that a stranger chose: one line of bounded length."""
    line = "".join(char if char.isprintable() else " " for char in title[:TITLE_CHARS_MAX])
    return line.strip()


async def _open(host: str, port: int) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        if error.errno == EADDRINUSE:
            raise PortInUse(
                f"TCP port {port} of {host} is taken by another program.",
                hint="Choose another with --http-port, or 0 for any.",
            ) from error
        raise BadConfig(
            f"cannot serve the page at {host}, port {port}: {error.strerror}",
            hint="Choose another port with --http-port, or 0 for any.",
        ) from error


def _number(request: Request, name: str) -> int | None:
    """A number from the query; None without it, -1 when it is none of ours."""
    text = request.query_params.get(name)
    if text is None:
        return None
    return int(text) if _NUMBER.fullmatch(text) else -1


def _found(data: bytes | None, mime: str, *, missing: int = 404) -> Response:
    return Response(data, media_type=mime) if data else empty(missing)


def _json(state: dict[str, Any]) -> bytes:
    return json.dumps(state, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _read(name: str) -> bytes:
    return files("p2pstream.node").joinpath("web", name).read_bytes()


def _file(name: str, mime: str) -> Handler:
    return _answer(_read(name), mime)


def _answer(data: bytes, mime: str) -> Handler:
    async def answer(_: Request) -> Response:
        return Response(data, media_type=mime)

    return answer
