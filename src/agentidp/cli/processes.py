"""Several server processes on one listening socket, for PostgreSQL. The parent only watches: it serves nothing and opens no database."""

import os
import signal
import sys
import time
from collections.abc import Callable

from agentidp.core import limits


def run_processes(count: int, run: Callable[[int], None]) -> None:
    """Fork `count` processes that each call `run(index)`; replace one that dies unasked; on SIGTERM or SIGINT end them all and return.

    Raises SystemExit(1) when processes keep dying.
    """
    children: dict[int, int] = {}
    asked: list[int] = []

    def end(number: int, _frame: object) -> None:
        asked.append(number)
        for child in children:
            os.kill(child, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    for index in range(count):
        children[_fork(index, run)] = index
    deaths = 0
    while children:
        child, status = os.wait()
        index = children.pop(child)
        if asked:
            continue
        deaths += 1
        print(f"agentidp: server process {index} ended with status {os.waitstatus_to_exitcode(status)}", file=sys.stderr)
        if deaths > limits.PROCESS_DEATHS_MAX:
            end(signal.SIGTERM, None)
            continue
        time.sleep(1)  # a process that cannot start must not spin
        if not asked:
            children[_fork(index, run)] = index
    if deaths > limits.PROCESS_DEATHS_MAX:
        sys.exit(1)


def _fork(index: int, run: Callable[[int], None]) -> int:
    child = os.fork()
    if child:
        return child
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
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
