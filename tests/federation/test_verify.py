"""TH31: whose token is valid, for how long, and when one is not; `test_forgeries` has every way in which it may be wrong. What is not valid says nothing but why; nothing here is an identity of ours."""

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from tests.auth.forgery import parts
from tests.fakes.fake_issuers import KEYS, FakeIssuer, IssuerKey, serving_issuer
from tests.federation.conftest import PARTNERS, TRUST, VERIFY, Federation
from tests.serving import RunningServer
from tests.tenants import Tenant, make_tenant

from agentidp.core import limits
from agentidp.core.clock import to_rfc3339


def test_a_partners_token_is_valid_and_nobody_here(federation: Federation, issuer: FakeIssuer) -> None:
    partner = federation.partner(issuer)
    token = issuer.token(federation.audience, organization_id="acme", scope="agents:write")
    answer = federation.verify(token)
    assert answer == {
        "valid": True,
        "isLocal": False,
        "partnerId": partner["partnerId"],
        "issuer": issuer.url,
        "subject": "somebody",
        "organizationId": "acme",
        "claims": parts(token)[1],
        "reason": None,
    }
    assert federation.verify(token) == answer, "it is not used up"
    event = federation.events("federation.verified")[0]
    assert (event["targetId"], event["metadata"]) == (
        partner["partnerId"],
        {"valid": True, "reason": None, "issuer": issuer.url, "subject": "somebody"},
    )


def test_the_types_of_rfc_9068_are_valid_too(federation: Federation, issuer: FakeIssuer) -> None:
    """A partner may be another AgentIdP, whose agents ask for a token with our audience."""
    federation.partner(issuer)
    for header in ({"typ": "at+jwt"}, {"typ": "application/at+jwt"}, {"typ": "AT+JWT"}, {"typ": ...}, {"x5t": "eBZ_cn3sXYAd0ch4THBKHIgOwOE"}):
        made = {name: value for name, value in (issuer.header() | header).items() if value is not ...}
        assert federation.verify(issuer.key.sign(made, issuer.claims(federation.audience)))["valid"], header


@pytest.mark.parametrize(
    ("audience", "expected", "valid"),
    [
        ("own", None, True),
        (["https://other.example", "own"], None, True),
        ("issuer", None, True),
        (..., None, True),
        ([], None, True),
        ("https://api.example", None, False),
        (["https://api.example"], None, False),
        ("own", "https://api.example", False),
        ("https://api.example", "https://api.example", True),
        (["https://api.example", "x"], "https://api.example", True),
        ("https://api.example/", "https://api.example", False),
        (..., "https://api.example", False),
        (7, None, False),
        (["own", 7], None, False),
        (["x"] * limits.RESOURCES_MAX + ["own"], None, False),
        ({"own": 1}, None, False),
        (None, None, False),
    ],
)
def test_whom_a_token_is_for(federation: Federation, issuer: FakeIssuer, audience: Any, expected: str | None, *, valid: bool) -> None:
    """RFC 7519 section 4.1.3."""
    federation.partner(issuer)
    named = {"own": federation.audience, "issuer": federation.tenant.server.url}
    aud = [named.get(one, one) if isinstance(one, str) else one for one in audience] if isinstance(audience, list) else audience
    token = issuer.token("", aud=named.get(aud, aud) if isinstance(aud, str) else aud)
    answer = federation.verify(token, **({"expectedAudience": expected} if expected else {}))
    assert (answer["valid"], "aud" in (answer["reason"] or "aud")) == (valid, True), answer


def test_a_token_for_another_tenant_is_not_for_this_one(federation: Federation, issuer: FakeIssuer, other_tenant: Tenant) -> None:
    other = Federation(other_tenant)
    federation.partner(issuer)
    other.partner(issuer)
    assert "aud" in federation.reason(issuer.token(other.audience))
    assert other.verify(issuer.token(other.audience))["valid"]


