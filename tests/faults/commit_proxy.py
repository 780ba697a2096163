"""A proxy in front of PostgreSQL that knows a COMMIT when it sees one: holds it back, or lets it through and cuts the line before the answer."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

_SOCKET_NAME = ".s.PGSQL.5432"


class CommitProxy:
    """`url` leads through it. COMMITs are simple queries, both of the ledger and of units of work."""

    def __init__(self, url: str, folder: Path) -> None:
        upstream = parse_qs(urlsplit(url).query)["host"][0]
        self.url = url.replace(upstream, str(folder))
        self.held = self.cut = 0
        self._upstream = str(Path(upstream) / _SOCKET_NAME)
        self._open = threading.Event()
        self._open.set()
        self._cuts_left = 0
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / _SOCKET_NAME))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    @contextlib.contextmanager
    def commits_held(self) -> Iterator[None]:
        """No COMMIT reaches the server for the length of the block."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def cut_next(self, count: int) -> None:
        """The next `count` COMMITs are done by the server, and nobody hears of it."""
        with self._lock:
            self._cuts_left += count

    def close(self) -> None:
        self._open.set()
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._upstream)
            except OSError:  # the database is down
                client.close()
                server.close()
                continue
            self._sockets += [client, server]
            doomed = threading.Event()
            threading.Thread(target=self._requests, args=(client, server, doomed), daemon=True).start()
            threading.Thread(target=self._answers, args=(server, client, doomed), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if data.startswith(b"Q") and b"COMMIT" in data:
                    self._on_commit(doomed)
                server.sendall(data)
        _shut(client, server)

    def _on_commit(self, doomed: threading.Event) -> None:
        with self._lock:
            if self._cuts_left:
                self._cuts_left -= 1
                self.cut += 1
                doomed.set()
            self.held += not self._open.is_set()
        self._open.wait()

    def _answers(self, server: socket.socket, client: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if doomed.is_set():  # the server has answered: it is done
                    break
                client.sendall(data)
        _shut(client, server)


def _shut(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
