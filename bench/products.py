"""The product itself, started as its users start it, with agents that have credentials, and the requests that they make."""

import base64
import json
import shutil
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.load import NUMBER, http
from bench.processes import ROOT, WORK, Absent, Server, free_port

AGENTIDP = str(Path(sys.executable).parent / "agentidp")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
GRANT = "grant_type=client_credentials"
_MAY_REGISTER = "agents:write+agents:read+tokens:read"  # what is given to an agent, one must hold
CLIENTS = 64  # different agents that ask for tokens in turn


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()}


def call(url: str, body: Any = None, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """One request while things are set up. Raises Absent when it is refused."""
    data, sent = None, dict(headers or {})
    if isinstance(body, str):
        data, sent = body.encode(), sent | FORM
    elif body is not None:
        data, sent = json.dumps(body).encode(), sent | {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, sent), timeout=60) as answer:
            found: dict[str, Any] = json.loads(answer.read() or b"{}")
            return found
    except urllib.error.HTTPError as error:
        raise Absent(f"{error.code} from {url.partition('/')[2]}: {error.read()[:200]!r}") from error
    except OSError as error:
        raise Absent(f"no answer: {error}") from error


@dataclass
class Product:
    """A running instance of its own: `requests` are token requests of its agents."""

    server: Server
    folder: Path
    requests: list[str] = field(default_factory=list)
    clients: list[tuple[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def database(self) -> Path:
        return self.folder / "data" / "agentidp.db"

    def first(self) -> dict[str, str]:
        """What first-credential.json holds, as soon as it is there."""
        path = self.folder / "data" / "first-credential.json"
        for _ in range(3000):
            if path.exists():
                found: dict[str, str] = json.loads(path.read_text())
                return found
            if not self.server.alive:
                self.server.wait_ready()
            time.sleep(0.01)
        raise Absent("the product was not set up in 30 s")

    def operator_token(self, scope: str) -> str:
        first = self.first()
        return str(call(f"{self.url}/api/v1/token", f"{GRANT}&scope={scope}", basic(first["clientId"], first["clientSecret"]))["access_token"])

    def enrol(self, count: int = CLIENTS) -> None:
        """Register agents with one credential each."""
        bearer = {"Authorization": f"Bearer {self.operator_token(_MAY_REGISTER)}"}
        for number in range(count):
            agent = call(f"{self.url}/api/v1/agents", _registration(f"client-{number}"), bearer)["agentId"]
            secret = call(f"{self.url}/api/v1/agents/{agent}/credentials", {}, bearer)["clientSecret"]
            self.clients.append((agent, secret))
        self.requests = token_requests(self.port, self.clients)

    def introspections(self) -> list[str]:
        bearer = {"Authorization": f"Bearer {self.operator_token('tokens:read')}"} | FORM
        tokens = [call(f"{self.url}/api/v1/token", GRANT, basic(*client))["access_token"] for client in self.clients]
        return [http("POST", "/api/v1/token/introspect", self.port, bearer, f"token={token}") for token in tokens]

    def guarded_calls(self) -> list[str]:
        return [http("GET", "/agent-info", self.port, {"Authorization": f"Bearer {self.operator_token('openid')}"})]

    def registrations(self) -> list[str]:
        headers = {"Authorization": f"Bearer {self.operator_token(_MAY_REGISTER)}", "Content-Type": "application/json"}
        return [http("POST", "/api/v1/agents", self.port, headers, json.dumps(_registration(f"new-{NUMBER}")))]


def token_requests(port: int, clients: list[tuple[str, str]]) -> list[str]:
    return [http("POST", "/api/v1/token", port, FORM | basic(*client), GRANT) for client in clients]


def start(name: str, *, database_url: str | None = None, variant: str = "", folder: Path | None = None, workers: int = 1, **settings: str) -> Product:
    """Start an instance, on an empty folder unless one is given, or a variant of it that is a program of this folder. Nothing is logged per request, as
    with the peers.
    """
    if folder is None:
        folder = WORK / name
        shutil.rmtree(folder, ignore_errors=True)
    port = free_port()
    env = {"AGENTIDP_DATA_DIR": str(folder / "data"), "AGENTIDP_PORT": str(port), "AGENTIDP_LOG_LEVEL": "warning"}
    env["AGENTIDP_RATE_LIMIT__PER_MINUTE"] = "0"  # servers are compared without limits
    env["AGENTIDP_RATE_LIMIT__PUBLIC_PER_MINUTE"] = "0"
    env |= {f"AGENTIDP_{key}": value for key, value in settings.items()}
    if database_url:
        env["AGENTIDP_DATABASE_URL"] = database_url
    command = [sys.executable, "-m", f"bench.{variant}"] if variant else [AGENTIDP, "serve", "--workers", str(workers)]
    return Product(Server(name, command, folder, port, env, ROOT if variant else None), folder)


def _registration(name: str) -> dict[str, Any]:
    return {
        "email": f"{name}@bench.example",
        "agentType": "screener",
        "version": "1.0.0",
        "owner": "bench",
        "deploymentEnv": "development",
        "capabilities": ["resume:read"],
        "scopes": ["agents:read", "tokens:read"],
    }


def cursor_at(index: int) -> str:
    """The cursor that begins below the `index`-th of the agents that `databases.add_agents` made."""
    text = f"{0x01900000 + (index >> 16):08x}{index & 0xFFFF:04x}70008000{index:012x}"
    return base64.urlsafe_b64encode(bytes.fromhex(text)).rstrip(b"=").decode()
