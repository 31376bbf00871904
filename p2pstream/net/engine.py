"""aioquic's connection, hardened for strangers, and with datagrams as long as the path carries.

Invariants that the stock connection does not keep (security/architecture.md, "Known holes"):
a peer must show a certificate with an Ed25519 key; it cannot make us hold more than the windows of
`tls.py`, nor more than 16 KiB of an unfinished TLS message; it cannot acknowledge what was never
sent, nor for long what it has not received. Only this file, `short.py` and
`fast.py` use private names of aioquic; `names.py` lists and checks them.
"""
# ruff: noqa: SLF001  # Which is what this file is for.

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.congestion.base import K_INITIAL_WINDOW, K_MINIMUM_WINDOW
from aioquic.quic.connection import (
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.crypto import CryptoPair, apply_key_phase, next_key_phase
from aioquic.quic.events import ConnectionTerminated, QuicEvent
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicHeader, QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from cryptography import x509

from p2pstream.identity import Address, secret_bytes
from p2pstream.net import names as names  # noqa: PLC0414  # Its check comes first.
from p2pstream.net.mtu import INTERNET_SIZES, PathSize, sizes_to
from p2pstream.net.recovery import Recovery, adopt
from p2pstream.net.tls import (
    CERTIFICATE_BYTES_MAX,
    CONNECTION_WINDOW_BYTES,
    DATAGRAM_BYTES,
    STREAM_WINDOW_BYTES,
)
from p2pstream.net.udp import Train, joined

TLS_MESSAGE_BYTES_MAX = 16 * 1024  # security/architecture.md 5.3; ours have at most 1 KB.
INCOMING_PARCELS_MAX = 64  # Open at once: at 16 KiB each 1 MiB in a round trip, 20 MB/s at 50 ms.
# One parcel and room to spare, so that all open ones together stay within the connection's window.
PARCEL_WINDOW_BYTES = CONNECTION_WINDOW_BYTES // INCOMING_PARCELS_MAX
# Parcels in it and not acknowledged: each open stream adds 0.4 us to every packet (facts/quic.md
# 2a, 8.4). 40 Mbit/s at 50 ms.
FEED_BYTES_MAX = 256 * 1024
# One packet number of about so many is left out, so that who acknowledges what it has not received,
# to be sent more than its path carries, is found out (RFC 9000 21.4). Each costs the peer a range
# in some ACKs; at 6 Mbit/s it is one in two seconds. Wild guess.
LEFT_OUT_MIN, LEFT_OUT_SPAN = 512, 1024
CONTROL_STREAM = 0  # The first stream that the dialler opens, used both ways.
RTT_S_UNKNOWN = 0.1  # aioquic's `initial_rtt`.

# aioquic warns about every fault of a peer: strangers could fill our log. Ours says it once.
logging.getLogger("quic").setLevel(logging.CRITICAL)


class Engine(QuicConnection):
    """A QUIC connection that keeps the invariants above, and says what `Link` must know."""

    recovery = Recovery
    jumbo = True  # Whether to try what only a network of this machine carries.

    def __init__(self, *, configuration: QuicConfiguration, **others: Any) -> None:
        super().__init__(configuration=configuration, **others)
        self._local_max_stream_data_uni = PARCEL_WINDOW_BYTES
        # Only the dialler opens a bidirectional stream, and only one.
        _fix(self._local_max_streams_bidi, 0 if configuration.is_client else 1)
        _fix(self._local_max_streams_uni, INCOMING_PARCELS_MAX)
        adopt(
            self._loss,
            self.recovery,
            on_long_loss=self._on_long_loss,
            datagram_bytes=DATAGRAM_BYTES,
        )
        self._recovery: Any = self._loss
        self._sized: Address | None = None  # The address that `_path_size` is about.
        self._path_size = PathSize(())
        self._now = 0.0
        self._leave_out_at = 0

    def dissolve(self) -> None:
        """Free what the connection holds: it is over, and nobody asks it anything any more.

        Its parts refer to each other in circles, so without this they would stay until Python
        looks for such: 24 MiB after 200 s of a flood of strangers (S-01), and 0.4 MiB with it. What
        was sent knows what to do when it arrives, and so all that this concerns: 70 MiB with S-06.
        """
        for space in self._spaces.values():
            space.sent_packets.clear()
        vars(self).clear()

    # What the link may know.

    @property
    def peer_certificates(self) -> Sequence[x509.Certificate]:
        """What the peer has shown; it holds the key of the first one once handshaken."""
        first = self.tls._peer_certificate
        return [] if first is None else [first, *self.tls._peer_certificate_chain]

    @property
    def ended(self) -> ConnectionTerminated | None:
        """Why the connection ended, known at once (aioquic's event waits until it has drained)."""
        return self._close_event

    @property
    def heard(self) -> bool:
        """Whether the peer has proven to be more than a spoofed address: a packet was readable."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def rtt_s(self) -> float:
        """Smoothed round-trip time in seconds."""
        return self._loss._rtt_smoothed if self._loss._rtt_initialized else RTT_S_UNKNOWN

    @property
    def can_open_parcel(self) -> bool:
        """Whether the peer allows us one more unidirectional stream now."""
        return self._local_next_stream_id_uni // 4 < self._remote_max_streams_uni

    @property
    def unsent_bytes(self) -> int:
        """Bytes of parcels not sent even once."""
        return sum(stream.sender._buffer_stop - stream.sender.highest_offset
                   for stream in self._parcels())  # fmt: skip

    @property
    def may_be_fed(self) -> bool:
        """Whether one more parcel would leave soon."""
        if not self.can_open_parcel:
            return False
        unacked = sum(stream.sender._buffer_stop - stream.sender._buffer_start
                      for stream in self._parcels())  # fmt: skip
        return unacked < FEED_BYTES_MAX

    def sendable_bytes(self, now: float) -> int:  # noqa: ARG002  # `FastEngine` knows.
        """What of parcels would leave at once, if it were fed; 0 where nobody knows."""
        return 0

    def _parcels(self) -> list[QuicStream]:
        """Ours, on their way out."""
        return [
            stream
            for stream in self._streams.values()
            if not stream.max_stream_data_local
            and not stream.sender.is_finished
            and stream.sender._reset_error_code is None
        ]

    def outstanding(self, stream_id: int) -> tuple[int, int] | None:
        """Bytes of a stream of ours not sent even once, and not acknowledged; None when done."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.sender.is_finished:
            return None
        sender = stream.sender
        end = sender._buffer_stop
        return end - sender.highest_offset, end - sender._buffer_start

    def owes(self, stream_id: int) -> bool:
        """Whether bytes of a stream of ours are to be sent, or sent again."""
        stream = self._streams.get(stream_id)
        return stream is not None and not stream.sender.buffer_is_empty

    def knows(self, stream_id: int) -> bool:
        """Whether a stream is open, in either direction."""
        return stream_id in self._streams

    # Datagrams.

    def receive_train(self, data: bytes, size: int, address: Address, now: float) -> None:
        """Take datagrams from one address, joined: each `size` long, the last one perhaps less."""
        for at in range(0, len(data), size):
            self.receive_datagram(data[at : at + size], address, now)

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """Take a datagram. The peer may have moved (RFC 9000 9.3), whichever of us has dialled."""
        was = self._network_paths[:1]
        if not self._is_client or not self._handshake_confirmed or addr == was[0].addr:
            super().receive_datagram(data, addr, now)
        else:
            self._receive_from_elsewhere(data, addr, now)
        if was and self._network_paths[0] is not was[0]:
            self._probe_pending = True  # RFC 9000 8.2: the window must not delay the challenge.
            self._resize()

    def _receive_from_elsewhere(self, data: bytes, addr: Any, now: float) -> None:
        """What aioquic does for a client that moved, and refuses to do for a server.

        In a mesh whoever is dialled may be behind a NAT too. aioquic then validates the path and
        keeps within three times of what has come from there.
        """
        space = self._spaces[tls.Epoch.ONE_RTT]
        newest = space.largest_received_packet
        path = self._find_network_path(addr)
        if path not in self._network_paths:
            self._add_network_path(path)
        super().receive_datagram(data, addr, now)
        if path not in self._network_paths:
            return
        self._network_paths.remove(path)
        if space.largest_received_packet > newest:
            path.local_challenge_sent, path.validation_deadline = False, None
            self._network_paths.insert(0, path)
        elif path.is_validated:  # Something late from where the peer was, or is again.
            self._network_paths.append(path)

    def next_event(self) -> QuicEvent | None:
        """What has happened next. aioquic's raises and catches an error when that is nothing."""
        return self._events.popleft() if self._events else None

    def handle_timer(self, now: float) -> None:
        super().handle_timer(now)
        self._path_size.silence(self._loss._pto_count)
        self._resize()

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        if not self._network_paths:
            return []  # Nothing readable has arrived yet: aioquic would raise.
        if self._close_pending and not self._network_paths[0].can_send(DATAGRAM_BYTES):
            return []  # aioquic forgets the three times of RFC 9000 8.1 when it says good-bye.
        self._put_control_first()
        self._leave_one_out()
        out = super().datagrams_to_send(now)
        self._leave_old_paths()
        return out + self._probe_path(now)

    def trains_to_send(self, now: float) -> list[Train]:
        """What `datagrams_to_send` returns, joined where it can travel together."""
        return joined(self.datagrams_to_send(now))

    def _leave_old_paths(self) -> None:
        """Once the peer is proven to be where it is, where it was does not matter."""
        active, *others = self._network_paths
        if others and active.is_validated:
            self._network_paths = [active]
            for path in others:
                if path.peer_cid is not None:
                    self._retire_peer_cid(path.peer_cid)

    def _probe_path(self, now: float) -> list[tuple[bytes, Any]]:
        """A datagram that finds out what the path carries, if it is time (RFC 9000 14.4)."""
        self._now = now
        path = self._network_paths[0]
        if (
            not self._handshake_confirmed
            or not path.is_validated
            or self._close_pending
            or self._state is not QuicConnectionState.CONNECTED
        ):
            return []
        if path.addr != self._sized:
            if self._sized is not None:
                self._recovery.change_path(now=now)  # RFC 9000 9.4.
            self._sized = path.addr
            self._path_size = PathSize(sizes_to(path.addr) if self.jumbo else INTERNET_SIZES)
            self._resize()
        size = self._path_size.probe(now=now)
        return self._probe(size, now) if size else []

    def _probe(self, size: int, now: float) -> list[tuple[bytes, Any]]:
        assert self._version is not None, "connected"
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=size,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            quic_logger=self._quic_logger,
            spin_bit=self._spin_bit,
            version=self._version,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[tls.Epoch.ONE_RTT])
        buf = builder.start_frame(
            QuicFrameType.PING,
            handler=self._on_probe_delivery,
            handler_args=(self._path_size, size),
        )
        buf.push_bytes(bytes(builder.remaining_buffer_space))
        # RFC 9000 14.4: a lost probe says nothing about congestion.
        packet: Any = builder._packet
        packet.in_flight = False
        self._loss._time_of_last_sent_ack_eliciting_packet = now
        self._path_size.sent()
        return self._flush_builder(builder, self._network_paths[0], self._peer_cid.cid, now)

    def _on_probe_delivery(self, fate: QuicDeliveryState, path: PathSize, size: int) -> None:
        if fate is QuicDeliveryState.ACKED:
            path.arrived(size, now=self._now)
        else:
            path.vanished(size, now=self._now)
        self._resize()

    def _on_long_loss(self) -> None:
        self._path_size.doubt(now=self._now)

    def _resize(self) -> None:
        known = bool(self._network_paths) and self._network_paths[0].is_validated
        size = self._path_size.size if known else DATAGRAM_BYTES
        if size == self._max_datagram_size:
            return
        control: Any = self._loss._cc
        self._max_datagram_size = self._loss._pacer._max_datagram_size = size
        control._max_datagram_size = size
        # RFC 9002 7.2: the initial window is a number of datagrams, and so is the smallest one.
        least = (K_INITIAL_WINDOW if control.ssthresh is None else K_MINIMUM_WINDOW) * size
        control.congestion_window = max(control.congestion_window, least)

    # Invariants.

    def _leave_one_out(self) -> None:
        """Skip a packet number now and then, which only who read our packets can know."""
        if self._packet_number < self._leave_out_at or not self._handshake_confirmed:
            return
        if self._leave_out_at:
            self._recovery.never_sent = self._packet_number
            self._packet_number += 1
        dice = int.from_bytes(secret_bytes(4)) % LEFT_OUT_SPAN
        self._leave_out_at = self._packet_number + LEFT_OUT_MIN + dice

    def _probe_preferred_address(self) -> None:
        # RFC 9000 9.6 lets us stay: whom we dialled could name anybody, and we would knock there.
        self._remote_preferred_address = None

    def _put_control_first(self) -> None:
        queue = self._streams_queue
        for at, stream in enumerate(queue):
            if stream.stream_id == CONTROL_STREAM:
                if at:
                    queue.insert(0, queue.pop(at))
                return

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        # aioquic makes both itself, so this is the only way to subclasses of them.
        self._cryptos[tls.Epoch.ONE_RTT].__class__ = _Keys
        self.tls.__class__ = _Tls
        self.tls._signature_algorithms = [tls.SignatureAlgorithm.ED25519]
        # One group: aioquic makes a key pair for each it offers, -25 % of a handshake's CPU.
        self.tls._supported_groups = [tls.Group.X25519]
        self.tls._request_client_certificate = not self._is_client

    def _receive_version_negotiation_packet(self, header: QuicHeader, now: float) -> None:
        # RFC 9000 17.2.1: it repeats both ids, so whoever sent it has seen what we sent.
        if header.source_cid == self._peer_cid.cid:
            super()._receive_version_negotiation_packet(header, now)

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        largest = buf.pull_uint_var()
        buf.seek(start)
        if largest >= self._packet_number:
            raise QuicConnectionError(
                QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "ACK of a packet never sent"
            )
        super()._handle_ack_frame(context, frame_type, buf)

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        self._raise_credit()
        limit = self._local_max_data
        used, limit.used = limit.used, 0  # Nothing used: nothing to double.
        try:
            super()._write_connection_limits(builder, space)
        finally:
            limit.used = used

    def _raise_credit(self) -> None:
        """Credit is what the application has taken plus a fixed window; stock aioquic doubles it
        for whoever uses half of it, without end.
        """
        limit = self._local_max_data
        if self._credit_is_due:
            limit.value = limit.used - self._held_bytes() + CONNECTION_WINDOW_BYTES

    @property
    def _credit_is_due(self) -> bool:
        """Whether the peer may be given more, and has used half of what it had."""
        limit = self._local_max_data
        return (
            limit.used + CONNECTION_WINDOW_BYTES // 2 > limit.value
            and limit.used - self._held_bytes() + CONNECTION_WINDOW_BYTES > limit.value
        )

    def _held_bytes(self) -> int:
        """What has come and was not handed to the link."""
        return sum(_held(stream) for stream in self._streams.values())

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        # Called for every open stream for every packet: the usual case must be short.
        if is_credit_due(stream):
            stream.max_stream_data_local = stream.receiver._buffer_start + STREAM_WINDOW_BYTES
        if stream.max_stream_data_local == stream.max_stream_data_local_sent:
            return  # A parcel's window never grows.
        highest, stream.receiver.highest_offset = stream.receiver.highest_offset, 0
        try:
            super()._write_stream_limits(builder, space, stream)
        finally:
            stream.receiver.highest_offset = highest


