"""A partner's issuer, and a tenant that knows it; its own administrator asks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from tests.fakes.fake_issuers import KEYS, FakeIssuer, serving_issuer
from tests.tenants import Tenant, make_administrator

TRUST, PARTNERS, VERIFY = "/api/v1/federation/trust", "/api/v1/federation/partners", "/api/v1/federation/verify"


@pytest.fixture
def issuer() -> Iterator[FakeIssuer]:
    with serving_issuer(FakeIssuer()) as running:
        yield running


@pytest.fixture
def other_issuer() -> Iterator[FakeIssuer]:
    with serving_issuer(FakeIssuer()) as running:
        yield running


@dataclass
class Federation:
    """A tenant and its partners."""

    tenant: Tenant

    def __post_init__(self) -> None:
        make_administrator(self.tenant.admin)

    @property
    def audience(self) -> str:
        return f"{self.tenant.server.url}/organizations/{self.tenant.organization_id}"

    def call(self, method: str, path: str, **options: Any) -> httpx2.Response:
        with self.tenant.admin.client("policies:read policies:write") as client:
            return client.request(method, path, **options)

    def trust(self, issuer: FakeIssuer, /, **body: Any) -> httpx2.Response:
        return self.call("POST", TRUST, json={"name": "Partner", "issuer": issuer.url, "jwksUri": f"{issuer.url}{KEYS}"} | body)

    def partner(self, issuer: FakeIssuer, /, **body: Any) -> dict[str, Any]:
        response = self.trust(issuer, **body)
        assert response.status_code == 201, response.text
        return dict(response.json())

    def change(self, partner: dict[str, Any], /, **patch: Any) -> httpx2.Response:
        return self.call("PATCH", f"{PARTNERS}/{partner['partnerId']}", json=patch)

    def verify(self, token: str, **body: Any) -> dict[str, Any]:
        response = self.call("POST", VERIFY, json={"token": token} | body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def reason(self, token: str, **body: Any) -> str:
        """Why it is not valid; nothing else is said then."""
        answer = self.verify(token, **body)
        assert not answer["valid"]
        assert {answer[name] for name in ("issuer", "subject", "organizationId", "claims")} == {None}
        return str(answer["reason"])

    def events(self, action: str) -> list[dict[str, Any]]:
        with self.tenant.admin.client("audit:read") as client:
            return list(client.get("/api/v1/audit", params={"action": action}).json()["data"])


@pytest.fixture
def federation(tenant: Tenant) -> Federation:
    return Federation(tenant)
