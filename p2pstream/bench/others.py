"""Other people's transports, measured like ours: qh3, and libtorrent's uTP with encryption.

They come with the extra [bench]. Where one is not installed, or does not run, its column is empty.
qh3 gets our socket, its trains included, and does the work of our links: pieces with their headers,
packed, put together and read by our codec. libtorrent has its own socket, and hashes and stores
what it gets besides. Each end is a process of its own, with the words of `processes`.
"""

from __future__ import annotations

import random
import ssl
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from p2pstream.bench.pieces import pieces
from p2pstream.bench.telling import HOST, LINK_S, Setup, cost, line, say, since
from p2pstream.core import Parcel
from p2pstream.net.endpoint import BURST
from p2pstream.net.mtu import ETHERNET_BYTES
from p2pstream.net.udp import Udp, joined, open_udp
from p2pstream.swarm import messages as m
from p2pstream.wire.codec import LENGTH_BYTES, Codec

ALPN = "bench"
WINDOW_BYTES = 16 << 20  # facts/quic.md 8.5.
QUEUE_BYTES = 256 * 1024  # What waits in qh3's connection; facts/quic.md 2b.
STREAMS_MAX = 64  # Pieces at once, as ours.
TORRENT_PIECE_BYTES = 256 * 1024  # facts/quic.md 5.
POLL_S = 0.02
STUCK_S = 5.0  # In some rounds qh3 sends nothing any more, without an error. Wild guess.


def installed(name: str) -> bool:
    """Whether there is a package to measure."""
    return find_spec(name) is not None


async def qh3_receive(setup: Setup) -> None:
    """A qh3 server that takes what it is sent; as `processes.receive`."""
    async with trio.open_nursery() as nursery:
        end = await _Qh3.open(setup)
        nursery.start_soon(end.run)
        say({"peer": ("", end.udp.address[1])})
        began = cost()
        while await line():
            say(since(began, end.got))
        nursery.cancel_scope.cancel()


async def qh3_send(setup: Setup) -> None:
    """A qh3 client that sends pieces, each on a stream of its own; as `processes.send`."""
    async with trio.open_nursery() as nursery:
        end = await _Qh3.open(setup)
        end.dial(setup.peer[1])
        nursery.start_soon(end.run)
        with trio.fail_after(LINK_S):
            await end.up.wait()
        say({})
        while await line():
            began = cost()
            if not (gone := await end.give(setup.bytes)):
                break
            say(since(began, gone))
        nursery.cancel_scope.cancel()


class _Qh3:
    """One connection of qh3 on a socket of ours."""

    def __init__(self, udp: Udp, piece: Callable[[int], Parcel]) -> None:
        self.udp = udp
        self.got = self.left = 0
        self.up = trio.Event()
        self.one: Any = None
        self._nap = trio.CancelScope()
        self._lib = import_module("qh3.quic.connection")
        self._events = import_module("qh3.quic.events")
        self._settings = import_module("qh3.quic.configuration").QuicConfiguration
        self._codec = Codec(m.Piece)
        self._piece = piece
        self._next = 0
        self._parts: dict[int, list[bytes]] = {}  # By stream.

    @classmethod
    async def open(cls, setup: Setup) -> _Qh3:
        return cls(await open_udp(HOST, 0), pieces(setup))

    def dial(self, port: int) -> None:
        self.one = self._lib.QuicConnection(configuration=self._configuration(dialling=True))
        self.one.connect((HOST, port), now=trio.current_time())

    async def give(self, size: int) -> int:
        """Send so many bytes, in whole pieces; returns how many, when all have left, or 0."""
        self.left = size
        self._nap.cancel()
        with trio.move_on_after(STUCK_S) as scope:
            while self.left > 0 or self.one.get_send_buffer_size():  # noqa: ASYNC110  # No event.
                await trio.sleep(POLL_S)
        return 0 if scope.cancelled_caught else size - self.left

    async def run(self) -> None:
        """Carry datagrams until cancelled."""
        while True:
            now = trio.current_time()
            self._flush(now)
            timer = self.one.get_timer() if self.one else None
            with trio.move_on_at(max(timer, now + 1e-3) if timer else now + LINK_S) as self._nap:
                for data, size, address in await self.udp.receive(BURST):
                    self._take(data, size, address, trio.current_time())
            now = trio.current_time()
            if timer is not None and timer <= now:
                self.one.handle_timer(now)
            self._hear()

    def _take(self, data: bytes, size: int, address: Any, now: float) -> None:
        if self.one is None:
            self.one = self._lib.QuicConnection(
                configuration=self._configuration(dialling=False),
                original_destination_connection_id=data[6 : 6 + data[5]],
            )
        if len(data) > size:
            self.one.receive_gro_buffer(data, size, address, now)
        else:
            self.one.receive_datagram(data, address, now)

    def _hear(self) -> None:
        while self.one is not None and (event := self.one.next_event()) is not None:
            if isinstance(event, self._events.StreamDataReceived):
                self._parts.setdefault(event.stream_id, []).append(event.data)
                if event.end_stream:
                    self.got += len(self._parcel(event.stream_id).body)
            if isinstance(event, self._events.HandshakeCompleted):
                self.up.set()

    def _parcel(self, stream: int) -> Parcel:
        data = b"".join(self._parts.pop(stream))
        start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES])
        return Parcel(self._codec.unpack(data[LENGTH_BYTES:start]), data[start:])

    def _flush(self, now: float) -> None:
        if self.one is None:
            return
        while self.left > 0 and self.one.get_send_buffer_size() < QUEUE_BYTES:
            parcel = self._piece(self._next)
            data = self._codec.frame(parcel.header, parcel.body)
            stream = self.one.get_next_available_stream_id(is_unidirectional=True)
            try:
                self.one.send_stream_data(stream, data, end_stream=True)
            except ValueError:
                break  # The other end allows no more streams yet.
            self._next += 1
            self.left -= len(parcel.body)
        self.udp.send(joined(self.one.datagrams_to_send(now)))

    def _configuration(self, *, dialling: bool) -> Any:
        settings = self._settings(
            is_client=dialling, alpn_protocols=[ALPN], max_datagram_size=ETHERNET_BYTES,
            probe_datagram_size=False, max_data=WINDOW_BYTES, max_stream_data=WINDOW_BYTES,
            verify_mode=ssl.CERT_NONE, server_name="bench",
        )  # fmt: skip
        if not dialling:
            settings.load_cert_chain(*_certificate())
        return settings


