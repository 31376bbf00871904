"""What a scenario file may say. docs/SIMULATION.md explains each word.

Units are in the names: `_s` seconds, `_ms` milliseconds, `_kbps` 1000 bits a second. Where a value
differs between hosts a law may stand in place of a number.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Behaviour = Literal[
    "honest", "free_rider", "polluter", "liar", "withholder", "slow_loris", "sybil", "eclipse",
]  # fmt: skip
Way = Literal["up", "down", "both"]
RoleName = Literal["origin", "seed", "viewer"]


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All tables are closed: what we do not know is refused."""


# Laws: `{ law = "...", ... }` in place of a number.


class Uniform(_Table, frozen=True, kw_only=True, tag="uniform", tag_field="law"):
    low: NotNegative
    high: Positive


class Lognormal(_Table, frozen=True, kw_only=True, tag="lognormal", tag_field="law"):
    """sigma: of the natural logarithm."""

    median: Positive
    sigma: Positive


class Choice(_Table, frozen=True, kw_only=True, tag="choice", tag_field="law"):
    """One of `values`, with `weights` (alike when empty)."""

    values: Annotated[list[Positive], Meta(min_length=1)]
    weights: list[Positive] = []


class Weibull(_Table, frozen=True, kw_only=True, tag="weibull", tag_field="law"):
    shape: Positive
    scale: Positive


class Distance(_Table, frozen=True, kw_only=True, tag="distance", tag_field="law"):
    """Round-trip times between places on a globe (facts/simulation.md 6, measured 2018).

    30.9 ms + 0.01745 ms/km, times a lognormal of `sigma`. radius_km: hosts live within it.
    """

    sigma: NotNegative = 0.42
    radius_km: Positive = 6000.0


class Sample(_Table, frozen=True, kw_only=True, tag="sample", tag_field="law"):
    """One of the values in `file`, one a line, as often as they are there; times `scale`."""

    file: str
    scale: Positive = 1.0


class Trace(_Table, frozen=True, kw_only=True, tag="trace", tag_field="law"):
    """A rate that changes as one of the traces in `file` says, from a random moment of it on, and
    begins anew at its end; times `scale`. like: only traces with this in their names.
    """

    file: str
    like: str = ""
    scale: Positive = 1.0


class Matrix(_Table, frozen=True, kw_only=True, tag="matrix", tag_field="law"):
    """Round-trip times between the sites of `file`; each host is at one of them."""

    file: str
    unit: Literal["ms", "s"] = "ms"


Rate = Positive | Uniform | Lognormal | Choice | Sample | Trace
Rtt = Positive | Uniform | Lognormal | Choice | Sample | Distance | Matrix
Session = Positive | Uniform | Lognormal | Weibull | Choice | Sample


class Steady(_Table, frozen=True, kw_only=True, tag="steady", tag_field="law"):
    """Everybody is there from `at_s` on, a little apart as guests come."""

    at_s: NotNegative = 0.0
    apart_s: NotNegative = 0.05


class Ramp(_Table, frozen=True, kw_only=True, tag="ramp", tag_field="law"):
    """One after the other, evenly over `over_s`."""

    over_s: Positive
    at_s: NotNegative = 0.0


class Flash(_Table, frozen=True, kw_only=True, tag="flash", tag_field="law"):
    """A crowd: uniformly at random within `over_s`."""

    over_s: Positive
    at_s: NotNegative = 0.0


class Cold(_Table, frozen=True, kw_only=True, tag="cold", tag_field="law"):
    """All at the very same moment: a cold boot."""

    at_s: NotNegative = 0.0


class Zap(_Table, frozen=True, kw_only=True, tag="zap", tag_field="law"):
    """They zap through channels: each comes at random within `over_s`, looks in for `look_s` on
    average, is away for `away_s` on average, and looks in again; a share `stays` each time.
    """

    over_s: Positive
    at_s: NotNegative = 0.0
    look_s: Positive = 6.0
    away_s: Positive = 10.0
    stays: Share = 0.2


Arrivals = Steady | Ramp | Flash | Cold | Zap


class Stream(_Table, frozen=True, kw_only=True):
    """What is broadcast. Several bit rates: a ladder."""

    bitrates_kbps: Annotated[list[Positive], Meta(min_length=1, max_length=8)] = field(
        default_factory=lambda: [1000.0]
    )
    chunk_ms: Annotated[float, Meta(ge=50, le=2000)] = 200.0
    gop_chunks: Annotated[int, Meta(ge=1, le=50)] = 5


class Phases(_Table, frozen=True, kw_only=True):
    """One after the other: warm-up is not measured, faults belong into chaos, then things heal,
    and in the check phase everything must work again.
    """

    warm_up_s: NotNegative = 5.0
    chaos_s: NotNegative = 20.0
    heal_s: NotNegative = 0.0
    check_s: Annotated[float, Meta(ge=2)] = 5.0


