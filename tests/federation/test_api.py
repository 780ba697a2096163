"""Partners: who may have which, within one organization, and what is left on record."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.fakes.fake_issuers import KEYS, FakeIssuer
from tests.federation.conftest import PARTNERS, TRUST, VERIFY, Federation
from tests.serving import RunningServer
from tests.tenants import Tenant, make_tenant, operator_of

from agentidp.auth.scopes import SCOPES
from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.core.ids import new_id
from agentidp.federation.actions import add_partner
from agentidp.federation.rules import NewPartner

NEW = {"name": "Partner", "issuer": "https://id.partner.example"}


def refusal(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def test_a_partners_life(federation: Federation, issuer: FakeIssuer) -> None:
    made = federation.partner(issuer, name="Partner Ltd", allowedOrganizations=["acme"])
    assert made == {
        "partnerId": made["partnerId"],
        "name": "Partner Ltd",
        "issuer": issuer.url,
        "jwksUri": f"{issuer.url}{KEYS}",
        "allowedOrganizations": ["acme"],
        "status": "active",
        "expiresAt": None,
        "createdAt": made["createdAt"],
        "updatedAt": made["createdAt"],
    }
    assert issuer.requests == [KEYS], "one document, from where it was said to be"
    path = f"{PARTNERS}/{made['partnerId']}"
    assert federation.call("GET", path).json() == made
    assert federation.call("GET", PARTNERS).json()["data"] == [made]
    changed = federation.change(made, name="Partner Inc", allowedOrganizations=[], status="suspended").json()
    assert {name: changed[name] for name in ("name", "allowedOrganizations", "status")} == {
        "name": "Partner Inc",
        "allowedOrganizations": [],
        "status": "suspended",
    }
    assert changed["updatedAt"] > made["updatedAt"]
    assert federation.change(made, status="active").json()["status"] == "active"
    assert federation.change(made, status="active").json()["updatedAt"] == federation.call("GET", path).json()["updatedAt"]
    assert federation.call("DELETE", path).status_code == 204
    for method in ("GET", "DELETE"):
        assert refusal(federation.call(method, path)) == (404, "PARTNER_NOT_FOUND")
    assert refusal(federation.change(made)) == (404, "PARTNER_NOT_FOUND")
    assert [event["metadata"] for event in federation.events("federation.partner_added")] == [{"issuer": issuer.url, "jwksUri": f"{issuer.url}{KEYS}"}]
    updates = [event["metadata"]["fields"] for event in federation.events("federation.partner_updated")]
    assert updates == [["status"], ["allowed_organizations", "name", "status"]], "what changes nothing leaves nothing"
    assert [event["targetId"] for event in federation.events("federation.partner_removed")] == [made["partnerId"]]


def test_only_administrators_and_the_operator_change_partners(federation: Federation, issuer: FakeIssuer) -> None:
    partner = federation.partner(issuer)
    path = f"{PARTNERS}/{partner['partnerId']}"
    assert federation.verify(issuer.token(federation.audience))["valid"]
    asked = len(issuer.requests)
    attempts = [
        ("POST", TRUST, NEW | {"jwksUri": f"{issuer.url}{KEYS}"}),
        ("PATCH", path, {"jwksUri": f"{issuer.url}{KEYS}"}),
        ("PATCH", path, {"status": "suspended"}),
        ("DELETE", path, None),
    ]
    with federation.tenant.agent("policies:read", "policies:write").client() as client:
        for method, target, body in attempts:
            assert refusal(client.request(method, target, json=body)) == (403, "FORBIDDEN")
        assert client.get(path).json() == partner
        assert client.post(VERIFY, json={"token": issuer.token(federation.audience)}).json()["valid"]
    assert len(issuer.requests) == asked, "nobody else's server was asked for somebody who may not"
    assert len(federation.events("access.denied")) == len(attempts)
    operator = operator_of(federation.tenant.server)
    with operator.client("policies:write policies:read admin:orgs") as client:
        made = client.post(TRUST, json=NEW | {"jwksUri": f"{issuer.url}{KEYS}", "issuer": issuer.url})
        assert made.status_code == 201, made.text
        assert client.delete(f"{PARTNERS}/{made.json()['partnerId']}").status_code == 204


def test_an_agent_that_acts_for_the_administrator_changes_none(federation: Federation, issuer: FakeIssuer) -> None:
    """What the administrator is beyond its scopes is not lent."""
    partner, actor = federation.partner(issuer), federation.tenant.agent("policies:read", "policies:write")
    access = "urn:ietf:params:oauth:token-type:access_token"
    form = {"subject_token": federation.tenant.admin.token("policies:write"), "actor_token": actor.token("policies:write")}
    form |= {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token_type": access, "actor_token_type": access}
    with federation.tenant.server.client() as client:
        token = client.post("/api/v1/token", data=form).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        assert refusal(client.delete(f"{PARTNERS}/{partner['partnerId']}", headers=headers)) == (403, "FORBIDDEN")
        assert refusal(client.post(TRUST, json=NEW | {"jwksUri": f"{issuer.url}{KEYS}"}, headers=headers)) == (403, "FORBIDDEN")
    assert federation.call("GET", f"{PARTNERS}/{partner['partnerId']}").status_code == 200


def test_each_issuer_once_in_an_organization(federation: Federation, issuer: FakeIssuer, other_tenant: Tenant) -> None:
    partner = federation.partner(issuer)
    assert refusal(federation.trust(issuer)) == (409, "CONFLICT")
    theirs = Federation(other_tenant).partner(issuer)
    assert theirs["partnerId"] != partner["partnerId"]
    assert federation.call("DELETE", f"{PARTNERS}/{partner['partnerId']}").status_code == 204
    assert federation.partner(issuer)["issuer"] == issuer.url


def test_of_many_who_add_the_same_issuer_one_succeeds(federation: Federation, issuer: FakeIssuer) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = [answer.status_code for answer in pool.map(lambda _: federation.trust(issuer), range(16))]
    assert sorted(answers) == [201] + [409] * 15
    assert federation.call("GET", PARTNERS).json()["total"] == 1


def test_there_is_an_end_of_partners(federation: Federation, issuer: FakeIssuer) -> None:
    caller = Caller(federation.tenant.organization_id, scopes=frozenset(SCOPES))
    for number in range(limits.FEDERATION_PARTNERS_MAX):
        federation.tenant.server.write(add_partner, caller, NewPartner("Partner", f"{issuer.url}/{number}", f"{issuer.url}{KEYS}", [], None))
    refused = federation.trust(issuer)
    assert issuer.requests == [], "nobody is called for what cannot be"
    assert refusal(refused) == (409, "CONFLICT")
    assert str(limits.FEDERATION_PARTNERS_MAX) in refused.json()["message"]
    first = federation.call("GET", PARTNERS, params={"limit": 100}).json()
    assert (len(first["data"]), first["total"], first["nextCursor"]) == (100, 100, None)


def test_another_tenants_partner_is_not_there(federation: Federation, issuer: FakeIssuer, other_tenant: Tenant) -> None:
    partner, stranger = federation.partner(issuer), Federation(other_tenant)
    path = f"{PARTNERS}/{partner['partnerId']}"
    unknown = stranger.call("GET", f"{PARTNERS}/{new_id(0)}")
    for method, body in (("GET", None), ("PATCH", {"status": "suspended"}), ("DELETE", None)):
        response = stranger.call(method, path, json=body)
        assert (response.status_code, response.content) == (404, unknown.content)
    assert stranger.call("GET", PARTNERS).json()["data"] == []
    assert "no partner" in stranger.reason(issuer.token(stranger.audience))
    assert federation.call("GET", path).json() == partner


@pytest.mark.parametrize(
    ("field", "address", "reason"),
    [
        (field, address, reason)
        for field in ("issuer", "jwksUri")
        for address, reason in {
            "https://10.0.0.1/keys": "forbidden_address",
            "https://169.254.169.254/latest/meta-data": "forbidden_address",
            "https://[::ffff:127.0.0.1]/keys": "forbidden_address",
            "https://0x7f.1/keys": "forbidden_address",
            "http://id.partner.example/keys": "scheme",
            "https://user@id.partner.example/keys": "userinfo",
            "https://id.partner.example:22/keys": "port",
        }.items()
    ],
)
def test_addresses_that_may_not_be_called(federation: Federation, issuer: FakeIssuer, field: str, address: str, reason: str) -> None:
    """TH19."""
    refused = federation.trust(issuer, **{field: address})
    assert refusal(refused) == (400, "VALIDATION_ERROR")
    assert refused.json()["details"] == {"fields": [{"field": field, "message": refused.json()["message"].partition(": ")[2]}], "reason": reason}
    if field == "jwksUri":
        again = federation.change(federation.partner(issuer), jwksUri=address)
        assert (again.status_code, again.json()["details"]["reason"]) == (400, reason)


def test_this_machine_is_no_partner_unless_it_is_allowed(own_server: RunningServer, issuer: FakeIssuer) -> None:
    federation = Federation(make_tenant(own_server))
    for address in (f"{issuer.url}{KEYS}", "https://localhost/keys", "https://[::1]/keys", "https://keys.localhost"):
        refused = federation.call("POST", TRUST, json=NEW | {"jwksUri": address})
        assert (refused.status_code, refused.json()["details"]["reason"]) == (400, "forbidden_address")
    assert issuer.requests == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "x"),
        ("name", "x" * 101),
        ("name", "a\nb"),
        ("issuer", "id.partner.example"),
        ("issuer", "https://id.partner.example/?a=b"),
        ("jwksUri", "/keys"),
        ("allowedOrganizations", ["a", "a"]),
        ("allowedOrganizations", [""]),
        ("allowedOrganizations", [f"{number}" for number in range(limits.PARTNER_ORGANIZATIONS_MAX + 1)]),
        ("allowedOrganizations", "acme"),
        ("expiresAt", "2020-01-01T00:00:00Z"),
        ("expiresAt", "tomorrow"),
        ("status", "suspended"),
        ("partnerId", "0198c5a2-7d1e-7c3a-9f00-5b1d2e3f4a5b"),
    ],
)
def test_what_is_no_partner(federation: Federation, issuer: FakeIssuer, field: str, value: Any) -> None:
    refused = federation.trust(issuer, **{field: value})
    assert refusal(refused) == (400, "VALIDATION_ERROR")
    assert refused.json()["details"]["fields"][0]["field"].startswith(field)
    assert issuer.requests == []


@pytest.mark.parametrize("field", ["name", "jwksUri", "allowedOrganizations", "status", "issuer"])
def test_what_cannot_be_taken_away(federation: Federation, issuer: FakeIssuer, field: str) -> None:
    assert refusal(federation.change(federation.partner(issuer), **{field: None})) == (400, "VALIDATION_ERROR")


def test_nobody_is_a_partner_under_our_own_name(federation: Federation, issuer: FakeIssuer) -> None:
    own = federation.tenant.server.url
    for name in (own, f"{own}/", f"{own}/organizations/x", own.upper().replace("HTTP", "http")):
        refused = federation.trust(issuer, issuer=name)
        assert (refusal(refused), refused.json()["details"]["fields"][0]["field"]) == ((400, "VALIDATION_ERROR"), "issuer")
    mine = federation.tenant.organization_id
    assert refusal(federation.trust(issuer, allowedOrganizations=["acme", mine.upper()])) == (400, "VALIDATION_ERROR")
    assert refusal(federation.change(federation.partner(issuer), allowedOrganizations=[mine])) == (400, "VALIDATION_ERROR")


BAD_KEYS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "not found": (404, {}, b""),
    "an error": (500, {}, b'{"keys":[]}'),
    "a redirect": (302, {"Location": "/other"}, b""),
    "not JSON": (200, {}, b"<html>"),
    "a list": (200, {}, b"[]"),
    "no keys": (200, {}, b"{}"),
    "an empty set": (200, {}, b'{"keys":[]}'),
    "keys of no use": (200, {}, b'{"keys":[{"kty":"oct","kid":"1","k":"c2VjcmV0","alg":"HS256"}]}'),
    "a name twice": (200, {}, b'{"keys":[],"keys":[]}'),
    "too much": (200, {}, b'{"keys":[' + b" " * limits.OUTGOING_ANSWER_BYTES_MAX + b"]}"),
}


@pytest.mark.parametrize("answer", BAD_KEYS)
def test_without_keys_there_is_no_partner(federation: Federation, issuer: FakeIssuer, answer: str) -> None:
    issuer.answers[KEYS] = BAD_KEYS[answer]
    assert refusal(federation.trust(issuer)) == (502, "FEDERATION_UNREACHABLE")
    assert federation.call("GET", PARTNERS).json()["data"] == []
    assert federation.events("federation.partner_added") == []
    issuer.answers.clear()
    partner = federation.partner(issuer)
    issuer.answers["/new"] = BAD_KEYS[answer]
    assert refusal(federation.change(partner, jwksUri=f"{issuer.url}/new")) == (502, "FEDERATION_UNREACHABLE")
    assert federation.call("GET", f"{PARTNERS}/{partner['partnerId']}").json() == partner


def test_a_server_that_is_down_is_no_partner(federation: Federation, issuer: FakeIssuer) -> None:
    issuer.is_down = True
    assert refusal(federation.trust(issuer)) == (502, "FEDERATION_UNREACHABLE")
