"""How fast this processor runs Python just now, to compare what a run costs with.

What a CPU-second is worth depends on the hour: another machine's work on the same core halves it
within seconds. A plain loop is slowed down alike. Measured in turn with `steady`, fifteen runs gave
365 to 464 peer-seconds a CPU-second, but 106 to 122 for each million rounds of such a loop.
"""

from __future__ import annotations

from time import process_time

ROUNDS = 5000  # Some 1 ms, between any two virtual seconds: 2 % of a run of thirty homes.
ENTRIES = 256  # Of a table that the first cache holds, and that leaves room for others.


class Yardstick:
    """cpu_s: what measuring took; it is not part of the run."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self._rounds = 0

    def measure(self) -> None:
        """Run the loop once."""
        began = process_time()
        _loop()
        self.cpu_s += process_time() - began
        self._rounds += ROUNDS

    @property
    def m_rounds_per_cpu_s(self) -> float:
        """Millions of rounds in a CPU-second; 0 before the first."""
        return self._rounds / self.cpu_s / 1e6 if self.cpu_s else 0.0

    def beside(self, per_cpu_s: float) -> float:
        """What so much in a CPU-second is for a million rounds; 0 before the first."""
        return round(per_cpu_s / self.m_rounds_per_cpu_s, 1) if self.cpu_s else 0.0


def _loop() -> None:
    table: dict[int, int] = {}
    for n in range(ROUNDS):
        table[n % ENTRIES] = table.get(n * 7 % ENTRIES, 0) + n
