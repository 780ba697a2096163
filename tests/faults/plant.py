"""Server processes on one database, for what must hold between them: on SQLite one, on PostgreSQL two."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
from tests.processes import ServerProcess
from tests.serving import free_port

_OPERATOR = "admin:orgs agents:read agents:write tokens:read policies:write openid"  # what an administrator may do, whoever makes it must be able to


class Plant:
    """Settings by their names after the prefix."""

    def __init__(self, folder: Path, engine: str, url: str, **settings: str) -> None:
        port = free_port()
        settings = {"ISSUER": f"http://127.0.0.1:{port}", "DATABASE_URL": url, "LOG_LEVEL": "error", "RATE_LIMIT__PER_MINUTE": "0"} | settings
        self.url, self._folder = url, folder
        self._settings = [settings | {"PORT": str(one)} for one in (port, *([free_port()] if engine == "postgresql" else []))]
        self.servers: list[ServerProcess] = []
        self.start()

    @property
    def issuer(self) -> str:
        return self._settings[0]["ISSUER"]

    def start(self) -> None:
        self.servers = [ServerProcess(self._folder, **one) for one in self._settings]

    def kill(self) -> None:
        for server in self.servers:
            server.kill()

    def organization(self, plan: str) -> tuple[str, dict[str, str]]:
        """A fresh organization on the plan, and the form by which its administrator gets tokens."""
        headers = {"Authorization": f"Bearer {self.servers[0].token(scope=_OPERATOR)['access_token']}"}
        with self.servers[0].client(headers=headers) as client:
            body = {"name": "Acme", "slug": f"acme-{time.monotonic_ns()}", "planTier": plan}
            made = client.post("/api/v1/organizations", json=body).json()
            path = f"/api/v1/organizations/{made['organizationId']}/administrators"
            first = client.post(path, json={"email": "first@acme.example"}).json()
        return made["organizationId"], {"grant_type": "client_credentials", "client_id": first["agentId"], "client_secret": first["clientSecret"]}

    def bearer(self, form: dict[str, str]) -> dict[str, str]:
        with self.servers[0].client() as client:
            return {"Authorization": f"Bearer {client.post('/api/v1/token', data=form).json()['access_token']}"}

    def at_once(self, count: int, send: Callable[[httpx2.Client, int], httpx2.Response]) -> list[httpx2.Response]:
        """The answers to as many requests let go together, each on a connection of its own, spread over the processes."""
        barrier = threading.Barrier(count)

        def one(number: int) -> httpx2.Response:
            with self.servers[number % len(self.servers)].client() as client:
                client.get("/health")
                barrier.wait(60)
                return send(client, number)

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(one, range(count)))


def statuses(answers: Iterable[httpx2.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)
