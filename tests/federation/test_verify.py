"""TH31: whose token is valid, for how long, and every way in which one is not. What is not valid says nothing but why; nothing here is an identity of ours."""

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.auth.forgery import b64, forge, forge_hmac, other_last_character, parts
from tests.fakes.fake_issuers import KEYS, FakeIssuer, IssuerKey
from tests.federation.conftest import PARTNERS, VERIFY, Federation
from tests.tenants import Tenant

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
    issuer.is_down = True
    assert federation.verify(token)["valid"]
    with later(federation, limits.OUTSIDE_KEYS_FRESH_SECONDS_MAX + 1):
        assert federation.verify(token)["valid"]
        unknown = IssuerKey()
        assert federation.reason(unknown.sign(issuer.header() | {"kid": unknown.key_id}, issuer.claims(federation.audience))) == "unknown key"
    with later(federation, limits.OUTSIDE_KEYS_STALE_SECONDS_MAX + 1):
        refused = federation.call("POST", VERIFY, json={"token": token})
        assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "SERVICE_UNAVAILABLE", "1")
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


# --- every way a JWT can be wrong -----------------------------------------------------------

Forge = Callable[[FakeIssuer, dict[str, Any], dict[str, Any]], str]


def _changed(**claims: Any) -> Forge:
    return lambda issuer, header, known: issuer.key.sign(header, {name: value for name, value in (known | claims).items() if value is not ...})


def _headed(**changed: Any) -> Forge:
    return lambda issuer, header, claims: issuer.key.sign({name: value for name, value in (header | changed).items() if value is not ...}, claims)


def _hmac(issuer: FakeIssuer, header: dict[str, Any], claims: dict[str, Any]) -> str:
    public = issuer.key.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return forge_hmac(public, header | {"alg": "HS256"}, claims)


def _unsigned(algorithm: str, signature: str) -> Forge:
    return lambda _, header, claims: f"{b64(json.dumps(header | {'alg': algorithm}))}.{b64(json.dumps(claims))}.{signature}"


def _embedded(issuer: FakeIssuer, header: dict[str, Any], claims: dict[str, Any]) -> str:
    own = IssuerKey(header["kid"])
    return own.sign(header | {"jwk": own.jwk}, claims)


def _text(change: Callable[[str], str]) -> Forge:
    return lambda issuer, header, claims: change(issuer.key.sign(header, claims))


def _parts(change: Callable[[list[str]], list[str]]) -> Forge:
    return _text(lambda token: ".".join(change(token.split("."))))


