"""Our node against QUIC of others, on the wire, as a third one reads it: tshark.

The other end is a connection of aioquic as it is, or of qh3 (Rust) where that is installed; it
speaks our few messages by hand. What passes on loopback is captured and decrypted with its keys.
"""

from __future__ import annotations

import importlib
import json
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import pytest
import trio
from cryptography.hazmat.primitives import serialization as form

from p2pstream.core import LinkUp, Parcel
from p2pstream.identity import Address, NodeKey
from p2pstream.net import tls
from p2pstream.net.link import Hello
from p2pstream.wire.codec import Codec, frame
from p2pstream.wire.frame import Unframer
from tests.quic.virtual import Node, Say, parcel

PATIENCE_S = 20
KEY = NodeKey(b"o" * 32)
CODEC = Codec(Hello, Say)
NOTE = 0x400000  # Wireshark's PI_NOTE: padding and repetitions are worth one. Above: warnings.
MARK = b"this is no QUIC, but shows that the capture runs"
PARCELS = 8
FIELDS = {
    "alpn": "tls.handshake.extensions_alpn_str",
    "version": "quic.version",
    "frame": "quic.frame_type",
    "certificate": "tls.handshake.certificate_length",
    "stream": "quic.stream_data",
    "odd": "_ws.expert.severity",
}


