"""The constants of the model that no line of p2pstream says: they are taken from runs of `core`.

docs/SIMULATION.md says from which runs; `python -m simulations.model.calibrate` takes them anew.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("calibration.json")


@dataclass(frozen=True, slots=True)
class Calibration:
    """Seconds, but for `partners`.

    connect_s: from a host's start to its first edge. hop_s: what a hop costs besides the way and
    the sending of the piece. pull_s: what a pull costs besides its round trip and a half.
    detect_s: until the children of a crashed host look for another parent. startup_s, target_s:
    quantiles, evenly spaced, of the time to the first chunk and of the playout target then.
    """

    partners: int
    connect_s: float
    hop_s: float
    pull_s: float
    detect_s: float
    startup_s: tuple[float, ...]
    target_s: tuple[float, ...]


def load(path: Path = FILE) -> Calibration:
    """The accepted calibration."""
    values = json.loads(path.read_text())["constants"]
    values["startup_s"], values["target_s"] = map(tuple, (values["startup_s"], values["target_s"]))
    return Calibration(**values)
