"""The media worker: `python -m p2pstream.media.worker ORDER`. Never imported by the node.

It speaks records on standard output and FFmpeg's complaints on standard error. It lives no longer
than the reader of its output, which is how it dies with its parent (PR_SET_PDEATHSIG would be
about the thread that started it, and trio's threads come and go).
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import threading
import time

import av.logging

from p2pstream.errors import UserError
from p2pstream.media.options import Order
from p2pstream.media.pace import Pacer, Unpaced
from p2pstream.media.produce import Clock, produce
from p2pstream.media.records import AnyRecord, Ended, Failed, pack

# security 5.9 says 1 GiB; PyAV and three x264 rungs of 1080p reserve more than they touch.
MEMORY_BYTES_MAX = 2 * 1024**3
FILES_MAX = 64  # security 5.9.
GRACE_S = 1.0  # From SIGTERM to the end, if the source does not answer.


def main() -> None:
    """Do what the order says until the source ends, the reader goes or SIGTERM comes."""
    order = Order.parse(sys.argv[1])
    pipe = _take_stdout()
    stopping = _guard(pipe)
    _limit()
    try:
        _run(order, pipe, stopping)
    except BrokenPipeError:
        os._exit(0)
    # Without the interpreter's farewell: libavformat's threads may hang in a dead network.
    os._exit(0)


def _run(order: Order, pipe: int, stopping: threading.Event) -> None:
    # The only clock: the worker is its own hands.
    pacer = Pacer(time.monotonic, time.sleep) if order.paced else Unpaced()  # noqa: TID251
    clock = Clock(time.monotonic, time.time)  # noqa: TID251
    try:
        for record in produce(order, pacer, clock):
            _write(pipe, record)
            if stopping.is_set():
                _write(pipe, Ended())
                return
    except UserError as error:
        _write(pipe, Failed(error.code, str(error)[:2000], error.hint[:2000]))
    except MemoryError:
        _write(pipe, Failed("media_failed", "The source needs more memory than a worker may have."))


def _write(pipe: int, record: AnyRecord) -> None:
    data = memoryview(pack(record))
    while data:
        data = data[os.write(pipe, data) :]


def _take_stdout() -> int:
    """Standard output for records alone: what anybody prints goes to standard error."""
    pipe = os.dup(1)
    os.dup2(2, 1)
    return pipe


def _guard(pipe: int) -> threading.Event:
    """Watch, while FFmpeg waits for a network, for SIGTERM and for the reader to go."""
    stopping = threading.Event()
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the node's to answer.
    # Written to at once, whatever the main thread is doing.
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(pipe, told, stopping), daemon=True).start()
    return stopping


def _watch(pipe: int, told: int, stopping: threading.Event) -> None:
    poll = select.poll()
    poll.register(pipe, 0)  # Only errors: the reader has gone.
    poll.register(told, select.POLLIN)
    ready = dict(poll.poll())
    if pipe not in ready:
        stopping.set()
        time.sleep(GRACE_S)
    os._exit(0)


def _limit() -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_NOFILE, FILES_MAX),
        (resource.RLIMIT_CORE, 0),
    ):
        _, most = resource.getrlimit(kind)
        least = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(kind, (least, least))
    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.ERROR)


if __name__ == "__main__":
    main()
