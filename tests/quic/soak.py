"""`python -m tests.quic.soak [NAME ...]`: the long runs of test_soak.py, all or those named.

Ten virtual minutes of each attack (names as in attacks.py) and an hour of a relay in bad weather
(s16), each in a process of its own: memory that one run has freed would hide what the next takes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.quic import test_soak
from tests.quic.attacks import ATTACKS

AT_ONCE = 2  # Most machines have as many cores.
FILE = Path(test_soak.__file__)
ATTACK = test_soak.test_s01_s05_to_s14_a_node_under_attack_serves_others_and_does_not_grow.__name__
RELAY = test_soak.test_s16_a_relay_in_bad_weather_loses_nothing_and_does_not_grow.__name__
TESTS = {"s16": RELAY, **{name: f"{ATTACK}[{name}]" for name in ATTACKS}}  # The longest first.
TITLES = "|     |  time  | grows by  |   p99   |   calm  | pieces"


def main() -> int:
    """Run; returns how many failed."""
    names = sys.argv[1:] or list(TESTS)
    if unknown := set(names) - set(TESTS):
        print(f"no such run: {', '.join(sorted(unknown))}; there are {', '.join(TESTS)}")
        return 2
    with ThreadPoolExecutor(AT_ONCE) as pool:
        rows = list(pool.map(_run, names))
    print("", TITLES, *filter(None, rows), sep="\n")
    return sum(row.endswith("failed") for row in rows)


def _run(name: str) -> str:
    """One test; returns its row of the table."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", f"{FILE}::{TESTS[name]}"]
    lines, row = [], f"| {name}"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "P2PSTREAM_LONG": "1"}
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith(f"{name}:"):
                print(line, end="", flush=True)
            elif line.startswith(f"| {name}"):
                row = line.rstrip()
    if process.returncode:
        print("".join(lines), flush=True)
        row += " failed"
    return row


if __name__ == "__main__":
    sys.exit(main())