def test_the_expected_issuer_is_the_only_one(federation: Federation, issuer: FakeIssuer, other_issuer: FakeIssuer) -> None:
    federation.partner(issuer)
    federation.partner(other_issuer)
    token = issuer.token(federation.audience)
    assert federation.verify(token, expectedIssuer=issuer.url)["valid"]
    for expected in (other_issuer.url, f"{issuer.url}/", "https://id.partner.example"):
        assert "expected issuer" in federation.reason(token, expectedIssuer=expected)


# --- organizations --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "claims", "named"),
    [
        ([], {}, None),
        ([], {"organization_id": "acme"}, "acme"),
        ([], {"org_id": "acme"}, "acme"),
        ([], {"org": "acme"}, "acme"),
        (["acme", "other"], {"organization_id": "acme"}, "acme"),
        (["acme"], {"org_id": "acme", "org": "evil"}, "acme"),
        (["acme"], {"organization_id": "evil", "org_id": "acme"}, ...),
        (["acme"], {"organization_id": None, "org_id": "acme"}, ...),
        (["acme"], {"organization_id": "Acme"}, ...),
        (["acme"], {"organization_id": "acme "}, ...),
        (["acme"], {"organization_id": ["acme"]}, ...),
        (["acme"], {"organization_id": ""}, ...),
        (["acme"], {"tenant": "acme"}, ...),
        (["acme"], {}, ...),
        ([], {"organization_id": 7}, ...),
        ([], {"organization_id": {"acme": True}}, ...),
    ],
)
def test_for_which_organizations_a_partner_speaks(federation: Federation, issuer: FakeIssuer, allowed: list[str], claims: dict[str, Any], named: Any) -> None:
    federation.partner(issuer, allowedOrganizations=allowed)
    token = issuer.token(federation.audience, **claims)
    if named is ...:
        assert "organization" in federation.reason(token)
    else:
        assert federation.verify(token)["organizationId"] == named


@pytest.mark.parametrize("claim", ["organization_id", "org_id", "org"])
def test_no_partner_speaks_for_the_organization_that_asks(federation: Federation, issuer: FakeIssuer, claim: str) -> None:
    """TH31: a partner impersonating our tenant."""
    federation.partner(issuer)
    for mine in (federation.tenant.organization_id, federation.tenant.organization_id.upper()):
        assert "your own organization" in federation.reason(issuer.token(federation.audience, **{claim: mine}))


def test_nothing_here_takes_a_partners_token_for_an_identity(federation: Federation, issuer: FakeIssuer) -> None:
    """With every claim of a token of ours, and its header, under the partner's name or under our own."""
    partner = federation.partner(issuer)
    server, own = federation.tenant.server, federation.tenant.admin.token()
    header, claims = parts(own)
    for name in (issuer.url, server.url):
        changed = {"organization_id": "acme"} if name == issuer.url else {}
        for head in (issuer.header() | {"typ": header["typ"]}, header):
            token = issuer.key.sign(head | {"alg": "RS256"}, claims | {"iss": name} | changed)
            with server.client(headers={"Authorization": f"Bearer {token}"}) as client:
                assert client.get("/agent-info").status_code == 401
                assert client.get(f"{PARTNERS}/{partner['partnerId']}").status_code == 401
                assert client.post("/api/v1/token/introspect", data={"token": own}).status_code == 401
            with federation.tenant.admin.client("tokens:read") as client:
                assert client.post("/api/v1/token/introspect", data={"token": token}).json() == {"active": False}
    valid = issuer.token(federation.audience, organization_id="acme")
    with server.client() as client:
        assert client.post("/api/v1/oidc/token", json={"token": valid}).status_code == 401
        grant = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": valid}
        assert client.post("/api/v1/token", data=grant).json()["error"] == "invalid_grant"
    assert federation.verify(valid)["isLocal"] is False
    assert "introspect" in federation.reason(own)


