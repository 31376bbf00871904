"""The private names of aioquic that `engine.py`, `short.py` and `fast.py` use, and their check.

The pinned range of versions stands in pyproject.toml. Without one of `ENGINE` nothing can be kept
safe, so importing fails; without one of `FAST` we are only slower, and say so once.
"""
# ruff: noqa: SLF001  # Which is what this file is about.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aioquic import tls
from aioquic._crypto import AEAD, HeaderProtection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicNetworkPath
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream

from p2pstream.net.congestion import PRIVATE_RECOVERY

Names = Mapping[str, tuple[str, ...]]

ENGINE: Names = {
    "connection": (
        "_add_network_path",
        "_close_event",
        "_close_pending",
        "_cryptos",
        "_events",
        "_find_network_path",
        "_flush_builder",
        "_handle_ack_frame",
        "_handshake_confirmed",
        "_initialize",
        "_is_client",
        "_local_max_data",
        "_local_max_stream_data_uni",
        "_local_max_streams_bidi",
        "_local_max_streams_uni",
        "_local_next_stream_id_uni",
        "_loss",
        "_max_datagram_size",
        "_network_paths",
        "_packet_number",
        "_peer_cid",
        "_probe_pending",
        "_probe_preferred_address",
        "_quic_logger",
        "_receive_version_negotiation_packet",
        "_remote_max_streams_uni",
        "_remote_preferred_address",
        "_retire_peer_cid",
        "_spaces",
        "_spin_bit",
        "_state",
        "_streams",
        "_streams_queue",
        "_version",
        "_write_connection_limits",
        "_write_stream_limits",
    ),
    "builder": ("_packet",),
    "crypto": ("_update_key", "_update_key_requested", "key_phase", "recv", "send", "update_key"),
    "context": ("key_phase",),
    "limit": ("sent", "used", "value"),
    "path": (
        "addr",
        "can_send",
        "is_validated",
        "local_challenge_sent",
        "peer_cid",
        "validation_deadline",
    ),
    "recovery": (
        *PRIVATE_RECOVERY,
        "_time_of_last_sent_ack_eliciting_packet",
    ),
    "pacer": ("_max_datagram_size", "bucket_max", "update_rate"),
    "stream": ("max_stream_data_local", "max_stream_data_local_sent"),
    "receiver": ("_buffer_start", "highest_offset", "is_finished"),
    "sender": (
        "_buffer_start",
        "_buffer_stop",
        "_reset_error_code",
        "buffer_is_empty",
        "highest_offset",
        "is_finished",
    ),
    "tls": (
        "_peer_certificate",
        "_peer_certificate_chain",
        "_receive_buffer",
        "_request_client_certificate",
        "_set_peer_certificate",
        "_signature_algorithms",
        "_supported_groups",
        "handle_message",
    ),
}
FAST: Names = {
    "connection": (
        "_ack_delay",
        "_ack_eliciting_sent_since_receipt",
        "_close_at",
        "_crypto_streams",
        "_datagrams_pending",
        "_handle_max_stream_data_frame",
        "_handle_reset_stream_frame",
        "_handle_stop_sending_frame",
        "_handle_stream_data_blocked_frame",
        "_handle_stream_frame",
        "_handshake_done_pending",
        "_host_cids",
        "_idle_timeout",
        "_local_ack_delay_exponent",
        "_loss_at",
        "_on_ack_delivery",
        "_on_connection_limit_delivery",
        "_on_ping_delivery",
        "_pacing_at",
        "_payload_received",
        "_ping_pending",
        "_remote_ack_delay_exponent",
        "_remote_max_data",
        "_remote_max_data_used",
        "_remote_max_stream_data_uni",
        "_retire_connection_ids",
        "_spin_highest_pn",
        "_streams_blocked_pending",
    ),
    "limit": ("frame_type",),
    "path": ("bytes_sent", "remote_challenges"),
    "recovery": (
        "_rtt_first_sample_time",
        "max_ack_delay",
        "peer_completed_address_validation",
    ),
    "pacer": ("bucket_time", "packet_time", "update_bucket"),
    "space": (
        "ack_at",
        "ack_eliciting_in_flight",
        "ack_queue",
        "expected_packet_number",
        "largest_acked_packet",
        "largest_received_packet",
        "largest_received_time",
        "loss_time",
        "received_packets",
        "sent_packets",
    ),
    "window": ("_received", "_size", "add"),
    "context": ("aead", "hp"),
    "aead": ("_aead", "_iv"),
    "protection": ("_encryptor", "_is_chacha20", "_mask"),
    "stream": ("is_blocked", "max_stream_data_remote"),
    "receiver": ("_buffer", "_final_size", "handle_frame", "stop_pending"),
    "sender": (
        "_pending",
        "_pending_eof",
        "get_frame",
        "next_offset",
        "on_data_delivery",
        "reset",
        "reset_pending",
    ),
}


def missing(names: Names) -> list[str]:
    """Those that this aioquic lacks."""
    samples = _samples()
    return [
        f"{kind}.{name}"
        for kind, wanted in names.items()
        for name in wanted
        if not hasattr(samples[kind], name)
    ]


def _samples() -> dict[str, Any]:
    connection: Any = QuicConnection(configuration=QuicConfiguration())
    stream = QuicStream(stream_id=0)
    pair = CryptoPair()
    return {
        "connection": connection,
        "builder": QuicPacketBuilder(
            host_cid=b"", peer_cid=b"", version=1, is_client=True, max_datagram_size=1200
        ),
        "limit": connection._local_max_data,
        "path": QuicNetworkPath(("", 0)),
        "recovery": connection._loss,
        "pacer": connection._loss._pacer,
        "space": QuicPacketSpace(),
        "window": QuicPacketSpace().received_packets,
        "crypto": pair,
        "context": pair.send,
        "aead": AEAD(b"aes-128-gcm", bytes(16), bytes(12)),
        "protection": HeaderProtection(b"aes-128-ecb", bytes(16)),
        "stream": stream,
        "receiver": stream.receiver,
        "sender": stream.sender,
        "tls": tls.Context(is_client=True),
    }


if _lacking := missing(ENGINE):
    raise ImportError(f"this aioquic is not the one we hardened; it lacks {_lacking}")
