"""How much a node gives unless told otherwise. Apart, since the command line shows it at once."""

from __future__ import annotations

ORIGIN_COPIES = 3.0  # The default: what a broadcaster pays for, whatever the audience.
SEED_COPIES = 16.0  # Wild guess: a server with 100 Mbit/s carries 16 copies of 6 Mbit/s.
VIEWER_COPIES = 4.0  # Wild guess for homes: 4 Mbit/s up at 1 Mbit/s.
SEED_STREAMS_MAX = 8  # Wild guess: 64 MiB of window each at the very most.
