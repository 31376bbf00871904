"""Who may ask the viewer's web server: the checks that come before any routing.

A browser speaks for every web site that its user has open, and an exposed server to a network. So
names in `Host` that foreign DNS cannot point here, no word to a page of another origin, nothing but
reading, and a token in the path where others than this machine can reach us
(security/architecture.md 5.8).
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import trio
from starlette.datastructures import Headers
from starlette.responses import Response

from p2pstream.errors import BadConfig
from p2pstream.identity import Address
from p2pstream.net.doorman import Bucket
from p2pstream.node.gateway_http import App, Receive, Scope, Send

TOKEN_CHARS_MIN = 22  # 128 bits in base64.
# Wrong tokens from one IPv4 address or IPv6 /64, then no token from there is looked at: with 128
# bits nobody needs that, but test-catalogue G-03 asks for it. Wild guesses, as is the memory.
GUESSES_PER_S = 1.0
GUESSES_BURST = 10
GUESSERS_MAX = 1024

HEADERS = {
    # blob: is MediaSource. 'self' for media is a browser that plays HLS by itself.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

_STREAM_HOST = re.compile(r"[a-z2-7]{52}\.localhost", re.ASCII)


class Guard:
    """Lets in who may ask. Arguments as of `Gateway`. Raises `BadConfig`."""

    def __init__(
        self,
        binds: Sequence[str],
        *,
        expose: bool,
        token: str,
        hosts: Sequence[str],
        allow_origins: Sequence[str],
    ) -> None:
        _check_exposure(binds, expose=expose, token=token)
        self._exposed = bool(binds)
        self._token = token
        self._hosts = frozenset(hosts)
        self._origins = frozenset(allow_origins)
        self._guesses = Guesses()

    @property
    def prefix(self) -> str:
        """What every path begins with."""
        return f"{self._token}/" if self._token else ""

    def before(self, app: App, port: int) -> App:
        """`app` behind the checks that come before any routing. port: where it listens."""

        async def guard(scope: Scope, receive: Receive, send: Send) -> None:
            refusal = self.refusal(scope, port)
            if refusal:
                await refusal(scope, receive, send)
            else:
                await app(scope, receive, self._with_headers(scope, send))

        return guard

    def refusal(self, scope: Scope, port: int) -> Response | None:
        """The answer to who may not ask. Else the token is cut off the path."""
        headers = Headers(scope=scope)
        if not self._host_is_ours(headers.get("host", ""), port):
            return empty(421)
        origin = headers.get("origin")
        if origin in self._origins:
            return _preflight(scope["method"], origin) or self._path_refusal(scope)
        if origin is not None and origin != f"http://{headers['host']}":
            return empty(403)
        if _asked_by_another_site(headers, scope["path"]):
            return empty(403)
        if scope["method"] not in {"GET", "HEAD"}:
            return empty(405, allow="GET, HEAD")
        return self._path_refusal(scope)

    def _host_is_ours(self, host: str, port: int) -> bool:
        """Names that no foreign DNS can point here: DNS rebinding ends at this line."""
        name, colon, asked_port = host.rpartition(":")
        if not colon or asked_port != str(port):
            return False
        if name in {"localhost", "127.0.0.1", "[::1]"} or _STREAM_HOST.fullmatch(name):
            return True
        return self._exposed and (name in self._hosts or _is_address(name))

    def _path_refusal(self, scope: Scope) -> Response | None:
        """Check and cut off the token that begins the path of an exposed gateway."""
        if scope["method"] not in {"GET", "HEAD"}:
            return empty(405, allow="GET, HEAD")
        if not self._token:
            return None
        client, now = scope["client"], trio.current_time()
        if not self._guesses.may_try(client, now=now):
            return empty(429)
        token, _, rest = scope["path"].removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            self._guesses.note(client, now=now)
            return empty(401)
        scope["path"] = "/" + rest
        return None

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        extra = dict(HEADERS)
        origin = Headers(scope=scope).get("origin")
        if origin in self._origins:
            extra |= {"access-control-allow-origin": origin, "vary": "origin"}
            extra["cross-origin-resource-policy"] = "cross-origin"
        raw = [(name.encode(), value.encode()) for name, value in extra.items()]

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *raw]
            await send(message)

        return send_with_headers


class Guesses:
    """How many wrong tokens came from where; the longest silent are forgotten first."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def may_try(self, client: Address | None, *, now: float) -> bool:
        """Whether a token from there is to be looked at."""
        bucket = self._buckets.get(_network(client))
        return bucket is None or bucket.ready_at(now=now) <= now

    def note(self, client: Address | None, *, now: float) -> None:
        """One more was wrong."""
        network = _network(client)
        bucket = self._buckets.pop(network, None) or Bucket(GUESSES_PER_S, GUESSES_BURST)
        bucket.take(now=now)
        self._buckets[network] = bucket
        if len(self._buckets) > GUESSERS_MAX:
            self._buckets.popitem(last=False)


def _network(client: Address | None) -> str:
    """An IPv4 address, or the /64 of an IPv6 one; whoever has gone is one and the same."""
    if client is None:
        return ""
    ip = ipaddress.ip_address(client[0].partition("%")[0])
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network(f"{ip}/64", strict=False))


def _check_exposure(binds: Sequence[str], *, expose: bool, token: str) -> None:
    for bind in binds:
        if not _is_address(bind):
            raise BadConfig(f"{bind!r} is no IP address to listen on.")
    if binds and not expose:
        raise BadConfig(
            f"Listening on {binds[0]} would show the player to other machines.",
            hint="Add --expose if that is what you want, or leave the address out.",
        )
    if binds and len(token) < TOKEN_CHARS_MIN:
        raise BadConfig("An exposed player needs a token.", hint="Let p2pstream make one.")
    if token and not re.fullmatch(r"[A-Za-z0-9_-]+", token, re.ASCII):
        raise BadConfig("A token is letters, digits, - and _ only.")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _preflight(method: str, origin: str) -> Response | None:
    """The answer to a browser that asks whether an allowed site may ask us."""
    if method != "OPTIONS":
        return None
    return empty(
        204,
        access_control_allow_origin=origin,
        access_control_allow_methods="GET, HEAD",
        access_control_allow_private_network="true",
        vary="origin",
    )


def _asked_by_another_site(headers: Headers, path: str) -> bool:
    """Whether a page that is not ours embeds us. Following a link to our page is all right."""
    if headers.get("sec-fetch-site", "none") in {"none", "same-origin"}:
        return False
    followed = headers.get("sec-fetch-mode") == "navigate"
    return not (followed and headers.get("sec-fetch-dest") == "document" and path.endswith("/"))


def empty(status: int, **headers: str) -> Response:
    """An answer that is only a status, and headers (with _ for -)."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status_code=status, headers=HEADERS | named)