class Group(_Table, frozen=True, kw_only=True):
    """Hosts that are alike. copies: how many times the stream each passes on at most; by default
    what the node's own command line has.
    """

    name: Name
    n: Count = 1
    role: RoleName = "viewer"
    up_kbps: Rate = 10_000.0
    down_kbps: Rate = 50_000.0
    queue_kb: Positive = 256.0
    rtt_ms: Rtt = 40.0
    jitter_ms: NotNegative = 0.0
    loss: Annotated[float, Meta(ge=0, lt=0.9)] = 0.0
    loss_burst: Annotated[float, Meta(ge=1)] = 1.0
    duplicates: Share = 0.0
    nat: dict[str, Share] | str = "none"
    nat_timeout_s: Positive = 60.0
    behaviour: Behaviour = "honest"
    copies: NotNegative | None = None
    clock_skew_s: NotNegative = 0.0
    clock_drift_ppm: NotNegative = 0.0
    arrive: Arrivals = Steady()
    session_s: Session | None = None
    returns_after_s: Positive | None = None


# Faults. `at_s`: from the start of the chaos phase on.


class _Fault(_Table, frozen=True, kw_only=True, tag_field="kind"):
    at_s: NotNegative


class _Some(_Fault, frozen=True, kw_only=True):
    """Hits a share of a group, or `count` of it; who is hit is drawn."""

    group: Name
    share: Share = 1.0
    count: Annotated[int, Meta(ge=1)] | None = None


class Kill(_Some, frozen=True, kw_only=True, tag="kill"):
    """kill -9. restart_after_s: comes back then; keep_identity: as the same node."""

    restart_after_s: Positive | None = None
    keep_identity: bool = True


class Hang(_Some, frozen=True, kw_only=True, tag="hang"):
    """kill -STOP, and -CONT after `for_s`."""

    for_s: Positive


class MassLeave(_Some, frozen=True, kw_only=True, tag="mass_leave"):
    """They go politely, at once."""


class Move(_Some, frozen=True, kw_only=True, tag="move"):
    """Another network: no packets for `gap_s`, then another address. migrates: the carrier keeps
    its links (QUIC connection migration); otherwise they are gone.
    """

    gap_s: NotNegative = 0.5
    migrates: bool = True


class Bandwidth(_Some, frozen=True, kw_only=True, tag="bandwidth"):
    """Both directions carry `factor` of their rate for `for_s`."""

    factor: Annotated[float, Meta(gt=0, le=10)]
    for_s: Positive


class BandwidthTrace(_Some, frozen=True, kw_only=True, tag="bandwidth_trace"):
    """What they can send, receive, or both, is as in a trace for `for_s` (see the law `trace`)."""

    file: str
    for_s: Positive
    like: str = ""
    scale: Positive = 1.0
    way: Way = "both"


class LossBurst(_Some, frozen=True, kw_only=True, tag="loss_burst"):
    """Packets are lost with probability `loss`, in bursts of `burst` on average, for `for_s`."""

    loss: Annotated[float, Meta(gt=0, lt=0.9)]
    for_s: Positive
    burst: Annotated[float, Meta(ge=1)] = 1.0


class ClockJump(_Some, frozen=True, kw_only=True, tag="clock_jump"):
    """Somebody sets the wall clock: `by_s` ahead (or back, when negative)."""

    by_s: float


class LatencyStep(_Fault, frozen=True, kw_only=True, tag="latency_step"):
    """Every path becomes `add_ms` longer, each way, for `for_s`."""

    add_ms: Positive
    for_s: Positive


class Partition(_Some, frozen=True, kw_only=True, tag="partition"):
    """The chosen ones are cut off from everybody else for `for_s`. one_way: they still hear.
    jammed: nothing gets lost, it arrives when the jam is over.
    """

    for_s: Positive
    one_way: bool = False
    jammed: bool = False


class LinkFlap(_Some, frozen=True, kw_only=True, tag="link_flap"):
    """For `for_s` their lines are dead for `down_s` of each `every_s`, each at its own moment."""

    for_s: Positive
    every_s: Positive = 4.0
    down_s: Positive = 1.0


class OriginCrash(_Fault, frozen=True, kw_only=True, tag="origin_crash"):
    """The broadcaster dies and is restarted with the same stream key, under a new epoch.
    take_over: by another machine, a node with another id and address.
    """

    down_s: Positive
    take_over: bool = False


class SeedCrash(_Fault, frozen=True, kw_only=True, tag="seed_crash"):
    """All seeds die; they come back after `down_s`, or never."""

    down_s: Positive | None = None


class DhtOutage(_Fault, frozen=True, kw_only=True, tag="dht_outage"):
    """No DHT message gets through for `for_s`."""

    for_s: Positive


Fault = (
    Kill | Hang | MassLeave | Move | Bandwidth | BandwidthTrace | LossBurst | ClockJump
    | LatencyStep | Partition | LinkFlap | OriginCrash | SeedCrash | DhtOutage
)  # fmt: skip


class Bound(_Table, frozen=True, kw_only=True):
    """What a figure must keep to."""

    min: float | None = None
    max: float | None = None


class Scenario(_Table, frozen=True, kw_only=True):
    """The whole file. sometimes: what must have happened in at least one of the seeds."""

    purpose: Annotated[str, Meta(min_length=10)]
    groups: Annotated[list[Group], Meta(min_length=1)]
    stream: Stream = Stream()
    phases: Phases = Phases()
    faults: list[Fault] = []
    expect: dict[str, Bound] = {}
    sometimes: list[str] = []
    name: str = ""

    @property
    def measured_from_s(self) -> float:
        return self.phases.warm_up_s

    @property
    def check_from_s(self) -> float:
        return self.phases.warm_up_s + self.phases.chaos_s + self.phases.heal_s

    @property
    def duration_s(self) -> float:
        return self.check_from_s + self.phases.check_s
