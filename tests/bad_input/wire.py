"""Bytes on a socket, for what no HTTP client would send."""

import contextlib
import json
import socket
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

SECONDS = 20  # until a test gives up on an answer: longer than any deadline of the server


@dataclass(frozen=True)
class Answer:
    """A whole response. Status 0: the connection was closed without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port or 80), SECONDS)


def receive(connection: socket.socket, method: str = "GET") -> Answer:
    """The next response of the connection."""
    response = HTTPResponse(connection, method=method)
    try:
        response.begin()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    except (ConnectionError, EOFError):
        return Answer(0, {}, b"")
    finally:
        response.close()


def exchange(url: str, data: bytes, *, half_close: bool = False) -> Answer:
    """Send bytes, then read one response; `half_close` says beforehand that nothing more will come."""
    with connect(url) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        return receive(connection)


def head(method: str, path: str, *lines: str, close: bool = True) -> bytes:
    """The head of a request with these header lines, as they are."""
    every = [f"{method} {path} HTTP/1.1", "Host: localhost", *(["Connection: close"] if close else []), *lines]
    return ("\r\n".join(every) + "\r\n\r\n").encode("latin-1")


def flood(url: str, start: bytes, piece: bytes, *, bytes_max: int) -> tuple[bool, int]:
    """Send `start`, then `piece` again and again. Returns whether the server cut the connection before `bytes_max`, and how much was sent."""
    sent = 0
    with connect(url) as connection:
        try:
            connection.sendall(start)
            while sent < bytes_max:
                connection.sendall(piece)
                sent += len(piece)
        except ConnectionError:
            return True, sent
    return False, sent