def test_the_partner_is_another_agentidp(federation: Federation, own_server: RunningServer) -> None:
    """Its agent asks its own server for a token with our organization as the resource."""
    theirs = make_tenant(own_server)
    agent = theirs.agent("agents:read")
    body = {"name": "Partner", "issuer": own_server.url, "jwksUri": f"{own_server.url}/.well-known/jwks.json", "allowedOrganizations": [theirs.organization_id]}
    assert federation.call("POST", TRUST, json=body).status_code == 201
    answer = federation.verify(agent.token(resource=federation.audience))
    assert (answer["valid"], answer["subject"], answer["organizationId"]) == (True, agent.agent_id, theirs.organization_id)
    assert "aud" in federation.reason(agent.token())
    assert "allowedOrganizations" in federation.reason(make_tenant(own_server).agent("agents:read").token(resource=federation.audience))
    with federation.tenant.server.client(headers={"Authorization": f"Bearer {agent.token(resource=federation.tenant.server.url)}"}) as client:
        assert client.get("/api/v1/agents").status_code == 401


# --- keys -----------------------------------------------------------------------------------


def later(federation: Federation, seconds: float) -> Any:
    return federation.tenant.server.clock.ahead(seconds=seconds)


def test_rotated_and_removed_keys(federation: Federation, issuer: FakeIssuer) -> None:
    federation.partner(issuer)
    old = issuer.key
    claims = lambda: issuer.claims(federation.audience) | {"exp": int(time.time()) + 7_200}  # noqa: E731 - one expression
    assert federation.verify(old.sign(issuer.header(), claims()))["valid"]
    header = issuer.header()
    issuer.rotate(keep=True)
    with later(federation, limits.OUTSIDE_UNKNOWN_KEY_SECONDS + 1):
        assert federation.verify(issuer.key.sign(issuer.header(), claims()))["valid"], "an unknown key makes us look"
        assert federation.verify(old.sign(header, claims()))["valid"]
    issuer.published = [issuer.key.jwk]
    with later(federation, limits.OUTSIDE_KEYS_FRESH_SECONDS_MAX + 100):
        assert federation.reason(old.sign(header, claims())) == "unknown key"
        assert federation.verify(issuer.key.sign(issuer.header(), claims()))["valid"]


def test_keys_belong_to_the_issuer_that_published_them(federation: Federation, issuer: FakeIssuer, other_issuer: FakeIssuer) -> None:
    """TH31: issuer confusion, both ways, with another's key, another's key id, and both."""
    federation.partner(issuer)
    federation.partner(other_issuer)
    for mine, theirs in ((issuer, other_issuer), (other_issuer, issuer)):
        claims = mine.claims(federation.audience)
        assert federation.reason(theirs.key.sign(theirs.header(), claims)) == "unknown key"
        assert federation.reason(theirs.key.sign(mine.header(), claims)) == "signature is wrong"
        assert federation.reason(mine.key.sign(theirs.header(), claims)) == "unknown key"
        assert federation.verify(mine.key.sign(mine.header(), claims))["valid"]


def test_a_partner_shadows_nobody(federation: Federation, issuer: FakeIssuer, other_issuer: FakeIssuer, other_tenant: Tenant) -> None:
    """One tenant says that an issuer's keys are elsewhere: that is so for its own partner, and for nobody's partner or trust policy besides."""
    victim, thief = federation, Federation(other_tenant)
    victim.partner(issuer)
    thief.partner(issuer, jwksUri=f"{other_issuer.url}{KEYS}")
    forged = other_issuer.key.sign(other_issuer.header(), issuer.claims(victim.audience))
    assert thief.verify(other_issuer.key.sign(other_issuer.header(), issuer.claims(thief.audience)))["valid"]
    assert victim.reason(forged) == "unknown key"
    policy = {"provider": "oidc", "issuer": issuer.url, "conditions": {"sub": {"equals": "somebody"}}, "agentId": other_tenant.admin.agent_id}
    with other_tenant.admin.client() as client:
        assert client.post("/api/v1/oidc/trust-policies", json=policy).status_code == 201
        stolen = other_issuer.key.sign(other_issuer.header(), issuer.claims(thief.audience))
        assert client.post("/api/v1/oidc/token", json={"token": stolen}).status_code == 401
        assert client.post("/api/v1/oidc/token", json={"token": issuer.token(thief.audience)}).status_code == 200
    assert "unknown key" in thief.reason(issuer.token(thief.audience))


