"""Clients outside of the server that ask for tokens, and remember what they were told."""

import base64
import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlencode, urlsplit


def claims(access_token: str) -> dict[str, Any]:
    payload = access_token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


class TokenLoad:
    """`threads` clients, each with a connection of its own, spread over the servers. Unlike httpx2 it leaves the machine to the server."""

    def __init__(self, urls: list[str], client_id: str, client_secret: str, threads: int = 4) -> None:
        self._addresses = [(urlsplit(url).hostname or "", urlsplit(url).port or 0) for url in urls]
        self._body = urlencode({"grant_type": "client_credentials", "client_id": client_id, "client_secret": client_secret})
        self._threads = threads
        self._lock = threading.Lock()
        self.acknowledged: list[str] = []
        self.statuses: Counter[int] = Counter()
        self.unanswered = 0  # requests without an answer, and those of which it says that the outcome is unknown
        self.wrong: list[str] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Ask and ask for the length of the block."""
        done = threading.Event()
        threads = [threading.Thread(target=self._ask, args=(done, number)) for number in range(self._threads)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            done.set()
            for thread in threads:
                thread.join(60)

    def count(self) -> int:
        return len(self.acknowledged)

    def _ask(self, done: threading.Event, number: int) -> None:
        host, port = self._addresses[number % len(self._addresses)]
        while not done.is_set():
            connection = HTTPConnection(host, port, timeout=30)
            try:
                connection.connect()
            except OSError:
                time.sleep(0.01)
                continue
            try:
                while not done.is_set() and self._one(connection):
                    pass
            finally:
                connection.close()

    def _one(self, connection: HTTPConnection) -> bool:
        try:
            connection.request("POST", "/api/v1/token", self._body, {"Content-Type": "application/x-www-form-urlencoded"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, HTTPException, ValueError):
            with self._lock:
                self.unanswered += 1
            return False
        with self._lock:
            self.statuses[response.status] += 1
            if response.status == 200:
                self.acknowledged.append(claims(answer["access_token"])["jti"])
            elif response.status != 503 or not response.getheader("Retry-After"):
                self.wrong.append(f"{response.status} {answer}")
            elif "unknown" in answer["error_description"]:
                self.unanswered += 1
        if response.status != 200:
            time.sleep(0.005)
        return True
