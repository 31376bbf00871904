"""When a swarm asks the DHT for providers of its stream.

Often while it lacks partners or the stream, ever more rarely while all is well: all who watch ask
the same twenty nodes, those nearest to the stream's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from p2pstream.swarm.partners import PARTNERS_WANTED

LOOK_S = 5.0  # So often we look whether all is well. Wild guess.
# While something is lacking: the pause after the first find; it doubles, but where nobody is there.
LACK_S_MIN, LACK_S_MAX = 2.0, 20.0
# While all is well; this doubles too. Records live 240 s: most then are of who is there.
REST_S_MIN, REST_S_MAX = 40.0, 160.0


@dataclass(slots=True)
class Search:
    """pause_s: after each call of `due`, the seconds until the next."""

    pause_s: float = LACK_S_MIN
    _since_s: float = inf  # The last find; as if it had been long ago.
    _lack_s: float = LACK_S_MIN / 2
    _rest_s: float = REST_S_MIN

    def due(self, partners: int, *, flows: bool) -> bool:
        """Whether to ask now. flows: the stream does (`Swarm.flows`).

        Who came with us is in nobody's records when we ask first, so whoever has few asks again.
        """
        self._since_s += self.pause_s
        if partners >= PARTNERS_WANTED and flows:
            self.pause_s, self._lack_s = LOOK_S, LACK_S_MIN / 2
            if self._since_s < self._rest_s:
                return False
            self._rest_s = min(REST_S_MAX, 2 * self._rest_s)
        else:
            self._rest_s = REST_S_MIN
            self._lack_s = min(LACK_S_MAX, 2 * self._lack_s) if partners else LACK_S_MIN
            self.pause_s = self._lack_s
        self._since_s = 0.0
        return True
