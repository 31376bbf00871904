"""aioquic's own tests, with its connection and with ours in its place: are all outcomes the same?

    python tests/quic/rerun_aioquic.py CHECKOUT [PATTERN]

CHECKOUT: the source of the aioquic that is installed, unpacked; its tests are run from there, on
the installed package. PATTERN: of their files, test*.py. All run as they are, and once more without
a qlog: with one, our connection goes aioquic's way throughout. What ours refuses on purpose it lets
through here (`Lenient`), or it stands in `ON_PURPOSE`. Ends with 1 when anything else differs.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import unittest
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

from aioquic import tls
from aioquic.quic import connection, logger
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from p2pstream.net.fast import FastEngine

ASIDE = "looks for parcels among aioquic's streams; ours are kept aside"
AT_ITS_END = "what there is of a parcel is told with its end"
SHORTER = "counts bytes; the length of what is said takes no more of them than it needs"
# Of aioquic 1.7: test -> why its outcome is another one.
ON_PURPOSE = {
    f"tests.test_{name}": why
    for name, why in {
        "connection.QuicConnectionTest.test_handle_reset_stream_frame_twice": AT_ITS_END,
        "connection.QuicConnectionTest.test_handle_stream_frame_fin_only": ASIDE,
        "connection.QuicConnectionTest.test_handle_stream_frame_opens_lower_streams": ASIDE,
        "connection.QuicConnectionTest.test_handle_stream_frame_over_max_streams_still_open": ASIDE,
        "connection.QuicConnectionTest.test_send_max_streams_retransmit": (
            "a parcel's end makes room at once"
        ),
        "connection.QuicConnectionTimelineTest.test_connect_with_lost_client_stream_data": SHORTER,
        "connection.QuicConnectionTimelineTest.test_idle_timeout_restarted_on_send": SHORTER,
        "h3.H3ConnectionTest.test_request_with_server_push": AT_ITS_END,
        "h3.H3ConnectionTest.test_request_with_server_push_max_push_id": AT_ITS_END,
        "h3.H3ConnectionTest.test_uni_stream_type": AT_ITS_END,
        "webtransport.WebTransportTest.test_unidirectional_stream_reset": AT_ITS_END,
    }.items()
}

Caught = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class Lenient(FastEngine):
    """Ours, but as open to other programs as aioquic: keys, groups, streams, windows, sizes, paths.

    ACKs go with other frames, as aioquic's do; the tests count packets.
    """

    _write_connection_limits = QuicConnection._write_connection_limits
    _write_stream_limits = QuicConnection._write_stream_limits
    _probe_preferred_address = QuicConnection._probe_preferred_address

    def __init__(self, *, configuration: QuicConfiguration, **others: Any) -> None:
        super().__init__(configuration=configuration, **others)
        stock = QuicConnection(configuration=configuration, **others)
        self._local_max_stream_data_uni = stock._local_max_stream_data_uni
        self._local_max_streams_bidi = stock._local_max_streams_bidi
        ours, theirs = self._local_max_streams_uni, stock._local_max_streams_uni
        ours.value, ours.sent = theirs.value, theirs.sent

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        stock = tls.Context(is_client=self._is_client)
        self.tls.__class__ = tls.Context
        self.tls._signature_algorithms = stock._signature_algorithms
        self.tls._supported_groups = stock._supported_groups
        self.tls._request_client_certificate = stock._request_client_certificate

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        if self._network_paths and addr == self._network_paths[0].addr:
            super().receive_datagram(data, addr, now)
        else:
            QuicConnection.receive_datagram(self, data, addr, now)

    def _receive_from_elsewhere(self, data: bytes, addr: Any, now: float) -> None:
        QuicConnection.receive_datagram(self, data, addr, now)

    def _leave_old_paths(self) -> None:
        pass

    @property
    def _credit_is_due(self) -> bool:
        limit = self._local_max_data
        return limit.used * 2 > limit.value

    def _raise_credit(self) -> None:
        if self._credit_is_due:
            self._local_max_data.value *= 2

    def _probe_path(self, now: float) -> list[tuple[bytes, Any]]:
        del now
        return []


class Outcomes(unittest.TestResult):
    """Of each test one word, and of some why."""

    def __init__(self) -> None:
        super().__init__()
        self.words: dict[str, str] = {}
        self.reasons: dict[str, str] = {}

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802  # unittest's names.
        super().startTest(test)
        self.words[test.id()] = "passed"

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self._note(test, "skipped", reason)

    def addFailure(self, test: unittest.TestCase, err: Caught) -> None:  # noqa: N802
        self._note(test, "failed", repr(err[1]))

    def addError(self, test: unittest.TestCase, err: Caught) -> None:  # noqa: N802
        self._note(test, "failed", repr(err[1]))

    def addSubTest(  # noqa: N802
        self, test: unittest.TestCase, subtest: unittest.TestCase, err: Caught | None
    ) -> None:
        if err is not None:
            self._note(test, "failed", f"{subtest}: {err[1]!r}")

    def _note(self, test: unittest.TestCase, word: str, reason: str) -> None:
        self.words[test.id()] = word
        self.reasons[test.id()] = reason


def main(checkout: str, pattern: str = "test*.py") -> int:
    """Run all four ways and tell what differs; returns the exit status."""
    print(f"aioquic {version('aioquic')}, tests of {checkout}")
    return max([_compare(checkout, pattern, qlog) for qlog in ("with", "without")])


def _compare(checkout: str, pattern: str, qlog: str) -> int:
    (stock, _), (ours, reasons) = (_run(checkout, pattern, who, qlog) for who in ("stock", "ours"))
    for who, words in (("stock", stock), ("ours", ours)):
        counts = ", ".join(f"{n} {word}" for word, n in sorted(Counter(words.values()).items()))
        print(f"{qlog} qlog, {who}: {counts}")
    other = [test for test in sorted(stock | ours) if stock.get(test) != ours.get(test)]
    for test in other:
        why = ON_PURPOSE.get(test) or f"DIFFERENT: {reasons.get(test, '')}"
        print(f"  {test}: {stock.get(test)}, ours {ours.get(test)}. {why}")
    return int(any(test not in ON_PURPOSE for test in other))


def _run(checkout: str, pattern: str, who: str, qlog: str) -> list[dict[str, str]]:
    """In a process of its own: what was imported cannot be replaced."""
    command = [sys.executable, __file__, checkout, pattern, who, qlog]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


def _inside(checkout: str, pattern: str, who: str, qlog: str) -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("quic").setLevel(logging.NOTSET)  # As it was before ours was imported.
    logging.lastResort = logging.NullHandler()
    if who == "ours":
        vars(connection)["QuicConnection"] = Lenient
    if qlog == "without":
        vars(logger)["QuicLogger"] = lambda: None
    sys.path.insert(0, checkout)  # Their `tests`, not ours.
    found = unittest.defaultTestLoader.discover(f"{checkout}/tests", pattern, checkout)
    outcomes = Outcomes()
    found.run(outcomes)
    print(json.dumps([outcomes.words, outcomes.reasons]))


if __name__ == "__main__":
    if len(sys.argv) == 5:
        _inside(*sys.argv[1:])
    else:
        sys.exit(main(str(Path(sys.argv[1]).resolve()), *sys.argv[2:]))
