"""The forge table at all three doors. `explain` must name the claim that stops each one, and issue nothing."""

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from tests.fakes.fake_issuers import FakeIssuer
from tests.policies.conftest import Issuers, Trust
from tests.policies.forged import ACCEPTED, BEARERS, CLAIMS, CLUSTER, INVALID, MAIN, NO_MATCH, PAGE, REPOSITORY, TOKENS, page


def some(names: Iterable[str]) -> list[Any]:
    """All of them, most marked as slow: the pre-parser has its own tests."""
    return [pytest.param(name, marks=[pytest.mark.slow] * bool(number % 4)) for number, name in enumerate(names)]


def filled(value: Any, trust: Trust, issuer: FakeIssuer) -> Any:
    if callable(value):
        return value(int(time.time()))
    if isinstance(value, list):
        return [filled(one, trust, issuer) for one in value]
    names = {"{audience}": trust.audience, "{AUDIENCE}": trust.audience.upper(), "{server}": trust.tenant.server.url, "{issuer}": issuer.url}
    for name, stands_for in names.items():
        value = value.replace(name, stands_for) if isinstance(value, str) else value
    return value


def established(trust: Trust, issuers: Issuers, provider: str, policy: dict[str, Any]) -> FakeIssuer:
    """A policy that has been used once, so that the repository's numbers are recorded."""
    issuer: FakeIssuer = getattr(issuers, provider)
    body = {"agentId": trust.tenant.agent().agent_id, "provider": provider} | policy
    if provider == "gitlab":
        body["conditions"] = {name: value for name, value in policy.get("conditions", {}).items() if name != "environment"}
    elif provider in {"kubernetes", "oidc"}:
        whose = CLUSTER if provider == "kubernetes" else {"conditions": {"sub": {"equals": "somebody"}}}
        body = {"agentId": body["agentId"], "provider": provider, "issuer": issuer.url} | (policy if policy is not MAIN else whose) | {"repository": None}
    trust.policy(**body)
    if (
        provider in {"github", "gitlab"}
        and body.get("repository")
        and not any("event" in json.dumps(value) or "source" in name for name, value in body.get("conditions", {}).items())
    ):
        trust.exchange(issuer.token(trust.audience))
    return issuer


def doors(trust: Trust, token: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The answers at all three doors: where, status, body."""
    from tests.policies.test_exchange import BEARER, EXCHANGE, JWT

    for where, response in (
        ("oidc", trust.exchange(token)),
        (BEARER, trust.grant(BEARER, assertion=token)),
        (EXCHANGE, trust.grant(EXCHANGE, subject_token=token, subject_token_type=JWT)),
    ):
        yield where, response.status_code, response.json()


def require_refused(trust: Trust, token: str, status: int, code: str) -> None:
    for where, answered, body in doors(trust, token):
        assert answered == (status if where == "oidc" else 400), body
        error = "invalid_request" if where.endswith("token-exchange") else "invalid_grant"  # RFC 8693 section 2.2.2
        assert (body["error"], body["code"]) == (error, code), body
        assert "access_token" not in body


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_decides(trust: Trust, issuers: Issuers, name: str) -> None:
    case = CLAIMS[name]
    issuer = established(trust, issuers, case.provider, case.policy)
    token = issuer.token(trust.audience, **{claim: filled(value, trust, issuer) for claim, value in case.claims.items()})
    explained = trust.explain(token)
    assert explained["reason"] is None
    assert explained["accepted"] == (case.stopped_by is None)
    if case.stopped_by is None:
        response = trust.exchange(token)
        assert response.status_code == 200, response.text
    else:
        assert case.stopped_by in {one["claim"] for one in explained["stoppedBy"]}
        require_refused(trust, token, *NO_MATCH)


@pytest.mark.parametrize("name", some(TOKENS))
def test_a_token_that_is_wrong_in_itself(trust: Trust, issuers: Issuers, name: str) -> None:
    issuer = established(trust, issuers, "github", REPOSITORY)
    token = issuer.token(trust.audience, **{claim: filled(value, trust, issuer) for claim, value in TOKENS[name].items()})
    require_refused(trust, token, *INVALID)
    assert not trust.explain(token)["accepted"]


@pytest.mark.parametrize("name", some(BEARERS))
def test_a_token_that_is_no_token(trust: Trust, issuers: Issuers, name: str) -> None:
    """TH1 and the bearer family. Nothing leaves this machine for any of them: the fixtures see to that."""
    issuer = established(trust, issuers, "github", REPOSITORY)
    require_refused(trust, BEARERS[name](issuer, trust.audience), *INVALID)


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_header_as_issuers_write_them(trust: Trust, issuers: Issuers, name: str) -> None:
    issuer = established(trust, issuers, "github", REPOSITORY)
    assert trust.exchange(ACCEPTED[name](issuer, trust.audience)).status_code == 200


def test_a_token_that_is_too_long_is_not_read(trust: Trust, issuers: Issuers) -> None:
    issuer = established(trust, issuers, "github", REPOSITORY)
    token = issuer.token(trust.audience, note="x" * 9000)
    assert (trust.exchange(token).status_code, trust.exchange(token).json()["error"]) == (400, "invalid_request")
    assert trust.grant("jwt-bearer", assertion=token).json()["error"] == "invalid_grant"


def test_our_own_tokens_are_not_from_outside(trust: Trust, issuers: Issuers) -> None:
    """TH2 the other way round: an access token and an ID token of this server."""
    established(trust, issuers, "github", REPOSITORY)
    answer = trust.tenant.admin.token_response("openid", resource=trust.audience).json()
    for token in (answer["access_token"], answer["id_token"]):
        require_refused(trust, token, *INVALID)


def test_an_outside_token_is_no_bearer(trust: Trust, issuers: Issuers) -> None:
    """TH2."""
    issuer = established(trust, issuers, "github", REPOSITORY)
    for audience in (trust.audience, trust.tenant.server.url):
        with trust.tenant.server.client(headers={"Authorization": f"Bearer {issuer.token(audience)}"}) as client:
            assert client.get("/agent-info").status_code == 401


def test_the_page_is_that_of_the_table() -> None:
    """Otherwise: `make docs`."""
    assert PAGE.read_text("utf-8") == page()
