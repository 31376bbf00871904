"""One UDP socket, made through trio so that a test can put a virtual network below it.

A socket of the kernel is read and written without blocking through a second handle on it: trio's
own methods cost a checkpoint for each datagram. A virtual socket may offer the same by two
methods, `recv_nowait() -> (data, address) | None` and `sendto_nowait(data, address)`; without them
trio's `recvfrom` and `sendto` are used.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import trio

from p2pstream.errors import PortInUse
from p2pstream.identity import Address

BUFFER_BYTES = 4 << 20  # facts/quic.md 3: 208 KB costs 12-18 % CPU and 0.4 % retransmits.
RECEIVE_BYTES_MAX = 65_535  # The longest UDP datagram.

Datagram = tuple[bytes, Address]


class Udp:
    """A bound socket. `unsent` counts datagrams that the system refused: they count as lost."""

    def __init__(self, endpoint: trio.socket.SocketType) -> None:
        self._socket = endpoint
        self._kernel = _second_handle(endpoint)
        self._receive_nowait: Callable[[], Any] | None = getattr(endpoint, "recv_nowait", None)
        self._send_nowait: Callable[[bytes, Address], Any] | None
        self._send_nowait = (
            self._kernel.sendto if self._kernel else getattr(endpoint, "sendto_nowait", None)
        )
        self._outbox: deque[Datagram] = deque()
        self._buffer = bytearray(RECEIVE_BYTES_MAX)
        self._view = memoryview(self._buffer)
        self.unsent = 0

    @property
    def address(self) -> Address:
        """Where the socket is bound."""
        host, port, *_ = self._socket.getsockname()
        return host, port

    async def receive(self, most: int) -> list[Datagram]:
        """Wait for datagrams; all that have arrived, at most `most`, perhaps none."""
        if self._kernel:
            await trio.lowlevel.wait_readable(self._kernel)
            return self._drain_kernel(self._kernel, most)
        out = [_datagram(*await self._socket.recvfrom(RECEIVE_BYTES_MAX))]
        if self._receive_nowait:
            while len(out) < most and (got := self._receive_nowait()) is not None:
                out.append(_datagram(*got))
        return out

    def send(self, data: bytes, address: Address) -> None:
        """Send, or lose it: UDP promises nothing, and QUIC sends again what matters."""
        if self._send_nowait is None:
            self._outbox.append((data, address))
            return
        try:
            self._send_nowait(data, address)
        except OSError:  # ENOBUFS, EMSGSIZE, ENETUNREACH, ECONNREFUSED, EAGAIN, ...
            self.unsent += 1

    async def flush(self) -> None:
        """Send what `send` could only put aside."""
        while self._outbox:
            data, address = self._outbox.popleft()
            try:
                await self._socket.sendto(data, address)
            except OSError:
                self.unsent += 1

    def close(self) -> None:
        if self._kernel:
            self._kernel.close()
        self._socket.close()

    def _drain_kernel(self, kernel: socket.socket, most: int) -> list[Datagram]:
        out: list[Datagram] = []
        for _ in range(most):
            try:
                size, address = kernel.recvfrom_into(self._buffer)
            except BlockingIOError:
                break
            except OSError:
                continue  # An ICMP error about something sent earlier; reading it clears it.
            out.append((bytes(self._view[:size]), address[:2]))
        return out


async def open_udp(host: str, port: int) -> Udp:
    """A socket bound to `host` (an IP address) and `port` (0: any). Raises `PortInUse`."""
    version = ip_address(host).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    endpoint = trio.socket.socket(family, socket.SOCK_DGRAM)
    try:
        # Best effort: the system caps them, and a virtual socket has none.
        with suppress(OSError, NotImplementedError):
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        if version == 6:
            endpoint.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await endpoint.bind((host, port))
    except OSError as error:
        endpoint.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise PortInUse(
            f"UDP port {port} is in use", hint="stop the other program, or choose another port"
        ) from error
    return Udp(endpoint)


def _second_handle(endpoint: trio.socket.SocketType) -> socket.socket | None:
    try:
        number = endpoint.fileno()
    except (AttributeError, NotImplementedError):
        return None
    if number < 0:
        return None
    handle = socket.socket(fileno=os.dup(number))
    handle.setblocking(False)
    return handle


def _datagram(data: bytes, address: tuple[Any, ...]) -> Datagram:
    return data, (address[0], address[1])
