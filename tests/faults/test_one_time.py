"""What is good once, 50 at once over real server processes and at every door that takes it: one has it. And after kill -9 of all of them nobody."""

import contextlib
import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.auth.forgery import b64
from tests.fakes.fake_issuers import FakeGitHub, serving_issuer
from tests.faults.plant import Plant, statuses
from tests.proofs import ASSERTION_TYPE, TOKEN, OwnKey
from tests.tenants import registration

pytestmark = pytest.mark.slow
AT_ONCE = 50
GRANT = "urn:ietf:params:oauth:grant-type:"
Send = Callable[[httpx2.Client, int], httpx2.Response]


@pytest.fixture
def github() -> Iterator[FakeGitHub]:
    with serving_issuer(FakeGitHub()) as running:
        assert isinstance(running, FakeGitHub)
        yield running


@pytest.fixture
def plant(engine: str, database_url: str, tmp_path: Path, github: FakeGitHub) -> Iterator[Plant]:
    made = Plant(tmp_path, engine, database_url, OIDC__GITHUB_ISSUER=github.url, WEBHOOKS__ALLOW_LOOPBACK="true")
    with contextlib.ExitStack() as stack:
        stack.callback(made.kill)
        yield made


class Acme:
    """An organization, its administrator with a key of its own, and what its jobs and that key sign."""

    def __init__(self, plant: Plant, github: FakeGitHub) -> None:
        self.plant, self.github, self.key = plant, github, OwnKey()
        self.organization_id, self.form = plant.organization("enterprise")
        with plant.servers[0].client(headers=plant.bearer(self.form)) as client:
            body = {"kind": "public_key", "jwk": self.key.jwk}
            assert client.post(f"/api/v1/agents/{self.form['client_id']}/credentials", json=body).status_code == 201

    def trust(self, repository: str, agent_id: str | None) -> None:
        with self.plant.servers[0].client(headers=self.plant.bearer(self.form)) as client:
            body = {"provider": "github", "repository": repository, "agentId": agent_id}
            answer = client.post("/api/v1/oidc/trust-policies", json=body)
        assert answer.status_code == 201, answer.text

    def job(self, repository: str) -> str:
        return self.github.token(f"{self.plant.issuer}/organizations/{self.organization_id}", repository=repository, job_workflow_ref=...)

    def assertion(self) -> str:
        now, client_id = int(time.time()), self.form["client_id"]
        return self.key.sign({}, {"iss": client_id, "sub": client_id, "aud": self.plant.issuer, "exp": now + 60, "jti": str(uuid.uuid4())})

    def proof(self, method: str, path: str, token: str | None = None) -> str:
        """With a nonce of the last server."""
        with self.plant.servers[-1].client() as client:
            asked = client.post(TOKEN, data=self.form, headers={"DPoP": self._proof("POST", TOKEN)})
        hashed = {} if token is None else {"ath": b64(hashlib.sha256(token.encode()).digest())}
        return self._proof(method, path, nonce=asked.headers["dpop-nonce"], **hashed)

    def _proof(self, method: str, path: str, **claims: str) -> str:
        header = {"typ": "dpop+jwt", "jwk": self.key.jwk}
        return self.key.sign(header, {"htm": method, "htu": self.plant.issuer + path, "iat": int(time.time()), "jti": str(uuid.uuid4())} | claims)

    def bound_token(self) -> str:
        with self.plant.servers[0].client() as client:
            return str(client.post(TOKEN, data=self.form, headers={"DPoP": self.proof("POST", TOKEN)}).json()["access_token"])


def outside_token(acme: Acme, repository: str) -> Send:
    """At all three doors."""
    token = acme.job(repository)

    def send(client: httpx2.Client, number: int) -> httpx2.Response:
        match number % 3:
            case 0:
                return client.post("/api/v1/oidc/token", json={"token": token})
            case 1:
                return client.post(TOKEN, data={"grant_type": f"{GRANT}jwt-bearer", "assertion": token})
            case _:
                kind = "urn:ietf:params:oauth:token-type:jwt"
                return client.post(TOKEN, data={"grant_type": f"{GRANT}token-exchange", "subject_token": token, "subject_token_type": kind})

    return send


def registration_token(acme: Acme) -> Send:
    with acme.plant.servers[0].client() as client:
        token = client.post("/api/v1/oidc/token", json={"token": acme.job("acme/fresh")}).json()["access_token"]
    return lambda client, _: client.post("/api/v1/agents", json=registration(), headers={"Authorization": f"Bearer {token}"})


def client_assertion(acme: Acme) -> Send:
    """At the endpoints that authenticate clients."""
    form = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": acme.assertion(), "grant_type": "client_credentials", "token": "x"}
    paths = (TOKEN, f"{TOKEN}/introspect", f"{TOKEN}/revoke")
    return lambda client, number: client.post(paths[number % 3], data=form)


def proof_for_a_token(acme: Acme) -> Send:
    headers = {"DPoP": acme.proof("POST", TOKEN)}
    return lambda client, _: client.post(TOKEN, data=acme.form, headers=headers)


def proof_for_a_call(acme: Acme) -> Send:
    token = acme.bound_token()
    headers = {"Authorization": f"DPoP {token}", "DPoP": acme.proof("GET", "/agent-info", token)}
    return lambda client, _: client.get("/agent-info", headers=headers)


def test_one_time_values_between_processes_and_after_kill_9(plant: Plant, github: FakeGitHub, amount: Callable[[int, int], int], table: Any) -> None:
    acme, rounds = Acme(plant, github), amount(1, 10)
    acme.trust("acme/screener", acme.form["client_id"])
    acme.trust("acme/fresh", None)
    for _ in range(rounds):
        values: dict[str, Send] = {
            "outside token for an agent": outside_token(acme, "acme/screener"),
            "outside token for a registration": outside_token(acme, "acme/fresh"),
            "registration token": registration_token(acme),
            "client assertion": client_assertion(acme),
            "proof for a token": proof_for_a_token(acme),
            "proof for a call": proof_for_a_call(acme),
        }
        for name, send in values.items():
            found = statuses(plant.at_once(AT_ONCE, send))
            assert found[200] + found[201] == 1, (name, found)
            assert set(found) <= {200, 201, 400, 401}, (name, found)
        plant.kill()
        plant.start()
        for name, send in values.items():
            found = statuses(plant.at_once(AT_ONCE, send))
            assert set(found) <= {400, 401}, (name, found)
    table(rounds=rounds, processes=len(plant.servers), values=rounds * len(values), tries=rounds * len(values) * 2 * AT_ONCE, successes=rounds * len(values))