class _Keys(CryptoPair):
    """Goes on reading with the old keys until the peer writes with the new ones (RFC 9001 6.1).

    aioquic's own drops them when it begins an update. A peer that moves just then never hears of
    the update, and cannot say where it is now: whatever it writes is unreadable.
    """

    @property
    def key_phase(self) -> int:
        """Of what is written."""
        return self.send.key_phase ^ self._update_key_requested

    def update_key(self) -> None:
        """Begin an update with the next packet, unless the peer has yet to follow the last one."""
        self._update_key_requested = not self._is_ahead

    @property
    def _is_ahead(self) -> bool:
        return self.send.key_phase != self.recv.key_phase

    def _update_key(self, trigger: str) -> None:
        was_ahead, self._update_key_requested = self._is_ahead, False
        if trigger == "remote_update":
            apply_key_phase(self.recv, next_key_phase(self.recv), trigger)
        if not was_ahead:
            apply_key_phase(self.send, next_key_phase(self.send), trigger)


class _Tls(tls.Context):
    """Refuses what is too long before it is buffered or parsed."""

    def handle_message(self, input_data: bytes, output_buf: dict[tls.Epoch, Buffer]) -> None:
        head = (self._receive_buffer[:4] + input_data[:4])[:4]
        if len(head) == 4 and int.from_bytes(head[1:]) > TLS_MESSAGE_BYTES_MAX:
            raise tls.AlertDecodeError("handshake message too long")
        super().handle_message(input_data, output_buf)

    def _set_peer_certificate(self, certificate: tls.Certificate) -> None:
        if len(certificate.certificates) != 1:
            raise tls.AlertBadCertificate("certificate_chain")
        if len(certificate.certificates[0][0]) > CERTIFICATE_BYTES_MAX:
            raise tls.AlertBadCertificate("certificate_long")
        try:
            super()._set_peer_certificate(certificate)
        except x509.InvalidVersion:  # Not a `ValueError`, the only one that aioquic expects.
            raise tls.AlertBadCertificate("certificate of an unknown version") from None


def is_credit_due(stream: QuicStream) -> bool:
    """Whether the peer has used half of its window. Only that of the control stream moves."""
    if stream.stream_id != CONTROL_STREAM or stream.receiver.is_finished:
        return False
    window = stream.max_stream_data_local - stream.receiver._buffer_start
    return window <= STREAM_WINDOW_BYTES // 2


def _fix(limit: Any, value: int) -> None:
    limit.value = limit.sent = value


def _held(stream: QuicStream) -> int:
    receiver = stream.receiver
    return 0 if receiver.is_finished else receiver.highest_offset - receiver._buffer_start
