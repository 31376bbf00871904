"""One UDP socket, made through trio so that a test can put a virtual network below it.

A socket of the kernel is read and written without blocking through a second handle on it: trio's
own methods cost a checkpoint for each datagram. Where the kernel can, datagrams of one length for
one address cross the border to it as a train, many in one call (udp(7): UDP_SEGMENT, UDP_GRO). A
virtual socket may offer two methods, `recv_nowait() -> (data, address) | None` and
`sendto_nowait(data, address)`; without them trio's `recvfrom` and `sendto` are used.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import trio

from p2pstream.errors import PortInUse
from p2pstream.identity import Address

BUFFER_BYTES = 4 << 20  # facts/quic.md 3: 208 KB costs 12-18 % CPU and 0.4 % retransmits.
RECEIVE_BYTES_MAX = 65_535  # The longest UDP datagram.

TRAIN_MAX = 64  # Linux: UDP_MAX_SEGMENTS, of the oldest kernels that have it.
TRAIN_BYTES_MAX = 65_000  # An IP packet of 65,535 bytes, less all headers there may be.

# <linux/udp.h>, <linux/in.h>, <linux/in6.h>; Python's `socket` does not have them.
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_SEGMENT = struct.Struct("H")
_GRO_SPACE = socket.CMSG_SPACE(4)
# What the kernel says of a train that would do as single datagrams: a network card that computes no
# checksums (EIO); a path that is too narrow (EINVAL, EMSGSIZE).
_TRAIN_REFUSED = {errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP}

Datagram = tuple[bytes, Address]
# Datagrams of one length from one address, joined; the last one may be shorter.
Train = tuple[bytes, int, Address]


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
        self.sends_trains = bool(self._kernel and _switch(self._kernel, _SOL_UDP, _UDP_SEGMENT, 0))
        self.receives_trains = bool(self._kernel and _switch(self._kernel, _SOL_UDP, _UDP_GRO, 1))

    @property
    def address(self) -> Address:
        """Where the socket is bound."""
        host, port, *_ = self._socket.getsockname()
        return host, port

    async def receive(self, most: int) -> Iterable[Train]:
        """Wait for datagrams; what has arrived, about `most` of them, perhaps none.

        Each train is read when it is asked for: what its reader does with it finds it in the cache.
        """
        if self._kernel:
            await trio.lowlevel.wait_readable(self._kernel)
            return self._drain_kernel(self._kernel, most)
        out = [_alone(*await self._socket.recvfrom(RECEIVE_BYTES_MAX))]
        if self._receive_nowait:
            while len(out) < most and (got := self._receive_nowait()) is not None:
                out.append(_alone(*got))
        return out

    def send(self, trains: Sequence[Train]) -> None:
        """Send, or lose them: UDP promises nothing, and QUIC sends again what matters."""
        for train in trains:
            if len(train[0]) > train[1]:
                self._send_train(*train)
            else:
                self._send_one(train[0], train[2])

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

    def _send_one(self, data: bytes, address: Address) -> bool:
        if self._send_nowait is None:
            self._outbox.append((data, address))
            return True
        try:
            self._send_nowait(data, address)
        except OSError:  # ENOBUFS, EMSGSIZE, ENETUNREACH, ECONNREFUSED, EAGAIN, ...
            self.unsent += 1
            return False
        return True

    def _send_train(self, data: bytes, size: int, address: Address) -> None:
        if not self.sends_trains:
            self._send_singly(data, size, address)
            return
        assert self._kernel is not None, "it sends trains"
        length = [(_SOL_UDP, _UDP_SEGMENT, _SEGMENT.pack(size))]
        try:
            self._kernel.sendmsg([data], length, 0, address)
        except OSError as error:
            if error.errno in _TRAIN_REFUSED:
                # If the kernel takes single datagrams, trains are what it dislikes.
                self.sends_trains = not self._send_singly(data, size, address)
            else:
                self.unsent += -(-len(data) // size)

    def _send_singly(self, data: bytes, size: int, address: Address) -> bool:
        """Returns whether the system took all."""
        sent = [self._send_one(data[at : at + size], address) for at in range(0, len(data), size)]
        return all(sent)

    def _drain_kernel(self, kernel: socket.socket, most: int) -> Iterator[Train]:
        buffers = [self._buffer]
        count = 0
        while count < most:
            try:
                size, extras, _, address = kernel.recvmsg_into(buffers, _GRO_SPACE)
            except BlockingIOError:
                break
            except OSError:
                count += 1  # An ICMP error about something sent earlier; reading it clears it.
                continue
            segment = int.from_bytes(extras[0][2][:2], "little") if extras else size
            count += -(-size // segment) if segment else 1
            yield bytes(self._view[:size]), min(segment, size), address[:2]


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
            _forbid_fragments(endpoint, version)
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


def joined(datagrams: Sequence[Datagram]) -> list[Train]:
    """Trains of what may travel together: one address, one length but for the last."""
    out: list[Train] = []
    start = 0
    while start < len(datagrams):
        stop = train_end(datagrams, start)
        data, address = datagrams[start]
        train = b"".join([part for part, _ in datagrams[start:stop]])
        out.append((train, max(1, len(data)), address))
        start = stop
    return out


def train_end(datagrams: Sequence[Datagram], start: int) -> int:
    """Where the train that begins at `start` ends: one address, one length but for the last."""
    data, address = datagrams[start]
    size = len(data)
    most = min(len(datagrams), start + max(1, min(TRAIN_MAX, TRAIN_BYTES_MAX // max(size, 1))))
    stop = start + 1
    while stop < most and datagrams[stop][1] == address and len(datagrams[stop][0]) <= size:
        stop += 1
        if len(datagrams[stop - 1][0]) < size:
            break
    return stop


def _forbid_fragments(endpoint: trio.socket.SocketType, version: int) -> None:
    """RFC 9000 14: QUIC is never fragmented; `mtu.py` finds out what passes."""
    if version == 4:
        endpoint.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
    else:
        endpoint.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)


def _switch(kernel: socket.socket, level: int, option: int, value: int) -> bool:
    try:
        kernel.setsockopt(level, option, value)
    except OSError:
        return False
    return True


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


def _alone(data: bytes, address: tuple[Any, ...]) -> Train:
    return data, len(data), (address[0], address[1])