def _certificate() -> tuple[bytes, bytes]:
    """One that nobody checks, as PEM, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    pem = serialization.Encoding.PEM
    return builder.sign(key, hashes.SHA256()).public_bytes(pem), key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


async def torrent_send(setup: Setup) -> None:
    """A seed of libtorrent; says what it has cost so far whenever it is asked."""
    with tempfile.TemporaryDirectory(prefix="p2pstream-") as folder:
        path = Path(folder) / "data"
        path.write_bytes(_noise(setup.bytes))
        lt, session = _session()
        session.add_torrent(_torrent(lt, setup.bytes, folder))
        say({"peer": ("", session.listen_port())})
        began = cost()
        while await line():
            say(since(began, 0))


async def torrent_receive(setup: Setup) -> None:
    """A leech of libtorrent. Each line lets it download everything, and says what that cost."""
    lt, session = _session()
    say({})
    while await line():
        with tempfile.TemporaryDirectory(prefix="p2pstream-") as folder:
            torrent = session.add_torrent(_torrent(lt, setup.bytes, folder))
            began = cost()
            torrent.connect_peer((HOST, setup.peer[1]))
            with trio.fail_after(LINK_S):
                while not torrent.status().is_seeding:  # noqa: ASYNC110  # It has no event for us.
                    await trio.sleep(POLL_S)
            say(since(began, setup.bytes))
            session.remove_torrent(torrent)


def _session() -> tuple[Any, Any]:
    lt = import_module("libtorrent")
    quiet = dict.fromkeys(
        ("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp", "enable_outgoing_tcp",
         "enable_incoming_tcp"), False,
    )  # fmt: skip
    encrypted = {"in_enc_policy": 0, "out_enc_policy": 0, "allowed_enc_level": 2}
    return lt, lt.session({"listen_interfaces": f"{HOST}:0", **quiet, **encrypted})


def _torrent(lt: Any, size: int, folder: str) -> Any:
    """What both ends know of the data, which is the same everywhere."""
    files = lt.file_storage()
    files.add_file("data", size)
    made = lt.create_torrent(files, TORRENT_PIECE_BYTES, lt.create_torrent.v1_only)
    data = _noise(size)
    for index in range(made.num_pieces()):
        start = index * TORRENT_PIECE_BYTES
        piece = data[start : start + TORRENT_PIECE_BYTES]
        made.set_hash(index, sha1(piece).digest())  # noqa: S324  # BitTorrent's.
    what = lt.add_torrent_params()
    what.ti = lt.torrent_info(made.generate())
    what.save_path = folder
    return what


def _noise(size: int) -> bytes:
    return random.Random(1).randbytes(size)  # noqa: S311  # Not a secret.


OTHERS = {
    "qh3_receive": qh3_receive, "qh3_send": qh3_send,
    "torrent_receive": torrent_receive, "torrent_send": torrent_send,
}  # fmt: skip
