"""Issuers in a network of the operator's own: asked because the operator named them, and nobody else there is."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.fakes.fake_issuers import KEYS, FakeGitLab, serving_issuer
from tests.fakes.fake_peer import FakeAuthority
from tests.policies.conftest import Trust
from tests.serving import RunningServer, settings_for
from tests.tenants import make_administrator, make_tenant

NAME = "localhost"  # resolves to an address that is not public, and is no public name


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Of an authority that the server takes for one of the system's, as the guide says."""
    authority = FakeAuthority(tmp_path)
    (tmp_path / "authorities.pem").write_text(authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authorities.pem"))
    return authority.server(NAME)


@pytest.fixture
def gitlab(tls: ssl.SSLContext) -> Iterator[FakeGitLab]:
    with serving_issuer(FakeGitLab(), tls, NAME) as running:
        assert isinstance(running, FakeGitLab)
        yield running


@pytest.fixture
def trust(database_url: str, tmp_path: Path, gitlab: FakeGitLab) -> Iterator[Trust]:
    server = RunningServer(settings_for(tmp_path / "data", database_url, oidc={"gitlab_issuer": gitlab.url, "private_issuers": [gitlab.url]}))
    yield Trust(make_tenant(server))
    server.stop()


def add_partner(trust: Trust, issuer: str, jwks_uri: str) -> httpx2.Response:
    make_administrator(trust.tenant.admin)
    with trust.tenant.admin.client() as client:
        return client.post("/api/v1/federation/trust", json={"name": "Partner", "issuer": issuer, "jwksUri": jwks_uri})


def test_a_private_issuer_is_asked_and_its_neighbours_are_not(trust: Trust, gitlab: FakeGitLab) -> None:
    trust.policy(provider="gitlab", agentId=trust.tenant.agent().agent_id)
    response = trust.exchange(gitlab.token(trust.audience))
    assert response.status_code == 200, response.text
    asked = len(gitlab.requests)
    for other in (f"{gitlab.url}/realms/x", gitlab.url.replace(NAME, "127.0.0.1"), gitlab.url.replace("https", "http")):
        refused = trust.create(provider="oidc", repository=None, issuer=other, conditions={"sub": {"equals": "x"}}, agentId=trust.tenant.admin.agent_id)
        assert refused.status_code == 400, refused.text
        assert refused.json()["details"]["reason"] in {"forbidden_address", "scheme"}
    partner = add_partner(trust, "https://id.partner.example", gitlab.url + KEYS)
    assert (partner.status_code, partner.json()["details"]["reason"]) == (400, "forbidden_address"), "an address of a tenant's choice is public"
    assert len(gitlab.requests) == asked


def test_an_issuer_that_nobody_named_is_not_private(database_url: str, tmp_path: Path, gitlab: FakeGitLab) -> None:
    server = RunningServer(settings_for(tmp_path / "data", database_url, oidc={"gitlab_issuer": gitlab.url}))
    trust = Trust(make_tenant(server))
    assert trust.create(provider="gitlab", agentId=trust.tenant.agent().agent_id).json()["details"]["reason"] == "forbidden_address"
    assert not gitlab.requests
    server.stop()
