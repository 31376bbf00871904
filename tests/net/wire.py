"""Two connections of aioquic's kind in memory, with a bad path between them, in virtual time."""

from __future__ import annotations

import heapq
import random
from itertools import count
from math import inf
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived, StreamReset

from p2pstream.identity import NodeKey
from p2pstream.net.tls import configuration

CLIENT_KEY, SERVER_KEY = NodeKey(b"c" * 32), NodeKey(b"s" * 32)
SERVER, CLIENT = ("10.0.0.1", 1), ("10.0.0.2", 2)
TICK_S = 1e-3  # As the driver: no timer is finer.
Kind = type[QuicConnection]


class Wire:
    """`run` lets time and datagrams pass. loss, reorder: shares of all datagrams."""

    def __init__(self, client: Kind, server: Kind, *, seed: int = 1, **changes: Any) -> None:
        self.now = 0.0
        self.delay_s, self.loss, self.reorder, self.mtu, self.copies = 0.01, 0.0, 0.0, 1500, 1
        self.sources = [SERVER, CLIENT]  # Where the datagrams to client and server come from.
        self.joined = True  # Whether datagrams that arrive at once come as a train.
        self.rng = random.Random(seed)
        self.received: dict[int, bytearray] = {}
        self.done: dict[int, bytes] = {}
        self.events: list[Any] = []
        self.largest = 0
        self._order = count()
        self._flying: list[tuple[float, int, int, bytes]] = []
        calling = configuration(CLIENT_KEY, dialling=True)
        answering = configuration(SERVER_KEY, dialling=False)
        for config in (calling, answering):
            _change(config, changes)
        self.client: Any = client(configuration=calling)
        self.client.connect(SERVER, now=0.0)
        self.server: Any = server(
            configuration=answering,
            original_destination_connection_id=self.client.original_destination_connection_id,
        )
        self.ends = self.client, self.server
        self.run(0.2)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            for number, one in enumerate(self.ends):
                self._serve(number, one)
            times = [one.get_timer() or inf for one in self.ends if one._network_paths]
            at = min([*times, self._flying[0][0] if self._flying else inf])
            self.now = min(end, max(at, self.now + TICK_S))
            self._deliver()

    def send(self, data: bytes, end: int = 0) -> int:
        """A parcel; returns its stream."""
        one = self.ends[end]
        stream_id: int = one.get_next_available_stream_id(is_unidirectional=True)
        one.send_stream_data(stream_id, data, end_stream=True)
        return stream_id

    def _serve(self, number: int, one: Any) -> None:
        if not one._network_paths:
            return
        timer = one.get_timer()
        if timer is not None and timer <= self.now:
            one.handle_timer(self.now)
        for data, _ in one.datagrams_to_send(self.now):
            self.largest = max(self.largest, len(data))
            for _ in range(self.copies):
                if len(data) > self.mtu - 28 or self.rng.random() < self.loss:
                    continue
                late = self.rng.uniform(0.002, 0.01) if self.rng.random() < self.reorder else 0.0
                at = self.now + self.delay_s + late
                heapq.heappush(self._flying, (at, next(self._order), 1 - number, data))
        while (event := one.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, StreamDataReceived):
                self._take(event)
            elif isinstance(event, StreamReset):
                self.received.pop(event.stream_id, None)

    def _take(self, event: StreamDataReceived) -> None:
        self.received.setdefault(event.stream_id, bytearray()).extend(event.data)
        if event.end_stream:
            assert event.stream_id not in self.done, "told twice"
            self.done[event.stream_id] = bytes(self.received.pop(event.stream_id))

    def _deliver(self) -> None:
        arrived: tuple[list[bytes], list[bytes]] = ([], [])
        while self._flying and self._flying[0][0] <= self.now:
            _, _, number, data = heapq.heappop(self._flying)
            arrived[number].append(data)
        for number, one in enumerate(self.ends):
            source = self.sources[number]
            for train in _trains(arrived[number]) if self.joined else map(_single, arrived[number]):
                if hasattr(one, "receive_train"):
                    one.receive_train(b"".join(train), len(train[0]), source, self.now)
                    continue
                for data in train:
                    one.receive_datagram(data, source, self.now)


def _single(data: bytes) -> list[bytes]:
    return [data]


def _trains(datagrams: list[bytes]) -> list[list[bytes]]:
    """As the kernel joins them: of one length but for the last, and only short headers."""
    out: list[list[bytes]] = []
    for data in datagrams:
        last = out[-1] if out else None
        if (
            last is not None
            and data[0] < 0x80
            and last[0][0] < 0x80
            and len(last[-1]) == len(last[0]) >= len(data)
            and last[0][1:9] == data[1:9]
        ):
            last.append(data)
        else:
            out.append([data])
    return out


def _change(config: QuicConfiguration, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        setattr(config, name, value)
