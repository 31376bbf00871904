"""Congestion control for live video over home links: loss alone is weather, a queue is congestion.

Three invariants. The window is cut only for loss that comes with a standing queue or is heavy, and
then to what the path has proven to carry (rate times shortest round trip, as Westwood+ does), yet
about as far as its neighbours reno and cubic go. It grows only while it is used. Whatever happens,
it stays between two packets and `WINDOW_BYTES_MAX`, and every estimate stays finite.

`LiveCongestion` is an aioquic plug-in named "live" and, when it gives way to others,
"live-yielding"; both are registered when this module is imported.
`LiveRecovery` is aioquic's loss detection with a packet threshold that learns how far packets of
this path overtake each other. Times are in seconds, sizes in bytes, rates in bytes per second
unless a name says otherwise.

Papers: Westwood+ (Grieco and Mascolo, 2004), TCP Veno (Fu and Liew, 2003); RFC 6817 (LEDBAT) and
draft-irtf-iccrg-ledbat-plus-plus; RFC 8985 (RACK); RFC 9002 (QUIC recovery); RFC 9406 (HyStart++).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial
from itertools import takewhile
from math import ceil, inf

from aioquic.quic.congestion.base import (
    K_GRANULARITY,
    K_INITIAL_WINDOW,
    K_MINIMUM_WINDOW,
    QuicCongestionControl,
    register_congestion_control,
)
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import (
    K_PACKET_THRESHOLD,
    K_TIME_THRESHOLD,
    QuicPacketRecovery,
    QuicPacketSpace,
)

# For `QuicConfiguration.congestion_control_algorithm`.
NAME = "live"
YIELDING = (
    "live-yielding"  # The same, giving way to all other traffic of the household (`--yield`).
)

# The window. RFC 9002 7.2 gives the initial one (10 packets) and the smallest one (2 packets).
WINDOW_BYTES_MAX = 16 << 20  # 1 Gbit/s at 130 ms; our peers' windows are below (`tls.py`).
# RFC 9002 7.8: an underused window must not grow. Used means that this share of it was in flight.
# Pacing keeps it from being full; slow start doubles it (the rule of Linux, tcp_is_cwnd_limited).
USED_SHARE = 0.75
USED_SHARE_SLOW_START = 0.5

# The estimates.
BANDWIDTH_ROUNDS = 10  # The maximum of so many round trips (BBR, draft-ietf-ccwg-bbr 2.10).
RTT_SAMPLES = 8  # The least of so many is "now": jitter only adds. RFC 9406 4.2, N_RTT_SAMPLE.
BASE_BUCKET_S = 60.0  # RFC 6817 2.5, BASE_HISTORY: the shortest round trip of each minute,
BASE_BUCKETS = 10  # of ten minutes when yielding, lest others' queues become our idea of empty,
BASE_BUCKETS_LIVE = 2  # and of at most two otherwise: a detour must not look like a queue for long.

# A queue: in slow start a standing delay of an eighth of the round trip, within these bounds (RFC
# 9406 4.2). With a loss half of it tells enough; at an eighth, reno starved beside us on a queue of
# 5 ms at 50 ms (measured: 0.13 of its share, 0.5 with a sixteenth).
QUEUE_S_MIN = 0.004
QUEUE_S_MAX = 0.016
QUEUE_RTT_SHARE = 1 / 8
QUEUE_RTT_SHARE_LOSS = 1 / 16

# Loss so heavy that it is congestion whatever the delay says: queues shorter than `QUEUE_S_MIN`
# exist. Above the 5 % that facts/quic.md measures on bad Wi-Fi; memory of about four round trips.
HEAVY_LOSS = 0.10
HEAVY_LOSS_PACKETS = 12  # With 6, chance ended one slow start in three at 5 % (measured).
LOSS_MEMORY = 0.75

# A cut is to rate times shortest round trip, but never below half (reno, RFC 9002 7.3.2) and never
# above this, so that neighbours on a short queue get a share.
CUT_MIN = 0.5
CUT_MAX = 0.8

# HyStart++, RFC 9406 4.2 and 4.3.
CSS_GROWTH_DIVISOR = 4
CSS_ROUNDS = 5

# Yielding. LEDBAT allows a queue of at most 100 ms (RFC 6817 2.5), LEDBAT++ 60 ms: a game or a call
# of the household would notice. 25 ms is a frame and a half. Where a queue overflows sooner, we
# leave half of it to others: on one of 20 ms we would else never yield (measured).
YIELD_QUEUE_S = 0.025
YIELD_OVERFLOW_SHARE = 0.5
YIELD_GAIN_DIVISOR_MAX = 16  # LEDBAT++ 4.2: slower than reno where round trips are short.
YIELD_SLOW_START_SHARE = 0.75  # LEDBAT++ 4.1: of the target, where slow start ends.

# Reordering. GSO trains of 16 packets and more overtake each other (facts/quic.md 10.6).
PACKET_THRESHOLD_MAX = 32
THRESHOLD_CALM_LOSSES = 16  # Losses without a false one until it forgets (RFC 8985 6.2, step 4).
GIVEN_UP_MAX = 64  # Numbers of lost packets kept to see false ones: two trains.


class LiveCongestion(QuicCongestionControl):
    """A window for live video. Read `bandwidth_bps`, `queue_s`, `min_rtt_s` and `app_limited`.

    `yields` may be changed at any time: whether to give way to all other traffic.
    `_max_datagram_size` is to be kept up to date by whoever probes for larger ones, under the name
    that it has in aioquic's reno and cubic.
    """

    # What `_forget` sets.
    _recovery_since: float
    _rate: _Rate
    _delay: _Delay
    _search: _Search
    _peak: int  # Most bytes in flight in this round,
    _peak_before: int  # and in the last one.
    _acked: float  # Bytes lately, fading.
    _lost: float
    _overflow_s: float  # The shortest queue with which we were cut: it may hold no more.
    _growth: float  # Bytes not yet in the window, which is whole.

    def __init__(self, *, max_datagram_size: int, yields: bool = False) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._max_datagram_size = max_datagram_size
        self.yields = yields
        self._path_since = -inf  # Packets sent until then say nothing about this path.
        self._forget()

    # What it has found out.

    @property
    def bandwidth_bps(self) -> float:
        """Bits per second that the path has lately delivered; 0 until known.

        A lower bound of what it could carry while `app_limited`.
        """
        return 8 * self._rate.bytes_per_s

    @property
    def min_rtt_s(self) -> float:
        """The round trip without queues; 0 until known."""
        return self._delay.base_s(self._buckets)

    @property
    def queue_s(self) -> float:
        """How long packets now wait in queues on the path."""
        return max(0.0, self._delay.now_s - self.min_rtt_s)

    @property
    def app_limited(self) -> bool:
        """Whether the window is larger than what we have to send."""
        share = USED_SHARE_SLOW_START if self._slow_start else USED_SHARE
        return max(self._peak, self._peak_before) < share * self.congestion_window

    # What aioquic calls.

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        """A packet that counts has left."""
        self.on_sent(packet.sent_bytes)

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        """A packet that counts has arrived."""
        assert packet.sent_time is not None
        self.on_acked(packet.sent_bytes, sent_at=packet.sent_time, now=now)

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        """Packets will never be acknowledged, which says nothing about the path."""
        self.bytes_in_flight -= sum(packet.sent_bytes for packet in packets)

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        """Packets were lost; aioquic has found them at once."""
        newest = -inf
        for packet in packets:
            assert packet.sent_time is not None
            self.bytes_in_flight -= packet.sent_bytes
            if packet.sent_time > self._path_since:
                newest = max(newest, packet.sent_time)
                self._lost += packet.sent_bytes
        # RFC 9002 7.3.1: one cut for all losses of one round trip.
        if newest > self._recovery_since and self._congested:
            self._recovery_since = now
            self._cut()

    def on_persistent_congestion(self) -> None:
        """Nothing came through for several timeouts: start anew, and slowly (RFC 9002 7.6.2).

        As Westwood does after a timeout, slow start ends where the path was full before.
        """
        self.ssthresh = self._bounded(self._carried)
        self.congestion_window = K_MINIMUM_WINDOW * self._max_datagram_size
        self._recovery_since = -inf
        self._rate = _Rate()
        self._search = _Search()

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        """A round trip in seconds, the peer's delay of its ACK included."""
        if now - rtt <= self._path_since:
            return
        self._delay.add(rtt, now=now)
        if self._slow_start:
            self._search.add(rtt, now_s=self._delay.now_s)
            if self._search.over or self._yielding_queue >= YIELD_SLOW_START_SHARE:
                self._leave_slow_start()

    # What the engine's fast path may call instead, for many packets at once.

    def on_sent(self, size: int) -> None:
        """So many bytes have left, in one or more packets."""
        self.bytes_in_flight += size
        self._peak = max(self._peak, self.bytes_in_flight)

    def on_acked(self, size: int, *, sent_at: float, now: float) -> None:
        """So many bytes have arrived; the newest of their packets left at `sent_at`."""
        self.bytes_in_flight -= size
        if sent_at <= self._path_since:
            return
        self._acked += size
        if self._rate.add(size, sent_at=sent_at, now=now, app_limited=self.app_limited):
            self._end_round()
        # RFC 9002 7.3.2: no growth from what left before the cut.
        if sent_at > self._recovery_since:
            self._adapt(size)

    def change_path(self, *, now: float) -> None:
        """The packets take another path from now on: what is known is void (RFC 9000 9.4)."""
        self._path_since = now
        self.congestion_window = K_INITIAL_WINDOW * self._max_datagram_size
        self.ssthresh = None
        self._forget()

    # Decisions.

    def _forget(self) -> None:
        self._recovery_since = -inf
        self._rate = _Rate()
        self._delay = _Delay()
        self._search = _Search()
        self._peak = self._peak_before = 0
        self._acked = self._lost = 0.0
        self._overflow_s = inf
        self._growth = 0.0

    @property
    def _slow_start(self) -> bool:
        return self.ssthresh is None or self.congestion_window < self.ssthresh

    @property
    def _buckets(self) -> int:
        return BASE_BUCKETS if self.yields else BASE_BUCKETS_LIVE

    @property
    def _carried(self) -> float:
        """Bytes in flight that the path has proven to carry without a queue."""
        return self._rate.bytes_per_s * self.min_rtt_s

    @property
    def _congested(self) -> bool:
        """Whether a loss now means congestion, and not weather."""
        if not self._delay.known or self.queue_s >= self._noticeable_s:
            return True
        heavy = self._lost >= HEAVY_LOSS * (self._lost + self._acked)
        return heavy and self._lost >= HEAVY_LOSS_PACKETS * self._max_datagram_size

    @property
    def _noticeable_s(self) -> float:
        return _noticeable_s(self.min_rtt_s, QUEUE_RTT_SHARE_LOSS)

    @property
    def _yielding_queue(self) -> float:
        """The queue as a share of what yielding allows; 0 when not yielding."""
        if not self.yields:
            return 0.0
        allowed = max(YIELD_OVERFLOW_SHARE * self._overflow_s, self._noticeable_s)
        return self.queue_s / min(allowed, YIELD_QUEUE_S)

    def _cut(self) -> None:
        self._overflow_s = min(self._overflow_s, self.queue_s)
        most = CUT_MIN if self.yields else CUT_MAX
        least, most = CUT_MIN * self.congestion_window, most * self.congestion_window
        self.congestion_window = self._bounded(min(max(least, self._carried), most))
        self.ssthresh = self.congestion_window

    def _leave_slow_start(self) -> None:
        """The queue grows: keep what the path carries, so that it drains."""
        half = self.congestion_window / 2
        if self._rate.bytes_per_s:
            carried = min(max(half, self._carried), self.congestion_window)
            self.congestion_window = self._bounded(carried)
        self.ssthresh = self.congestion_window

    def _adapt(self, size: int) -> None:
        if self._slow_start:
            step = size / self._search.divisor
        elif self.yields:
            step = self._yielding_step() * size / self.congestion_window
        else:
            step = self._max_datagram_size * size / self.congestion_window
        if step > 0 and self.app_limited:
            return
        self._growth += step
        whole = int(self._growth)
        self._growth -= whole
        self.congestion_window = self._bounded(self.congestion_window + whole)

    def _yielding_step(self) -> float:
        """Bytes that the window grows or shrinks in a round trip. LEDBAT++ 4.2 and 4.3."""
        above = self._yielding_queue - 1
        divisor = ceil(2 * YIELD_QUEUE_S / max(self.min_rtt_s, 1e-3))
        gain = self._max_datagram_size / min(YIELD_GAIN_DIVISOR_MAX, divisor)
        if above <= 0:
            return gain
        return max(gain - above * self.congestion_window, -self.congestion_window / 2)

    def _end_round(self) -> None:
        self._peak_before, self._peak = self._peak, self.bytes_in_flight
        self._acked *= LOSS_MEMORY
        self._lost *= LOSS_MEMORY
        if self._slow_start:
            self._search.end_round()

    def _bounded(self, window: float) -> int:
        return int(min(max(window, K_MINIMUM_WINDOW * self._max_datagram_size), WINDOW_BYTES_MAX))