class Other:
    """A connection of another make on a socket of its own, and all that its streams brought."""

    def __init__(self, stack: str, folder: Path, *, calls: bool) -> None:
        self.peer = Node(int.from_bytes(KEY.seed))  # As our node sees it.
        self._stack = stack
        self._folder = folder
        self._secrets = (folder / "secrets").open("w", buffering=1)
        self.connection: Any = None
        self.streams: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self._socket = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
        self._calls = calls

    @property
    def configuration(self) -> Any:
        """Its QUIC as it comes, but for who it is, what it speaks and where its secrets go."""
        quic = importlib.import_module(f"{self._stack}.quic.configuration")
        certificate, key = self._folder / "certificate.pem", self._folder / "key.pem"
        certificate.write_bytes(tls.certificate(KEY).public_bytes(form.Encoding.PEM))
        key.write_bytes(
            tls._private_key(KEY).private_bytes(
                form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
            )
        )
        made = quic.QuicConfiguration(
            is_client=self._calls, alpn_protocols=[tls.ALPN], verify_mode=0,
            secrets_log_file=self._secrets,
        )  # fmt: skip
        if self._stack == "qh3":
            made.signature_algorithms = [0x0807]  # Ed25519 (RFC 8446 4.2.3): not by itself.
        made.load_cert_chain(certificate, key)
        return made

    @property
    def address(self) -> Address:
        host, port = self._socket.getsockname()
        return host, port

    async def bind(self) -> None:
        await self._socket.bind(("127.0.0.1", 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._secrets.close()

    def call(self, address: Address) -> None:
        self.connection = self._make()
        self.connection.connect(address, now=trio.current_time())

    async def run(self) -> None:
        """Carry datagrams until cancelled."""
        while True:
            timer = self.connection.get_timer() if self.connection else None
            with trio.move_on_at(min(timer or 1e9, trio.current_time() + 0.05)):
                data, address = await self._socket.recvfrom(65536)
                if self.connection is None:
                    self.connection = self._make(data[6 : 6 + data[5]])
                self.connection.receive_datagram(data, address, trio.current_time())
            if self.connection is not None:
                await self._turn()

    def say(self, *messages: Hello | Say) -> None:
        """On the control stream."""
        self.connection.send_stream_data(0, b"".join(frame(CODEC.pack(m)) for m in messages))

    def send(self, what: Parcel) -> None:
        stream = self.connection.get_next_available_stream_id(is_unidirectional=True)
        data = frame(CODEC.pack(what.header)) + what.body
        self.connection.send_stream_data(stream, data, end_stream=True)

    def heard(self) -> list[Any]:
        """The messages on the control stream so far."""
        return [CODEC.unpack(body) for body in Unframer().feed(bytes(self.streams.get(0, b"")))]

    def _make(self, cid: bytes | None = None) -> Any:
        quic = importlib.import_module(f"{self._stack}.quic.connection")
        named = {} if cid is None else {"original_destination_connection_id": cid}
        return quic.QuicConnection(configuration=self.configuration, **named)

    async def _turn(self) -> None:
        now = trio.current_time()
        timer = self.connection.get_timer()
        if timer is not None and timer <= now:
            self.connection.handle_timer(now)
        while (event := self.connection.next_event()) is not None:
            if type(event).__name__ == "StreamDataReceived":
                self.streams.setdefault(event.stream_id, bytearray()).extend(event.data)
                if event.end_stream:
                    self.ended.add(event.stream_id)
        for data, address in self.connection.datagrams_to_send(now):
            await self._socket.sendto(data, address)


# Not qh3 2.1 as a server: it raises "packet builder capacity exhausted" before it ever answers, to
# aioquic as it is always and to us sometimes.
NEEDS_QH3 = pytest.mark.skipif(
    find_spec("qh3") is None, reason="not here: qh3 is not installed (extra [bench])"
)


@pytest.mark.parametrize(
    ("stack", "calls"),
    [("aioquic", True), ("aioquic", False), pytest.param("qh3", True, marks=NEEDS_QH3)],
    ids=["aioquic calls", "we call aioquic", "qh3 calls"],
)
async def test_another_quic_understands_ours(
    nursery: trio.Nursery, tmp_path: Path, tool: Callable[[str], str], stack: str, calls: bool
) -> None:
    tshark, dumpcap = tool("tshark"), tool("dumpcap")
    node = Node(1, ip="127.0.0.1")
    await nursery.start(node.carrier.run)
    udp, address = node.carrier._endpoint._udp, node.carrier.address
    assert udp is not None
    udp.sends_trains = False  # A capture on loopback shows trains as they left us: joined.
    with Other(stack, tmp_path, calls=calls) as other:
        await other.bind()
        async with captured(dumpcap, tmp_path / "wire", address):
            nursery.start_soon(other.run)
            await converse(node, other, calls=calls)
        nursery.cancel_scope.cancel()
    check(dissected(tshark, tmp_path, address[1]))


async def converse(node: Node, other: Other, *, calls: bool) -> None:
    """A Hello, a message and some parcels both ways, byte for byte."""
    if calls:
        other.call(node.carrier.address)
    else:
        node.dial(other.peer, other.address)
        await until(other.heard)
    other.say(Hello("other", *node.carrier.address), Say(7, "from elsewhere"))
    await until(lambda: node.of(LinkUp) and node.of(Say))
    sent = [parcel(number) for number in range(PARCELS)]
    for one in sent:
        other.send(one)
        node.send(other.peer, one)
    node.send(other.peer, Say(8, "to elsewhere"))
    await until(lambda: len(node.of(Parcel)) == PARCELS == len(other.ended))
    await until(lambda: Say(8, "to elsewhere") in other.heard())
    assert sorted(node.of(Parcel), key=lambda one: one.header.number) == sent
    brought = [bytes(other.streams[stream]) for stream in sorted(other.ended)]
    assert sorted(brought) == sorted(frame(CODEC.pack(one.header)) + one.body for one in sent)
    assert node.downs == []
    node.carrier.close()
    await trio.sleep(0.05)  # For the good-bye to be in the capture.


@asynccontextmanager
async def captured(dumpcap: str, file: Path, address: Address) -> AsyncIterator[None]:
    """Have what passes `address` written to `file`, from beginning to end."""
    command = [dumpcap, "-q", "-i", "lo", "-f", f"udp port {address[1]}", "-w", str(file)]
    async with trio.open_nursery() as nursery:
        running: trio.Process = await nursery.start(
            partial(trio.run_process, command, capture_stderr=True, check=False)
        )
        await marked(running, file, address, 1)
        yield
        await marked(running, file, address, marks(file) + 1)
        running.send_signal(signal.SIGINT)


async def marked(running: trio.Process, file: Path, address: Address, count: int) -> None:
    """Wait until what is sent now is in `file`."""
    with trio.fail_after(PATIENCE_S), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as loose:
        while marks(file) < count:
            if running.poll() is not None:
                pytest.skip("not here: dumpcap may not capture on loopback")
            loose.sendto(MARK, address)
            await trio.sleep(0.05)


def marks(file: Path) -> int:
    return file.read_bytes().count(MARK) if file.exists() else 0


def dissected(tshark: str, folder: Path, port: int) -> list[dict[str, list[str]]]:
    """Of each packet the `FIELDS`, by an implementation that is nobody's here."""
    command = [
        tshark, "-r", str(folder / "wire"), "-o", f"tls.keylog_file:{folder / 'secrets'}",
        "-d", f"udp.port=={port},quic", "-Y", f"not udp contains {MARK[:12].hex(':')}",
        "-T", "json", *(part for field in FIELDS.values() for part in ("-e", field)),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True)
    layers = [packet["_source"]["layers"] for packet in json.loads(done.stdout)]
    return [{name: layer.get(field, []) for name, field in FIELDS.items()} for layer in layers]


def check(packets: list[dict[str, list[str]]]) -> None:
    """All is decrypted and understood, and nothing in it is odd."""
    assert all(packet["frame"] for packet in packets)
    seen = {name: {value for packet in packets for value in packet[name]} for name in FIELDS}
    assert seen["version"] == {"0x00000001"}
    assert seen["alpn"] == {tls.ALPN}
    assert max(map(int, seen["odd"]), default=0) <= NOTE
    assert {2, 6, 0x1D, 0x1E} <= {int(kind) for kind in seen["frame"]}  # RFC 9000 19.
    streams = "".join(value for packet in packets for value in packet["stream"])
    for text in (b"from elsewhere", b"to elsewhere"):
        assert text.hex() in streams.replace(":", "")


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # Conditions here are of many kinds.
            await trio.sleep(0.005)
