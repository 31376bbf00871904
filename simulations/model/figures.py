"""What the model counts, under the names of `metrics.py`; None where it knows nothing of a figure.

Lags are counted in classes of a millisecond, so that a million viewers need no more room than one.
"""

from __future__ import annotations

from bisect import bisect_left
from math import ceil, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pstream.metrics import ratio
from p2pstream.stream.chunk import PIECE_BYTES
from simulations.faults import Report
from simulations.metrics import LAGS_KEPT, NAMES, REPAIRED_SHARE, SERIES
from simulations.model.homes import Bools, Floats, Homes
from simulations.scenario import Scenario

BINS = 20_000  # Of a millisecond: playout jumps long before a lag of 20 s.


class Tally:
    """Adds up while a model runs."""

    def __init__(self, scenario: Scenario, homes: Homes) -> None:
        self.scenario, self.homes = scenario, homes
        groups, count = len(scenario.groups), len(homes)
        self.chunk_s = scenario.stream.chunk_ms / 1000
        self.lags = np.zeros((groups, BINS), np.int64)
        self.chunks = np.zeros((3, groups))  # Played, late, missed.
        self.frozen_s = np.zeros(groups)
        self.first_at = np.full(count, np.inf)
        self.last_at = np.full(count, -np.inf)
        self.series: dict[str, list[float]] = {name: [] for name in SERIES}
        self._bytes_made = 0
        self._peer_s = 0.0
        self._viewer_s = 0.0
        self._there = np.zeros(count, np.bool_)
        self._recent = np.zeros(BINS, np.int64)

    # Counting.

    def made(self, size: int, now: float) -> None:
        """A chunk was published."""
        if self._measured(now):
            self._bytes_made += size

    def played(
        self, now: float, watch: Bools, plays: Bools, lag_s: Floats, frozen_s: Floats, late: Bools,
        plays_from: Floats,
    ) -> None:  # fmt: skip
        """A chunk was handed over at `plays`. watch: the viewers that are there. plays_from: when
        each begins, with what was made before it came: the calibration says so, not the model.
        """
        hosts = np.flatnonzero(plays)
        at = now - self.chunk_s + lag_s[hosts]
        self.first_at[hosts] = np.minimum(self.first_at[hosts], plays_from[hosts])
        self.last_at[hosts] = np.maximum(self.last_at[hosts], at)
        self._there = watch
        self._peer_s += self.chunk_s * (int(watch.sum()) + int((~self.homes.viewer).sum()))
        bins = np.minimum(BINS - 1, (1000 * lag_s[hosts]).astype(np.int64))
        group = self.homes.group[hosts].astype(np.int64)
        groups = len(self.lags)
        self._recent += np.bincount(bins, minlength=BINS)
        if self._measured(now):
            self.lags += np.bincount(group * BINS + bins, minlength=groups * BINS).reshape(-1, BINS)
            self.chunks[0] += np.bincount(group, minlength=groups)
            self.chunks[1] += np.bincount(group[late[hosts]], minlength=groups)
            missed = watch & ~plays & (self.first_at < now)
            self.chunks[2] += np.bincount(self.homes.group[missed], minlength=groups)
            self.frozen_s += np.bincount(group, frozen_s[hosts], minlength=groups)
            self.frozen_s += self.chunk_s * np.bincount(self.homes.group[missed], minlength=groups)
            self._viewer_s += self.chunk_s * int(watch.sum())
        if abs(now - round(now)) < self.chunk_s / 2 - 1e-9:
            self._sample(now)

    def _sample(self, now: float) -> None:
        grown = self._there & (self.homes.comes_at < now - 2.0)
        share = float((self.last_at[grown] > now - 1.0).mean()) if grown.any() else 1.0
        lags = _of_bins(self._recent, (50, 95))
        row = (
            round(now), int(self._there.sum()), share, lags[0], lags[1], 0.0, 0.0, 1 - share,
        )  # fmt: skip
        for name, value in zip(SERIES, row, strict=True):
            self.series[name].append(round(value, 4))
        self._recent[:] = 0

    def _measured(self, now: float) -> bool:
        return now > self.scenario.measured_from_s + 1e-9

    # Adding up.

    def figures(self, gave: Floats, faults: list[Report], cpu_s: float) -> dict[str, Any]:
        """All of `NAMES`, but None for what the model does not count and `peer_s_per_m_rounds`."""
        viewers = self.homes.viewer
        started = viewers & (self.first_at < np.inf)
        starts = self.first_at[started] - self.homes.comes_at[started]
        made = max(1, self._bytes_made)
        taken = float(gave[:].sum())
        copies = self._viewer_s / max(1e-9, self._seconds())
        offload = ratio(taken - gave[0], taken)
        limit = self._limit(copies, made)
        lags = self.lags.sum(axis=0)
        known = {
            "viewers": int(viewers.sum()),
            "viewers_playing": int((self.last_at[self._there] > self._end_s() - 2.0).sum()),
            "viewers_mean": round(copies, 2),
            "viewers_stalled_at_end": 0,
            "never_played": int((self._there & ~started).sum()),
            **_named("startup_s", list(np.quantile(starts, (0.5, 0.95, 0.99))) if len(starts)
                     else [0.0] * 3, (50, 95, 99)),
            **_named("lag_s", _of_bins(lags, (50, 95, 99)), (50, 95, 99)),
            "lag_s_max": _of_bins(lags, (100,))[0],
            "lag_bound_s": round(self._bound_s(copies), 3),
            **_named("lag_slots", [x / self.chunk_s for x in _of_bins(lags, (50, 95, 99))],
                     (50, 95, 99)),
            **self._smooth(slice(None)),
            "offload": round(offload, 4),
            "offload_limit": round(limit, 4),
            "offload_of_limit": round(ratio(offload, limit), 4),
            "origin_copies": round(gave[0] / made, 3),
            "upload_fairness": round(_jain(gave[viewers]), 4),
            "repair_s": round(self._repair_s(faults), 1),
            "peer_s": round(self._peer_s),
            "peer_s_per_cpu_s": round(self._peer_s / max(cpu_s, 1e-9), 1),
            "cpu_s_per_viewer_s": round(cpu_s / max(1.0, self._peer_s), 9),
        }  # fmt: skip
        return {name: _plain(known.get(name)) for name in NAMES}

    def by_class(self, gave: Floats) -> dict[str, dict[str, Any]]:
        """The figures of each group."""
        total, made = max(1.0, float(gave.sum())), max(1, self._bytes_made)
        out = {}
        for number, group in enumerate(self.scenario.groups):
            mine = self.homes.group == number
            starts = (self.first_at - self.homes.comes_at)[mine & (self.first_at < np.inf)]
            out[group.name] = {
                "peers": group.n,
                "up_kbps": round(float(self.homes.up[mine].mean()) / 125, 1),
                "given_share": round(float(gave[mine].sum()) / total, 4),
                "gave_copies": round(float(gave[mine].sum()) / made / group.n, 3),
                **_named("lag_s", _of_bins(self.lags[number], (50, 95)), (50, 95)),
                **self._smooth(slice(number, number + 1)),
                "startup_s_p95": round(float(np.quantile(starts, 0.95)), 3) if len(starts) else 0.0,
            }
        return out

    def lag_sample(self) -> list[float]:
        """Quantiles of all lags, for the figure."""
        lags = self.lags.sum(axis=0)
        shares = [100 * (nth + 0.5) / LAGS_KEPT for nth in range(LAGS_KEPT)]
        return _of_bins(lags, tuple(shares)) if lags.any() else []

    def _smooth(self, groups: slice) -> dict[str, float]:
        played, late, missed = map(float, self.chunks[:, groups].sum(axis=1))
        frozen_s = float(self.frozen_s[groups].sum())
        return {
            "stall_ratio": round(ratio(frozen_s, frozen_s + played * self.chunk_s), 5),
            "continuity": round(ratio(played - late, played + missed), 5),
        }

    def _limit(self, copies: float, made: int) -> float:
        """As `Metrics._offload_limit`: min(1 - 1/N, u/r)."""
        homes = self.homes
        stays = np.minimum(homes.leaves_at, self._end_s()) - np.maximum(
            homes.comes_at, self.scenario.measured_from_s
        )
        up = float((homes.up * np.maximum(0.0, stays))[1:].sum())
        needed = max(1.0, copies * made)
        return max(0.0, min(1 - 1 / max(1.0, copies), up / needed))

    def _bound_s(self, viewers: float) -> float:
        """As `Metrics.lag_bound_s`."""
        rate = 125 * self.scenario.stream.bitrates_kbps[0]
        slot_s = min(PIECE_BYTES, rate * self.chunk_s * 0.5) / float(self.homes.up.max())
        return self.chunk_s + (1 + log2(max(1.0, viewers) + 1)) * slot_s

    def _repair_s(self, faults: list[Report]) -> float:
        """As `Metrics._repair_s`."""
        worst, times, shares = 0.0, self.series["t_s"], self.series["playing_share"]
        for fault in faults:
            first, end = bisect_left(times, fault.from_s + 1), bisect_left(times, fault.to_s + 30)
            bad = [n for n in range(first, min(end, len(shares))) if shares[n] < REPAIRED_SHARE]
            if bad:
                worst = max(worst, times[bad[-1]] + 1 - fault.from_s)
        return worst

    def _end_s(self) -> float:
        return self.scenario.duration_s

    def _seconds(self) -> float:
        return self._end_s() - self.scenario.measured_from_s


def _of_bins(counts: NDArray[np.int64], percents: tuple[float, ...]) -> list[float]:
    """Percentiles of what was counted in classes of a millisecond, in seconds."""
    total = int(counts.sum())
    if not total:
        return [0.0] * len(percents)
    upto = np.cumsum(counts)
    ranks = [max(1, ceil(percent / 100 * total)) for percent in percents]
    return [round((int(np.searchsorted(upto, rank)) + 0.5) / 1000, 4) for rank in ranks]


def _named(name: str, values: list[float], percents: tuple[int, ...]) -> dict[str, float]:
    return {f"{name}_p{p}": round(float(v), 3) for p, v in zip(percents, values, strict=True)}


def _jain(values: Floats) -> float:
    squares = float((values * values).sum())
    return float(values.sum()) ** 2 / (len(values) * squares) if squares else 0.0


def _plain(value: Any) -> Any:
    """A number of numpy as Python has it."""
    return value.item() if isinstance(value, np.generic) else value