class _Rate:
    """Delivery rate, the maximum of the last rounds.

    A round ends when a packet arrives that left after it began, and after a millisecond. Its bytes
    are divided by the longer of the times in which they were sent and acknowledged, so that ACKs
    that come in a heap do not look like bandwidth (draft-cheng-iccrg-delivery-rate-estimation 2.2).
    """

    def __init__(self) -> None:
        self.bytes_per_s = 0.0
        self._rounds: deque[float] = deque(maxlen=BANDWIDTH_ROUNDS)
        self._began: tuple[float, float] | None = None  # First packet's times: sent, acknowledged.
        self._bytes = 0
        self._limited = False

    def add(self, size: int, *, sent_at: float, now: float, app_limited: bool) -> bool:
        """Bytes have arrived that left at `sent_at`; whether that ended a round."""
        if self._began is None:
            self._begin(sent_at, now)
            return True
        self._bytes += size
        self._limited |= app_limited
        took = now - self._began[1]
        if sent_at < self._began[1] or took < K_GRANULARITY:
            return False
        self._note(self._bytes / max(took, sent_at - self._began[0]))
        self._begin(sent_at, now)
        return True

    def _begin(self, sent_at: float, now: float) -> None:
        self._began = (sent_at, now)
        self._bytes = 0
        self._limited = False

    def _note(self, rate: float) -> None:
        # A source that sends little must not look like a slow path, but may show a fast one.
        if not self._limited or rate > self.bytes_per_s:
            self._rounds.append(rate)
            self.bytes_per_s = max(self._rounds)


