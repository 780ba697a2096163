"""Several server processes on one listening socket, for PostgreSQL. The parent only watches: it serves nothing and opens no database."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from agentidp.core import limits

_WATCHED = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def run_processes(count: int, run: Callable[[int], None]) -> None:
    """Fork `count` processes that each call `run(index)`; replace one that dies unasked; on SIGTERM or SIGINT end them all and return.

    Raises SystemExit(1) when processes keep dying.
    """
    signal.signal(signal.SIGCHLD, lambda *_: None)  # the default would let the system drop it
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)  # waited for below: no handler ever runs in the middle of a fork
    family = os.pipe()  # its write end is open as long as the parent lives
    children = {_fork(index, run, family): index for index in range(count)}
    deaths, ending = 0, False
    while children:
        if signal.sigwait(_WATCHED) != signal.SIGCHLD:
            ending = True
            _end(children)
        for child, status in _ended():
            index = children.pop(child)
            if ending:
                continue
            deaths += 1
            print(f"agentidp: server process {index} ended with status {status}", file=sys.stderr)
            if deaths > limits.PROCESS_DEATHS_MAX:
                ending = True
                _end(children)
                continue
            time.sleep(1)  # a process that cannot start must not spin
            children[_fork(index, run, family)] = index
    if deaths > limits.PROCESS_DEATHS_MAX:
        sys.exit(1)


def _end(children: dict[int, int]) -> None:
    for child in children:
        os.kill(child, signal.SIGTERM)  # none is reaped meanwhile, so the id is still the child's


def _ended() -> Iterator[tuple[int, int]]:
    """The children that have ended by now, with their exit codes."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended[0], os.waitstatus_to_exitcode(ended[1])


def _fork(index: int, run: Callable[[int], None], family: tuple[int, int]) -> int:
    child = os.fork()
    if child:
        return child
    for number in _WATCHED:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    os.close(family[1])
    threading.Thread(target=_end_with_parent, args=(family[0],), daemon=True).start()
    try:
        run(index)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:  # noqa: BLE001 - the process ends here; the parent reports the code
        print(f"agentidp: {error}", file=sys.stderr)
        code = 1
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_with_parent(family: int) -> None:
    """A parent that was killed must not leave processes behind that hold its port."""
    os.read(family, 1)
    os.kill(os.getpid(), signal.SIGTERM)
