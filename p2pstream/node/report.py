"""What a node does, as plain data: for the page, for `status`, for `--json`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from p2pstream import __version__
from p2pstream.access import base32
from p2pstream.identity import NodeId
from p2pstream.net.carrier import LinkInfo
from p2pstream.node.node import Node
from p2pstream.stream.chunk import Init
from p2pstream.swarm.messages import NO_HOPS, SHORT_ID_BYTES, Role
from p2pstream.swarm.partners import Partner
from p2pstream.swarm.protocol import Swarm

RATE_S = 2.0  # Rates are means over this long: steady enough to read, quick enough to show change.


@dataclass(slots=True)
class _Mark:
    at: float
    taken: int
    given: int
    taken_bps: float = 0.0
    given_bps: float = 0.0


@dataclass(slots=True)
class Reporter:
    """Describes one swarm. Keeps what it needs to tell rates from counts; bounded by partners."""

    node: Node
    swarm: Swarm
    started_at: float
    marks: dict[NodeId, _Mark] = field(default_factory=dict)

    def partners(self, *, now: float) -> list[dict[str, Any]]:
        links = {info.peer: info for info in self.node.carrier.links()}
        self.marks = {n: mark for n, mark in self.marks.items() if n in self.swarm.partners}
        return [
            self._partner(partner, links.get(partner.node), now)
            for partner in self.swarm.partners.values()
        ]

    def totals(self) -> dict[str, Any]:
        c = self.swarm.counters
        return {
            "from_peers": c.taken[Role.VIEWER],
            "from_seeds": c.taken[Role.SEED],
            "from_origin": c.taken[Role.ORIGIN],
            "uploaded": c.given,
            "duplicates": c.duplicates,
            "control": self._control(),
            "pieces_verified": c.pieces_verified,
            "pieces_refused": c.pieces_refused,
            "heads_verified": c.heads_verified,
            "pulls": c.pulls,
            "parents_replaced": c.parents_replaced,
            "hops_max": c.hops_max,
        }

    def state(self, *, now: float, state: str, detail: str) -> dict[str, Any]:
        """All of it, in the shape that the page reads."""
        partners = self.partners(now=now)
        return {
            "version": __version__,
            "state": state,
            "detail": detail,
            "started_s": round(now - self.started_at, 3),
            "stream": {
                "id": base32(self.swarm.stream),
                "title": self.swarm.epoch.title if self.swarm.epoch else "",
                "epoch": self.swarm.epoch.number if self.swarm.epoch else None,
                "forked": self.swarm.forked,
            },
            "playout": self._playout(now),
            "rendition": self._rendition(),
            "renditions": [_init(init) for init in self._current_inits()],
            "me": {"id": _short(self.node.node_id), "role": self.swarm.role.name.lower()},
            "partners": partners,
            "totals": self.totals(),
            "graph": self._graph(partners),
        }

    def _control(self) -> int:
        """Bytes that left this node and are no pieces: headers, messages, acknowledgements."""
        given = sum(swarm.counters.given for swarm in self.node.swarms)
        return max(0, self.node.carrier.counters.endpoint.bytes_out - given)

    def _partner(self, partner: Partner, link: LinkInfo | None, now: float) -> dict[str, Any]:
        mark = self._mark(partner, now)
        hops = [h for heard in partner.heard.values() for h in heard.hops if h != NO_HOPS]
        parents = {p for heard in partner.heard.values() for p in heard.parents if p}
        return {
            "id": _short(partner.node),
            "role": partner.role.name.lower(),
            "address": "{}:{}".format(*partner.address),
            "rtt_ms": round(link.rtt_s * 1000, 1) if link else None,
            "down_kbps": round(mark.taken_bps / 1000, 1),
            "up_kbps": round(mark.given_bps / 1000, 1),
            "hops": 0 if partner.role is Role.ORIGIN else min(hops, default=None),
            "feeds_me": sorted(s for _, s in self.swarm.parents.fed_by(partner.node)),
            "fed_by_me": sorted(s for _, s in self.swarm.children.feeds_of(partner.node)),
            "parents": sorted(parent.hex() for parent in parents),
        }

    def _mark(self, partner: Partner, now: float) -> _Mark:
        account = partner.account
        mark = self.marks.setdefault(partner.node, _Mark(now, account.taken, account.given))
        passed_s = now - mark.at
        if passed_s >= RATE_S:
            mark.taken_bps = 8 * (account.taken - mark.taken) / passed_s
            mark.given_bps = 8 * (account.given - mark.given) / passed_s
            mark.at, mark.taken, mark.given = now, account.taken, account.given
        return mark

    def _playout(self, now: float) -> dict[str, Any] | None:
        watch = self.swarm.watch
        if watch is None:
            return None
        counters = watch.playout.counters
        first = self.swarm.first_chunk_at
        return {
            "lag_s": self._lag_s(now),
            "buffer_s": round(watch.playout.buffer_s(), 3),
            "target_s": round(watch.playout.target_s, 3),
            "played": counters.played,
            "late": counters.late,
            "stalls": counters.stalls,
            "stall_s": round(watch.playout.stall_s(now=now), 3),
            "skipped": counters.skipped,
            "startup_s": round(first - self.started_at, 3) if first is not None else None,
        }

    def _lag_s(self, now: float) -> float | None:
        """How old the picture is that playout handed over last."""
        watch = self.swarm.watch
        assert watch is not None
        seq = watch.playout.next_seq
        head = self.swarm.window.head(seq - 1) if seq is not None else None
        return round(self.node.wall(now) - head.captured_ms / 1000, 3) if head else None

    def _rendition(self) -> dict[str, Any] | None:
        watch = self.swarm.watch
        current = [i for i in self._current_inits() if watch and i.rendition == watch.rendition]
        return _init(current[0]) if current else None

    def _current_inits(self) -> list[Init]:
        head = self.swarm.window.head(self.swarm.window.newest)
        parts = head.parts if head else ()
        return [self.swarm.inits[part.init] for part in parts if part.init in self.swarm.inits]

    def _graph(self, partners: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Who feeds whom, as far as our partners tell: they name their parents in their maps."""
        me = _short(self.node.node_id)
        nodes = {me: {"id": me, "role": self.swarm.role.name.lower(), "me": True}}
        links: dict[tuple[str, str], float] = {}
        for partner in partners:
            nodes[partner["id"]] = {"id": partner["id"], "role": partner["role"], "me": False}
            if partner["feeds_me"]:
                links[partner["id"], me] = partner["down_kbps"]
            if partner["fed_by_me"]:
                links[me, partner["id"]] = partner["up_kbps"]
        for partner in partners:
            for parent in partner["parents"]:
                nodes.setdefault(parent, {"id": parent, "role": "viewer", "me": False})
                links.setdefault((parent, partner["id"]), 0.0)
        return {
            "nodes": list(nodes.values()),
            "links": [{"from": a, "to": b, "kbps": kbps} for (a, b), kbps in links.items()],
        }


def _init(init: Init) -> dict[str, Any]:
    return {
        "id": init.rendition,
        "name": init.name,
        "width": init.width,
        "height": init.height,
        "bitrate": init.bitrate,
        "codecs": init.codecs,
    }


def _short(node: NodeId) -> str:
    return node[:SHORT_ID_BYTES].hex()
