"""Who feeds whom, as arrays: for each substream a forest whose root is the origin.

Invariants: depth grows by one along every edge, so that edges never make a ring (whoever looks for
a new source takes nobody deeper than itself, as `Parenting._may_leave` does); nobody pushes to more
children than it has slots. A host without a parent in a substream pulls from somebody: that edge
takes no slot and is slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from p2pstream.swarm.messages import SUBSTREAMS
from p2pstream.swarm.parenting import IMPROVE_S
from p2pstream.swarm.partners import PARTNERS_MAX
from p2pstream.swarm.push import (
    DICE_COST,
    DIRECT_MIN,
    HOP_COST,
    HOPS_MAX,
    ORIGIN_COST,
    RTT_COST_PER_S,
    SAME_PARENT_COST,
    SCARCE_COST,
    SEED_COST,
    origin_probability,
)
from simulations.model.calibration import Calibration
from simulations.model.homes import Floats, Homes, Ints, rtt_s

NOWHERE = 255  # A depth: no way to the origin is known.
AT_ONCE = 1 << 16  # Hosts that choose together: bounds the memory of their offers.
SOURCES = 4  # Of whom a pull takes the shallowest: wild guess.
Shallow = NDArray[np.int16]


@dataclass(slots=True)
class Level:
    """Hosts of one depth of one substream, children of one parent side by side.

    rank: place among its siblings. pushed: whether their parents send to one after the other; a
    pull is answered at once, and takes no turn.
    """

    child: Ints
    parent: Ints
    rank: Ints
    way_s: Floats
    pushed: bool


class Mesh:
    """All edges. parent, way_s, pulled, depth, seek_at: by substream and host."""

    def __init__(self, homes: Homes, calibration: Calibration, rng: np.random.Generator) -> None:
        shape = SUBSTREAMS, len(homes)
        self.homes, self.calibration, self.rng = homes, calibration, rng
        self.parent = np.full(shape, -1, np.int32)
        self.way_s = np.zeros(shape)
        self.pulled = np.zeros(shape, np.bool_)
        self.depth: Shallow = np.full(shape, NOWHERE, np.int16)
        self.seek_at = np.full(shape, np.inf)
        self.free = homes.slots.copy()
        self.there = np.zeros(len(homes), np.bool_)
        self.replaced = 0
        self._pool = np.zeros(0, np.int32)  # Hosts that are there, for drawing partners.
        self._servers = np.flatnonzero(~homes.viewer).astype(np.int32)
        self._met = np.zeros(len(homes), np.bool_)  # Who is a partner of origin and seeds.
        self._levels: list[list[Level]] = [[] for _ in range(SUBSTREAMS)]
        self._changed = True
        self._settled_at = 0.0

    def enter(self, hosts: Ints, *, now: float) -> None:
        """They have found the mesh. The origin is first of all."""
        self.there[hosts] = True
        self._pool = np.concatenate([self._pool, hosts])
        viewers = hosts[hosts > 0]
        self.depth[:, 0] = 0
        self.pulled[:, viewers] = True
        self.seek_at[:, viewers] = now
        self._met[viewers[: max(0, PARTNERS_MAX - int(self._met.sum()))]] = True
        self._changed = True

    def leave(self, hosts: Ints, *, now: float, told: bool) -> None:
        """They are gone. told: they said so; otherwise their children find out."""
        gone = np.zeros(len(self.homes), np.bool_)
        gone[hosts] = True
        self.there[hosts] = False
        self._pool = self._pool[self.there[self._pool]]
        for s in range(SUBSTREAMS):
            held = hosts[(self.parent[s, hosts] >= 0) & ~self.pulled[s, hosts]]
            np.add.at(self.free, self.parent[s, held], 1)
            self.parent[s, hosts], self.depth[s, hosts] = -1, NOWHERE
            self.pulled[s, hosts], self.seek_at[s, hosts] = False, np.inf
            fed = (self.parent[s] >= 0) & gone[self.parent[s]]
            self.pulled[s, fed] = True
            self.parent[s, fed] = -1
            wait_s = 0.0 if told else self.calibration.detect_s
            self.seek_at[s, fed] = now + wait_s
            self.replaced += int(fed.sum())
        self._changed = True

    def levels(self, substream: int) -> list[Level]:
        """The hosts in the order in which a piece reaches them; after `settle`."""
        return self._levels[substream]

    def settle(self, *, now: float) -> None:
        """Whoever has no parent looks for one, then the forests are put into order."""
        seeking = self.pulled & (self.seek_at <= now)
        for turn in range(SUBSTREAMS**2 if seeking.any() else 0):
            # In turns, or the first substream would take all of the origin's slots.
            s = turn % SUBSTREAMS
            hosts = np.flatnonzero(seeking[s]).astype(np.int32)
            hosts = hosts[(hosts + turn // SUBSTREAMS) % SUBSTREAMS == s]
            for start in range(0, len(hosts), AT_ONCE):
                self._choose(s, hosts[start : start + AT_ONCE])
        for s in range(SUBSTREAMS):
            self._improve(s, now - self._settled_at)
            lost = self.pulled[s] & (self.parent[s] < 0)
            self._pull(s, np.flatnonzero(lost).astype(np.int32))
        self._settled_at = now
        if self._changed:
            for s in range(SUBSTREAMS):
                self._measure(s)
                self._cut_off(s, now)
                self._levels[s] = list(self._order(s))
            self._changed = False

    # Choosing.

    def _partners(self, hosts: Ints) -> Ints:
        """[host, partner]: drawn from all that are there; the first viewers met the servers too."""
        drawn = self.rng.integers(0, len(self._pool), (len(hosts), self.calibration.partners))
        found = self._pool[drawn]
        servers = self._servers[: found.shape[1]]
        found[self._met[hosts], : len(servers)] = servers
        return found

    def _improve(self, s: int, passed_s: float) -> None:
        """Whom origin or seeds feed leaves them for peers, as `Parenting._improve`: one substream
        of each in `IMPROVE_S`, and the origin keeps `DIRECT_MIN`.
        """
        parent = self.parent[s]
        fed = np.flatnonzero((parent >= 0) & ~self.pulled[s] & ~self.homes.viewer[parent])
        shared = ((self.parent[:, fed] >= 0) & ~self.homes.viewer[self.parent[:, fed]]).sum(axis=0)
        leaving = fed[self.rng.random(len(fed)) < passed_s / IMPROVE_S / np.maximum(1, shared)]
        direct = leaving[parent[leaving] == 0]
        stay = max(0, len(direct) - max(0, int((parent[fed] == 0).sum()) - DIRECT_MIN))
        kept = self.rng.permutation(direct)[:stay]
        leaving = leaving[~np.isin(leaving, kept)].astype(np.int32)
        if len(leaving):
            self._choose(s, leaving, peers_only=True)

    def _choose(self, s: int, seekers: Ints, *, peers_only: bool = False) -> None:
        """The cheapest parent with a free slot, by the costs of `push.choose_parent`."""
        found = self._partners(seekers)
        depth = self.depth[s]
        mine = depth[seekers][:, None]
        theirs = depth[found].astype(np.int64)
        able = (self.free[found] > 0) & ~self.pulled[s][found] & (theirs < HOPS_MAX)
        able &= (theirs <= mine) & (found != seekers[:, None]) & self.there[found]
        if peers_only:
            able &= self.homes.viewer[found]
        way_s = rtt_s(self.homes, np.repeat(seekers, found.shape[1]), found.ravel(), self.rng)
        way_s = way_s.reshape(found.shape)
        already = sum(
            (self.parent[o][seekers][:, None] == found) & ~self.pulled[o][seekers][:, None]
            for o in range(SUBSTREAMS)
        )
        lucky = self.rng.random((len(seekers), 1)) < origin_probability(found.shape[1])
        origin_cost = np.where(lucky, 0.0, ORIGIN_COST)
        cost = (
            HOP_COST * theirs + RTT_COST_PER_S * way_s + SAME_PARENT_COST * already
            + SCARCE_COST / np.maximum(1, self.free[found])
            + DICE_COST * self.rng.random(way_s.shape)
            + np.where(self.homes.viewer[found], 0.0, np.where(found == 0, origin_cost, SEED_COST))
        )  # fmt: skip
        cost[~able] = np.inf
        best = cost.argmin(axis=1)
        rows = np.arange(len(seekers))
        some = np.isfinite(cost[rows, best])
        self._adopt(s, seekers[some], found[rows, best][some], way_s[rows, best][some] / 2)

    def _adopt(self, s: int, children: Ints, parents: Ints, way_s: Floats) -> None:
        """First come, first served, in a drawn order; the others ask again with the next chunk."""
        order = self.rng.permutation(len(children))
        children, parents, way_s = children[order], parents[order], way_s[order]
        order = np.argsort(parents, kind="stable")
        children, parents, way_s = children[order], parents[order], way_s[order]
        # No substream takes more than its share of the origin, or another would have no root.
        share = -(-int(self.homes.slots[0]) // SUBSTREAMS)
        share -= int(((self.parent[s] == 0) & ~self.pulled[s]).sum())
        room = np.where(parents == 0, np.minimum(share, self.free[parents]), self.free[parents])
        served = _rank(parents) < room
        children, parents, way_s = children[served], parents[served], way_s[served]
        had = children[(self.parent[s, children] >= 0) & ~self.pulled[s, children]]
        np.add.at(self.free, self.parent[s, had], 1)
        np.subtract.at(self.free, parents, 1)
        self.parent[s, children], self.way_s[s, children] = parents, way_s
        self.pulled[s, children], self.seek_at[s, children] = False, np.inf
        self.depth[s, children] = self.depth[s, parents] + 1
        self._changed |= len(children) > 0

    def _pull(self, s: int, hosts: Ints) -> None:
        """Ask the shallowest of a few for what nobody pushes."""
        if not len(hosts):
            return
        found = self._pool[self.rng.integers(0, len(self._pool), (len(hosts), SOURCES))]
        theirs = self.depth[s][found].astype(np.int64)
        theirs[(theirs > self.depth[s, hosts][:, None]) | (found == hosts[:, None])] = NOWHERE
        best = np.where(found == 0, HOPS_MAX, theirs).argmin(axis=1)  # The origin comes last.
        rows = np.arange(len(hosts))
        source, depth = found[rows, best], theirs[rows, best]
        found_one = depth < NOWHERE
        hosts, source = hosts[found_one], source[found_one]
        self.parent[s, hosts] = source
        rtts = rtt_s(self.homes, hosts, source, self.rng)
        self.way_s[s, hosts] = 1.5 * rtts + self.calibration.pull_s
        self.depth[s, hosts] = depth[found_one] + 1
        self._changed = True

    # Order.

    def _measure(self, s: int) -> None:
        """Depths anew, from the origin down."""
        parent, old = self.parent[s], self.depth[s]
        depth = np.full(len(parent), NOWHERE, np.int16)
        depth[0] = 0
        fed = np.flatnonzero(parent >= 0)
        for _ in range(4 * HOPS_MAX):
            new = np.minimum(NOWHERE, depth[parent[fed]] + 1)
            if np.array_equal(new, depth[fed]):
                break
            depth[fed] = new
        old[:] = depth

    def _cut_off(self, s: int, now: float) -> None:
        """Who hangs on nobody that the origin feeds: it finds out, and asks elsewhere."""
        lost = np.flatnonzero((self.parent[s] >= 0) & (self.depth[s] >= NOWHERE))
        pushed = lost[~self.pulled[s, lost]]
        np.add.at(self.free, self.parent[s, pushed], 1)
        self.pulled[s, lost] = True
        self.seek_at[s, lost] = now
        self.parent[s, lost] = -1

    def _order(self, s: int) -> list[Level]:
        depth, parent = self.depth[s], self.parent[s]
        hosts = np.flatnonzero((depth > 0) & (depth < NOWHERE)).astype(np.int32)
        hosts = hosts[np.lexsort((parent[hosts], depth[hosts]))]
        edges = np.searchsorted(depth[hosts], np.arange(1, depth[hosts].max(initial=0) + 2))
        return [level for a, b in pairwise(edges) for level in self._split(s, hosts[a:b])]

    def _split(self, s: int, hosts: Ints) -> Iterator[Level]:
        pulled = self.pulled[s, hosts]
        for pushed, child in ((True, hosts[~pulled]), (False, hosts[pulled])):
            if len(child):
                yield self._level(s, child, pushed)

    def _level(self, s: int, child: Ints, pushed: bool) -> Level:
        parent = self.parent[s, child]
        return Level(child, parent, _rank(parent), self.way_s[s, child], pushed)


def _rank(ordered: Ints) -> Ints:
    """The place of each among its equals, which stand side by side."""
    if not len(ordered):
        return ordered
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    counts = np.diff(np.append(first, len(ordered)))
    return (np.arange(len(ordered)) - np.repeat(first, counts)).astype(np.int32)