class _Delay:
    """Round trips: the least of the last few, and the least of the last minutes."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RTT_SAMPLES)
        self._minutes: deque[float] = deque(maxlen=BASE_BUCKETS)
        self._minute_ends = -inf

    @property
    def known(self) -> bool:
        return bool(self._recent)

    @property
    def now_s(self) -> float:
        return min(self._recent, default=0.0)

    def base_s(self, buckets: int) -> float:
        first = max(0, len(self._minutes) - buckets)
        return min((self._minutes[at] for at in range(first, len(self._minutes))), default=0.0)

    def add(self, rtt: float, *, now: float) -> None:
        self._recent.append(rtt)
        if now >= self._minute_ends:
            self._minute_ends = now + BASE_BUCKET_S
            self._minutes.append(rtt)
        self._minutes[-1] = min(self._minutes[-1], rtt)


class _Search:
    """HyStart++: how fast to grow in slow start, and when it is over (RFC 9406 4.2).

    When round trips become longer it grows more slowly for some rounds. If they become shorter
    again, that was jitter, and it goes on as before.
    """

    def __init__(self) -> None:
        self.over = False
        self._last = self._least = inf  # The shortest round trip of the last round and of this one.
        self._samples = 0
        self._baseline = inf  # The same of the round that made us careful; inf when we are not.
        self._careful_rounds = 0

    @property
    def divisor(self) -> int:
        return CSS_GROWTH_DIVISOR if self._baseline < inf else 1

    def add(self, rtt: float, *, now_s: float) -> None:
        """A round trip; `now_s` is the least of the last few."""
        self._least = min(self._least, rtt)
        self._samples += 1
        if self._samples < RTT_SAMPLES:
            return
        if self._baseline < inf:
            if self._least < self._baseline:
                self._baseline = inf
        # The RFC waits until the whole round is longer; paced packets need not.
        elif self._last < inf and now_s >= self._last + _noticeable_s(self._last):
            self._baseline = self._least = now_s
            self._careful_rounds = 0

    def end_round(self) -> None:
        self._last, self._least = self._least, inf
        self._samples = 0
        if self._baseline < inf:
            self._careful_rounds += 1
            # Not in the RFC: a queue that still grows while we are careful is no jitter.
            grows = self._last >= self._baseline + _noticeable_s(self._baseline)
            self.over = grows or self._careful_rounds >= CSS_ROUNDS


def _noticeable_s(rtt_s: float, share: float = QUEUE_RTT_SHARE) -> float:
    """How much longer than `rtt_s` a round trip is when there is a queue."""
    return min(max(QUEUE_S_MIN, share * rtt_s), QUEUE_S_MAX)


class LiveRecovery(QuicPacketRecovery):
    """aioquic's loss detection, which learns how far packets overtake each other.

    A packet is lost when one that left `packet_threshold` later has arrived, or 9/8 of a round trip
    after it left (RFC 9002 6.1). The threshold is 3 until packets come late, then more than the
    longest overtaking seen, up to `PACKET_THRESHOLD_MAX`.
    """

    packet_threshold: int = K_PACKET_THRESHOLD
    spurious: int = 0  # Packets that were given up and then came.
    _calm_losses: int = 0
    _given_up: dict[int, None]

    def on_ack_received(
        self, *, ack_rangeset: RangeSet, ack_delay: float, now: float, space: QuicPacketSpace
    ) -> None:
        """An ACK frame has come."""
        if space.is_application_data:
            self.watch_order(ack_rangeset, space)
        super().on_ack_received(
            ack_rangeset=ack_rangeset, ack_delay=ack_delay, now=now, space=space
        )

    def watch_order(self, acked: RangeSet, space: QuicPacketSpace) -> None:
        """Learn from an ACK before it is processed; for a fast path that processes it itself."""
        newest = space.largest_acked_packet
        if next(iter(space.sent_packets), newest) >= newest and not self._given_up:
            return  # The usual case: all that had left before the newest one has come, in order.
        late = [
            number
            for number in takewhile(lambda number: number < newest, space.sent_packets)
            if number in acked
        ]
        came = [number for number in self._given_up if number in acked]
        for number in came:
            del self._given_up[number]
        if came:
            self.spurious += len(came)
            self._calm_losses = 0
        if late or came:
            overtaken = newest - min(late + came)
            self.packet_threshold = min(
                max(self.packet_threshold, overtaken + 1), PACKET_THRESHOLD_MAX
            )

    def change_path(self, *, now: float) -> None:
        """Start as on a new connection (RFC 9000 9.4): round trips, window, order."""
        self._rtt_initialized = False
        self._rtt_latest = self._rtt_smoothed = self._rtt_variance = 0.0
        self._rtt_min = inf
        self._pto_count = 0
        self._pacer.packet_time = None
        self._learn_order_anew()
        if isinstance(self._cc, LiveCongestion):
            self._cc.change_path(now=now)

    def _learn_order_anew(self) -> None:
        self.packet_threshold = K_PACKET_THRESHOLD
        self._calm_losses = 0
        self._given_up = {}

    def _detect_loss(self, *, now: float, space: QuicPacketSpace) -> None:
        known = max(self._rtt_latest, self._rtt_smoothed)
        patience = K_TIME_THRESHOLD * (known if self._rtt_initialized else self._rtt_initial)
        lost = []
        space.loss_time = None
        for number, packet in space.sent_packets.items():
            if number > space.largest_acked_packet:
                break
            assert packet.sent_time is not None
            overtaken = number <= space.largest_acked_packet - self.packet_threshold
            lost_at = packet.sent_time + patience  # As in `loss_time`: a timer must not miss it.
            if overtaken or lost_at <= now:
                lost.append(packet)
            elif space.loss_time is None:  # They are in the order in which they left.
                space.loss_time = lost_at
        if lost and space.is_application_data:
            self._give_up(packet.packet_number for packet in lost)
        self._on_packets_lost(
            now=now,
            packets=lost,
            persistent_congestion=self._in_persistent_congestion(packets=lost),
            space=space,
        )

    def _give_up(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._given_up[number] = None
        while len(self._given_up) > GIVEN_UP_MAX:
            del self._given_up[next(iter(self._given_up))]
        self._calm_losses += 1
        if self._calm_losses >= THRESHOLD_CALM_LOSSES:
            self._calm_losses = 0
            self.packet_threshold = K_PACKET_THRESHOLD


def tolerate_reordering(recovery: QuicPacketRecovery) -> LiveRecovery:
    """Make the recovery of a new connection a `LiveRecovery`, for aioquic makes it itself.

    A recovery that is already of a subclass of it keeps its class.
    """
    if not isinstance(recovery, LiveRecovery):
        recovery.__class__ = LiveRecovery
    assert isinstance(recovery, LiveRecovery)
    recovery._learn_order_anew()  # noqa: SLF001  # Of this file's own.
    return recovery


# Private names of aioquic used here, for the engine's check at import.
PRIVATE_RECOVERY = (
    "_cc",
    "_detect_loss",
    "_in_persistent_congestion",
    "_on_packets_lost",
    "_pacer",
    "_pto_count",
    "_rtt_initial",
    "_rtt_initialized",
    "_rtt_latest",
    "_rtt_min",
    "_rtt_smoothed",
    "_rtt_variance",
)

register_congestion_control(NAME, LiveCongestion)
register_congestion_control(YIELDING, partial(LiveCongestion, yields=True))
