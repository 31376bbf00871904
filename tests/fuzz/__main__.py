"""`python -m tests.fuzz [TARGET ...] [--seconds S] [--messages M]`: all targets, or those named.

Each runs in a process of its own, until it has had so many seconds or so many messages. Inputs
that reached new code are kept in .cache/fuzz/ for the next time, and so is an input that crashes;
`python -m tests.fuzz TARGET --again FILE` runs that one alone.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TARGETS = (
    "codec", "heads", "tickets", "certificates", "requests", "datagrams", "handshakes", "strangers",
)  # fmt: skip
CACHE = Path(__file__).parents[2] / ".cache" / "fuzz"
INPUT_BYTES_MAX = 4096
# Processor time of one input, above which it is a crash: something grows faster than it should.
# Not libFuzzer's own timeout, which counts the time that a machine sleeps.
INPUT_S_MAX = 20
MEMORY_MIB_MAX = 1024  # Likewise.


def main() -> int:
    """Fuzz; returns how many targets crashed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--messages", type=int, default=0, help="at most so many; 0: no limit")
    parser.add_argument("--again", type=Path, help="run this input alone")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if options.again:
        importlib.import_module(f"tests.fuzz.{options.targets[0]}").one(options.again.read_bytes())
        return 0
    if options.here:
        _fuzz(options.targets[0], options.seconds, options.messages)
    limits = ["--seconds", str(options.seconds), "--messages", str(options.messages)]
    command = [sys.executable, "-m", "tests.fuzz", "--here", *limits]
    names = options.targets or TARGETS
    crashed = [name for name in names if subprocess.run([*command, name], check=False).returncode]
    print(f"{len(names)} targets, crashed: {', '.join(crashed) or 'none'}")
    return len(crashed)


def _fuzz(name: str, seconds: float, messages_max: int) -> None:
    """Does not return."""
    import atheris

    logging.disable(logging.ERROR)  # Strangers do little here but wrong.
    with atheris.instrument_imports(include=["p2pstream", "aioquic", "h11"]):
        target: Any = importlib.import_module(f"tests.fuzz.{name}")
    signal.signal(signal.SIGPROF, _stop)
    corpus = CACHE / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    began = time.perf_counter()
    runs = messages = 0

    def one(data: bytes) -> None:
        nonlocal runs, messages
        signal.setitimer(signal.ITIMER_PROF, INPUT_S_MAX)
        messages += target.one(data)
        runs += 1
        spent = time.perf_counter() - began
        if spent >= seconds or 0 < messages_max <= messages:
            print(f"{name}: {messages} messages in {runs} inputs, {spent:.0f} s, no crash")
            sys.stdout.flush()
            os._exit(0)  # libFuzzer knows no other way to end well.

    options = {
        "artifact_prefix": f"{CACHE / name}-",
        "len_control": 0,  # Long inputs from the start: a link costs more than what happens to it.
        "max_len": INPUT_BYTES_MAX,
        "timeout": 24 * 3600,
        "report_slow_units": 24 * 3600,
        "rss_limit_mb": MEMORY_MIB_MAX,
        "verbosity": 0,
    }
    atheris.Setup([name, *(f"-{key}={value}" for key, value in options.items()), str(corpus)], one)
    atheris.Fuzz()


def _stop(*_: object) -> None:
    raise TimeoutError(f"one input took more than {INPUT_S_MAX} s")


if __name__ == "__main__":
    sys.exit(main())