_now = int(time.time())
FORGERIES: dict[str, Forge] = {
    "none": _unsigned("none", ""),
    "none with a signature": _unsigned("none", "AA"),
    "NONE": _unsigned("NONE", "AA"),
    "HMAC with the public key": _hmac,
    "HMAC with the JWK": lambda issuer, header, claims: forge_hmac(json.dumps(issuer.key.jwk).encode(), header | {"alg": "HS256"}, claims),
    "HMAC with nothing": lambda _, header, claims: forge_hmac(b"", header | {"alg": "HS256"}, claims),
    "another algorithm's name": _headed(alg="RS512"),
    "PSS": _headed(alg="PS256"),
    "ES256 under the key's id": lambda _, header, claims: forge(ec.generate_private_key(ec.SECP256R1()), header | {"alg": "ES256"}, claims),
    "no algorithm": _headed(alg=...),
    "an algorithm that is no text": _headed(alg=["RS256"]),
    "a key in the header": _embedded,
    "a jku": _headed(jku="https://evil.example/keys"),
    "an x5u": _headed(x5u="https://evil.example/keys"),
    "an x5c": _headed(x5c=["AA"]),
    "crit": _headed(crit=["exp"]),
    "b64": _headed(b64=False),
    "zip": _headed(zip="DEF"),
    "no kid": _headed(kid=...),
    "a kid that is a path": _headed(kid="../../etc/passwd"),
    "a kid that is SQL": _headed(kid="' OR 1=1 --"),
    "a kid that is a number": _headed(kid=1),
    "typ dpop+jwt": _headed(typ="dpop+jwt"),
    "typ logout+jwt": _headed(typ="logout+jwt"),
    "typ no text": _headed(typ=1),
    "a header twice": lambda issuer, header, claims: issuer.key.sign(json.dumps(header)[:-1] + ',"alg":"RS256"}', claims),
    "a claim twice": lambda issuer, header, claims: issuer.key.sign(header, json.dumps(claims)[:-1] + ',"sub":"other"}'),
    "claims that are a list": lambda issuer, header, _: issuer.key.sign(header, "[]"),
    "claims that are no JSON": lambda issuer, header, _: issuer.key.sign(header, "{"),
    "NaN": lambda issuer, header, claims: issuer.key.sign(header, json.dumps(claims | {"x": float("nan")})),
    "a lone surrogate": lambda issuer, header, claims: issuer.key.sign(header, json.dumps(claims)[:-1] + ',"x":"\\ud800"}'),
    "no UTF-8": lambda issuer, header, _: issuer.key.sign(header, b'{"x":"\xff"}'),
    "too deep": lambda issuer, header, claims: issuer.key.sign(header, json.dumps(claims)[:-1] + f',"x":{"[" * 100}{"]" * 100}}}'),
    "expired": _changed(exp=_now - 1, iat=_now - 60, nbf=_now - 60),
    "no exp": _changed(exp=...),
    "exp as text": _changed(exp=str(_now + 300)),
    "exp with a fraction": _changed(exp=_now + 300.5),
    "exp true": _changed(exp=True),
    "exp at the end of time": _changed(exp=10**18),
    "no iat": _changed(iat=...),
    "iat in the future": _changed(iat=_now + 600, exp=_now + 900),
    "iat as text": _changed(iat=str(_now)),
    "nbf in the future": _changed(nbf=_now + 600, exp=_now + 900),
    "nbf as text": _changed(nbf="0"),
    "no sub": _changed(sub=...),
    "sub empty": _changed(sub=""),
    "sub a number": _changed(sub=1),
    "jti a number": _changed(jti=1),
    "no iss": _changed(iss=...),
    "iss a list": _changed(iss=["x"]),
    "iss with a NUL": _changed(iss="https://id.partner.example/\x00"),
    "iss nobody's": _changed(iss="https://id.partner.example"),
    "iss enormous": _changed(iss="https://id.partner.example/" + "x" * 4000),
    "another claim than was signed": _parts(lambda part: [part[0], b64(json.dumps({"sub": "other"})), part[2]]),
    "a signature cut": _text(lambda token: token[:-4]),
    "no signature": _parts(lambda part: [part[0], part[1], ""]),
    "two parts": _parts(lambda part: part[:2]),
    "four parts": _parts(lambda part: [*part, part[2]]),
    "padding": _text(lambda token: token + "=="),
    "another spelling": _parts(lambda part: [part[0], part[1], other_last_character(part[2])]),
    "white space": _text(lambda token: f" {token}\n"),
    "standard base64": _text(lambda token: token.replace("-", "+").replace("_", "/") + "+/"),
    "a NUL": _text(lambda token: token + "\x00"),
    "not ASCII": _text(lambda token: token + "é"),
    "nothing": _text(lambda _: "."),
    "as long as may be": _text(lambda _: "a" * limits.TOKEN_CHARACTERS_MAX),
}


@pytest.mark.parametrize("how", FORGERIES)
def test_a_bad_token_is_an_answer(federation: Federation, issuer: FakeIssuer, how: str) -> None:
    federation.partner(issuer)
    claims = issuer.claims(federation.audience)
    if how == "a NUL":
        refused = federation.call("POST", VERIFY, json={"token": FORGERIES[how](issuer, issuer.header(), claims)})
        assert refused.status_code == 400 or not refused.json()["valid"]
        return
    assert federation.reason(FORGERIES[how](issuer, issuer.header(), claims))
    assert federation.verify(issuer.key.sign(issuer.header(), claims))["valid"], "the same without the flaw"
    assert set(issuer.requests) == {KEYS}, "whatever a token points to, nobody goes there"


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