def test_a_key_id_that_two_keys_have_is_no_keys(federation: Federation, issuer: FakeIssuer) -> None:
    twin, other = IssuerKey(issuer.key.key_id), IssuerKey()
    issuer.published = [issuer.key.jwk, twin.jwk, other.jwk]
    federation.partner(issuer)
    claims = issuer.claims(federation.audience)
    for key in (issuer.key, twin):
        assert federation.reason(key.sign(issuer.header(), claims)) == "unknown key"
    assert federation.verify(other.sign(issuer.header() | {"kid": other.key_id}, claims))["valid"]


def test_while_nobody_can_tell_nothing_is_valid(federation: Federation, issuer: FakeIssuer) -> None:
    """Keys that are known are used for a while; then it is 503, which says neither yes nor no."""
    federation.partner(issuer)
    token = issuer.token(federation.audience, exp=int(time.time()) + 80_000)
    assert federation.verify(token)["valid"]
    issuer.is_down = True
    assert federation.verify(token)["valid"]
    with later(federation, limits.OUTSIDE_KEYS_FRESH_SECONDS_MAX + 1):
        assert federation.verify(token)["valid"]
        unknown = IssuerKey()
        forged = unknown.sign(issuer.header() | {"kid": unknown.key_id}, issuer.claims(federation.audience))
        refused = federation.call("POST", VERIFY, json={"token": forged})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, str(limits.OUTSIDE_KEYS_RETRY_SECONDS)), "it may be a key that is new"
    with later(federation, limits.OUTSIDE_KEYS_STALE_SECONDS_MAX + 1):
        refused = federation.call("POST", VERIFY, json={"token": token})
        assert (refused.status_code, refused.json()["code"]) == (503, "SERVICE_UNAVAILABLE")
        issuer.is_down = False
        with later(federation, limits.OUTSIDE_KEYS_RETRY_SECONDS + 1):
            assert federation.verify(token)["valid"]


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"keys":[{}]}', b'{"keys":[],"keys":[]}'])
def test_what_replaces_a_key_set_accepts_nothing(federation: Federation, issuer: FakeIssuer, body: bytes) -> None:
    federation.partner(issuer)
    issuer.answers[KEYS] = (200, {}, body)
    token = issuer.token(federation.audience, exp=int(time.time()) + 80_000)
    with later(federation, limits.OUTSIDE_KEYS_STALE_SECONDS_MAX + 1):
        response = federation.call("POST", VERIFY, json={"token": token})
        assert response.status_code == 503 or not response.json()["valid"]


def test_other_keys_are_asked_for_where_a_partner_says_they_are_now(federation: Federation, issuer: FakeIssuer, other_issuer: FakeIssuer) -> None:
    partner = federation.partner(issuer)
    old, moved = issuer.token(federation.audience), other_issuer.key.sign(other_issuer.header(), issuer.claims(federation.audience))
    assert federation.verify(old)["valid"]
    assert federation.change(partner, jwksUri=f"{other_issuer.url}{KEYS}").status_code == 200
    assert federation.reason(old) == "unknown key"
    assert federation.verify(moved)["valid"]


# --- states ---------------------------------------------------------------------------------


def test_between_two_verifications_everything_may_change(federation: Federation, issuer: FakeIssuer) -> None:
    partner, token = federation.partner(issuer), issuer.token(federation.audience)
    assert federation.verify(token)["valid"]
    asked = len(issuer.requests)
    federation.change(partner, status="suspended")
    assert federation.reason(token) == "the partner is suspended"
    federation.change(partner, status="active", allowedOrganizations=["acme"])
    assert "names no organization" in federation.reason(token)
    federation.change(partner, allowedOrganizations=[])
    assert federation.verify(token)["valid"]
    assert federation.call("DELETE", f"{PARTNERS}/{partner['partnerId']}").status_code == 204
    assert federation.reason(token) == "no partner of your organization has its issuer"
    assert len(issuer.requests) == asked
    assert [event["metadata"]["valid"] for event in federation.events("federation.verified")] == [False, True, False, False, True]


