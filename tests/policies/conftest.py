"""A server that trusts fakes on loopback: one of each kind for the whole session; a test that changes one has it alone."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.conftest import fresh_postgres_database
from tests.fakes.fake_issuers import FakeGitHub, FakeGitLab, FakeIssuer, FakeKubernetes, serving_issuer
from tests.serving import RunningServer, settings_for
from tests.tenants import Tenant


@dataclass
class Issuers:
    """By the name of the provider."""

    github: FakeGitHub
    gitlab: FakeGitLab
    kubernetes: FakeKubernetes
    oidc: FakeIssuer


@pytest.fixture(scope="session")
def issuers() -> Iterator[Issuers]:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(serving_issuer(kind)) for kind in (FakeGitHub(), FakeGitLab(), FakeKubernetes(), FakeIssuer("/realms/acme"))]
        yield Issuers(*made)  # type: ignore[arg-type]  # each as it was made


def trusting(issuers: Issuers) -> dict[str, Any]:
    """The settings of a server that takes the fakes for GitHub and GitLab."""
    return {"webhooks": {"allow_loopback": True}, "oidc": {"github_issuer": issuers.github.url, "gitlab_issuer": issuers.gitlab.url}}


@pytest.fixture(scope="session")
def policy_servers() -> Iterator[dict[str, RunningServer]]:
    with contextlib.ExitStack() as stack:
        running: dict[str, Any] = {"stack": stack}
        yield running


@pytest.fixture
def server(engine: str, policy_servers: dict[str, Any], folder: Path, issuers: Issuers, request: pytest.FixtureRequest) -> RunningServer:
    """The server of the engine for these tests."""
    if engine not in policy_servers:
        stack, url = policy_servers["stack"], None
        if engine == "postgresql":
            url = fresh_postgres_database(request.getfixturevalue("postgres")).__enter__()  # it ends with the whole PostgreSQL, which is sooner
        policy_servers[engine] = RunningServer(settings_for(folder / f"policies-{engine}", url, **trusting(issuers)))
        stack.callback(policy_servers[engine].stop)
    return policy_servers[engine]  # type: ignore[no-any-return]


@dataclass
class Trust:
    """A tenant and what it trusts."""

    tenant: Tenant

    @property
    def audience(self) -> str:
        return f"{self.tenant.server.url}/organizations/{self.tenant.organization_id}"

    def create(self, **body: Any) -> httpx2.Response:
        with self.tenant.admin.client() as client:
            return client.post("/api/v1/oidc/trust-policies", json={"provider": "github", "repository": "acme/screener"} | body)

    def policy(self, **body: Any) -> dict[str, Any]:
        response = self.create(**body)
        assert response.status_code == 201, response.text
        return dict(response.json())

    def delete(self, policy_id: str) -> None:
        with self.tenant.admin.client() as client:
            assert client.delete(f"/api/v1/oidc/trust-policies/{policy_id}").status_code == 204

    def exchange(self, token: str, **body: Any) -> httpx2.Response:
        with self.tenant.server.client() as client:
            return client.post("/api/v1/oidc/token", json={"token": token} | body)

    def grant(self, grant_type: str, **form: Any) -> httpx2.Response:
        with self.tenant.server.client() as client:
            return client.post("/api/v1/token", data={"grant_type": f"urn:ietf:params:oauth:grant-type:{grant_type}", **form})

    def explain(self, token: str) -> dict[str, Any]:
        with self.tenant.admin.client("policies:read") as client:
            response = client.post("/api/v1/oidc/trust-policies/explain", json={"token": token})
        assert response.status_code == 200, response.text
        return dict(response.json())

    def events(self, action: str) -> list[dict[str, Any]]:
        with self.tenant.admin.client("audit:read") as client:
            return list(client.get("/api/v1/audit", params={"action": action}).json()["data"])


@pytest.fixture
def trust(tenant: Tenant) -> Trust:
    return Trust(tenant)
