"""aioquic's connection, hardened for strangers. The one file that uses its private names.

Invariants that the stock connection does not keep (security/architecture.md, "Known holes"):
a peer must show a certificate with an Ed25519 key; it cannot make us hold more than the windows of
`tls.py`, nor more than 16 KiB of an unfinished TLS message; it cannot acknowledge what was never
sent. The private names are listed below and checked at import, so that a release of aioquic that
moves one fails at once and loudly.
"""
# ruff: noqa: SLF001  # Which is what this file is for.

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketSpace
from aioquic.quic.stream import QuicStream
from cryptography import x509

from p2pstream.net.tls import (
    CERTIFICATE_BYTES_MAX,
    CONNECTION_WINDOW_BYTES,
    DATAGRAM_BYTES,
    STREAM_WINDOW_BYTES,
)

TLS_MESSAGE_BYTES_MAX = 16 * 1024  # security/architecture.md 5.3; ours have at most 1 KB.
INCOMING_PARCELS_MAX = 64  # Open at once: at 16 KiB each 1 MiB in a round trip, 20 MB/s at 50 ms.
# One parcel and room to spare, so that all open ones together stay within the connection's window.
PARCEL_WINDOW_BYTES = CONNECTION_WINDOW_BYTES // INCOMING_PARCELS_MAX
CONTROL_STREAM = 0  # The first stream that the dialler opens, used both ways.
PACING_S = (
    1e-3  # facts/quic.md 3: one timer per packet costs 1.4 times the CPU; epoll rounds to it.
)
RTT_S_UNKNOWN = 0.1  # aioquic's `initial_rtt`.

# aioquic warns about every fault of a peer: strangers could fill our log. Ours says it once.
logging.getLogger("quic").setLevel(logging.CRITICAL)


class Engine(QuicConnection):
    """A QUIC connection that keeps the invariants above, and says what `Link` must know."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        original_destination_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
        )
        self._local_max_stream_data_uni = PARCEL_WINDOW_BYTES
        # Only the dialler opens a bidirectional stream, and only one.
        _fix(self._local_max_streams_bidi, 0 if configuration.is_client else 1)
        _fix(self._local_max_streams_uni, INCOMING_PARCELS_MAX)
        self._loss._pacer = _Pacer(max_datagram_size=DATAGRAM_BYTES)

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

    # Invariants.

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        if not self._network_paths:
            return []  # Nothing readable has arrived yet: aioquic would raise.
        if self._close_pending and not self._network_paths[0].can_send(DATAGRAM_BYTES):
            return []  # aioquic forgets the three times of RFC 9000 8.1 when it says good-bye.
        self._put_control_first()
        return super().datagrams_to_send(now)

    def _put_control_first(self) -> None:
        queue = self._streams_queue
        for at, stream in enumerate(queue):
            if stream.stream_id == CONTROL_STREAM:
                if at:
                    queue.insert(0, queue.pop(at))
                return

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        # aioquic makes the context itself, so this is the only way to a subclass of it.
        self.tls.__class__ = _Tls
        self.tls._signature_algorithms = [tls.SignatureAlgorithm.ED25519]
        # One group: aioquic makes a key pair for each it offers, -25 % of a handshake's CPU.
        self.tls._supported_groups = [tls.Group.X25519]
        self.tls._request_client_certificate = not self._is_client

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
        # Credit is what the application has taken plus a fixed window; stock aioquic doubles it
        # for whoever uses half of it, without end.
        limit = self._local_max_data
        if limit.used + CONNECTION_WINDOW_BYTES // 2 > limit.value:
            held = sum(_held(stream) for stream in self._streams.values())
            limit.value = max(limit.value, limit.used - held + CONNECTION_WINDOW_BYTES)
        used, limit.used = limit.used, 0  # Nothing used: nothing to double.
        try:
            super()._write_connection_limits(builder, space)
        finally:
            limit.used = used

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        # Called for every open stream for every packet: the usual case must be short.
        if stream.stream_id == CONTROL_STREAM and not stream.receiver.is_finished:
            credit = stream.receiver._buffer_start + STREAM_WINDOW_BYTES
            if credit - stream.max_stream_data_local >= STREAM_WINDOW_BYTES // 2:
                stream.max_stream_data_local = credit
        if stream.max_stream_data_local == stream.max_stream_data_local_sent:
            return  # A parcel's window never grows.
        highest, stream.receiver.highest_offset = stream.receiver.highest_offset, 0
        try:
            super()._write_stream_limits(builder, space, stream)
        finally:
            stream.receiver.highest_offset = highest


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
        super()._set_peer_certificate(certificate)


class _Pacer(QuicPacketPacer):
    """Lets what is due within one pacing quantum go at once, so that timers may be coarse."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        super().update_rate(congestion_window, smoothed_rtt)
        # Half as much again: wake-ups come late, and what the bucket cannot hold is lost rate.
        self.bucket_max = max(self.bucket_max, 1.5 * PACING_S)


def _fix(limit: Any, value: int) -> None:
    limit.value = limit.sent = value


def _held(stream: QuicStream) -> int:
    receiver = stream.receiver
    return 0 if receiver.is_finished else receiver.highest_offset - receiver._buffer_start


_PRIVATE_METHODS = {
    QuicConnection: (
        "_handle_ack_frame",
        "_initialize",
        "_write_connection_limits",
        "_write_stream_limits",
    ),
    tls.Context: ("handle_message", "_set_peer_certificate"),
    QuicPacketPacer: ("update_rate",),
}
_PRIVATE_STATE = {
    "connection": (
        "_close_event",
        "_close_pending",
        "_is_client",
        "_local_max_data",
        "_local_max_stream_data_uni",
        "_local_max_streams_bidi",
        "_local_max_streams_uni",
        "_local_next_stream_id_uni",
        "_loss",
        "_network_paths",
        "_packet_number",
        "_remote_max_streams_uni",
        "_state",
        "_streams",
        "_streams_queue",
    ),
    "limit": ("sent", "used", "value"),
    "recovery": ("_pacer", "_rtt_initialized", "_rtt_smoothed"),
    "pacer": ("bucket_max",),
    "stream": ("max_stream_data_local", "max_stream_data_local_sent"),
    "receiver": ("_buffer_start", "highest_offset", "is_finished"),
    "sender": ("_buffer_start", "_buffer_stop", "buffer_is_empty", "highest_offset", "is_finished"),
    "tls": (
        "_peer_certificate",
        "_peer_certificate_chain",
        "_receive_buffer",
        "_request_client_certificate",
        "_signature_algorithms",
        "_supported_groups",
    ),
}


def _check_aioquic() -> None:
    connection = QuicConnection(configuration=QuicConfiguration())
    stream = QuicStream(stream_id=0)
    samples = {
        "connection": connection,
        "limit": connection._local_max_data,
        "recovery": connection._loss,
        "pacer": connection._loss._pacer,
        "stream": stream,
        "receiver": stream.receiver,
        "sender": stream.sender,
        "tls": tls.Context(is_client=True),
    }
    missing = [
        f"{owner.__name__}.{name}"
        for owner, names in _PRIVATE_METHODS.items()
        for name in names
        if not hasattr(owner, name)
    ]
    missing += [
        f"{kind}.{name}"
        for kind, names in _PRIVATE_STATE.items()
        for name in names
        if not hasattr(samples[kind], name)
    ]
    if missing:
        raise ImportError(f"this aioquic is not the one we hardened; it lacks {missing}")


_check_aioquic()