def test_a_partner_expires_by_itself(federation: Federation, issuer: FakeIssuer) -> None:
    clock = federation.tenant.server.clock
    partner = federation.partner(issuer, expiresAt=to_rfc3339(clock() + 30_000))
    token, path = issuer.token(federation.audience), f"{PARTNERS}/{partner['partnerId']}"
    assert (partner["status"], federation.verify(token)["valid"]) == ("active", True)
    with later(federation, 31):
        assert federation.call("GET", path).json()["status"] == "expired"
        assert federation.call("GET", PARTNERS).json()["data"][0]["status"] == "expired"
        assert federation.reason(token) == "the partner is expired"
        assert federation.change(partner, status="suspended").json()["status"] == "expired", "time ends also what is suspended"
        assert federation.change(partner, status="active").json()["status"] == "expired"
        assert federation.change(partner, expiresAt=to_rfc3339(clock() - 1)).status_code == 400
        assert federation.change(partner, expiresAt=None).json()["status"] == "active"
        assert federation.verify(token)["valid"]


def test_the_record_takes_what_a_subject_may_be(federation: Federation, issuer: FakeIssuer) -> None:
    federation.partner(issuer)
    subject = f"\x00\n\u202e{uuid.uuid4()}" + "x" * 2000
    assert federation.verify(issuer.token(federation.audience, sub=subject))["subject"] == subject
    recorded = federation.events("federation.verified")[0]["metadata"]["subject"]
    assert recorded.startswith("\\x00\\n\\u202e")
    assert len(recorded) == limits.CLAIM_CHARACTERS_MAX


def test_a_body_that_is_no_question(federation: Federation) -> None:
    for body in (
        {},
        {"token": ""},
        {"token": 1},
        {"token": "a" * (limits.TOKEN_CHARACTERS_MAX + 1)},
        {"token": "a", "expectedIssuer": "x"},
        {"token": "a", "x": 1},
    ):
        assert federation.call("POST", VERIFY, json=body).status_code == 400


class Interrupted(FakeIssuer):
    """Does something before it answers with its keys, once."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], object] | None = None

    def reply(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if path == KEYS and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return super().reply(path)


@pytest.mark.parametrize("what", ["suspended", "removed", "other keys", "another under its name", "other organizations", "another name"])
def test_what_is_changed_while_the_keys_are_fetched_counts(federation: Federation, what: str) -> None:
    with serving_issuer(Interrupted()) as issuer:
        assert isinstance(issuer, Interrupted)
        partner = federation.partner(issuer)
        path = f"{PARTNERS}/{partner['partnerId']}"

        def again() -> None:
            assert federation.call("DELETE", path).status_code == 204
            federation.partner(issuer)

        changes: dict[str, tuple[Callable[[], object], int]] = {
            "suspended": (lambda: federation.change(partner, status="suspended"), 200),
            "removed": (lambda: federation.call("DELETE", path), 200),
            "other keys": (lambda: federation.change(partner, jwksUri=f"{issuer.url}{KEYS}?other"), 503),
            "another under its name": (again, 503),
            "other organizations": (lambda: federation.change(partner, allowedOrganizations=["other"]), 200),
            "another name": (lambda: federation.change(partner, name="Another"), 200),
        }
        issuer.answers[f"{KEYS}?other"] = (200, {}, json.dumps({"keys": [IssuerKey().jwk]}).encode())
        issuer.meanwhile, status = changes[what]
        answer = federation.call("POST", VERIFY, json={"token": issuer.token(federation.audience, organization_id="acme")})
        assert issuer.meanwhile is None, "it was asked"
        assert answer.status_code == status, answer.text
        assert answer.json().get("valid", False) is (what == "another name")
