"""What stops an exchange beside the policies themselves, and what it leaves in whose history."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.policies.conftest import Issuers, Trust, trusting
from tests.policies.test_exchange import BEARER, EXCHANGE, JWT
from tests.proofs import OwnKey, nonce_of
from tests.serving import RunningServer, settings_for
from tests.tenants import make_tenant, operator_of, registration

from agentidp.auth.scopes import SCOPES
from agentidp.core.caller import SYSTEM, Caller
from agentidp.ledger.one_time import sweep_one_time_values
from agentidp.organizations.actions import update_organization

FAILURES, PUBLIC = 4, 30


def set_status(trust: Trust, status: str) -> None:
    trust.tenant.server.write(update_organization, Caller(trust.tenant.organization_id, scopes=frozenset(SCOPES)), {"status": status})


def test_a_used_token_stays_used_for_as_long_as_it_lives(trust: Trust, issuers: Issuers) -> None:
    """What is swept is over for everybody."""
    trust.policy(agentId=trust.tenant.agent().agent_id)
    token, server = issuers.github.token(trust.audience), trust.tenant.server
    assert trust.exchange(token).status_code == 200
    with server.clock.ahead(seconds=issuers.github.life_seconds - 20):
        server.write(sweep_one_time_values, SYSTEM)
        assert trust.exchange(token).json()["code"] == "OIDC_TOKEN_REPLAYED"


def test_a_registration_token_lives_no_longer_than_what_it_was_given_for(trust: Trust, issuers: Issuers) -> None:
    trust.policy(agentId=None)
    ends_at = trust.tenant.server.clock() // 1000 + 40
    assert trust.exchange(issuers.github.token(trust.audience, exp=ends_at)).json()["expires_in"] <= 40


def test_a_suspended_organization_lets_nobody_in(trust: Trust, issuers: Issuers) -> None:
    trust.policy(agentId=None)
    token = trust.exchange(issuers.github.token(trust.audience)).json()["access_token"]
    set_status(trust, "suspended")
    refused = trust.exchange(issuers.github.token(trust.audience))
    assert (refused.status_code, refused.json()["error"]) == (400, "unauthorized_client")
    with trust.tenant.server.client(headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.post("/api/v1/agents", json=registration()).status_code == 401
    set_status(trust, "active")
    assert "organization is not active" in {event["metadata"]["reason"] for event in trust.events("auth.failed")}
    with trust.tenant.server.client(headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.post("/api/v1/agents", json=registration()).status_code == 201


def test_refusals_are_in_the_history_of_whose_token_it_was(trust: Trust, issuers: Issuers) -> None:
    """A token that a trusted issuer signed is in the tenant's, one that nobody signed in the operator's."""
    agent = trust.tenant.agent()
    trust.policy(agentId=agent.agent_id, branch="main")
    trust.exchange(issuers.github.token(trust.audience, ref="refs/heads/x"))
    assert [event["metadata"]["reason"] for event in trust.events("auth.failed")] == ["no trust policy matches"]
    operator = operator_of(trust.tenant.server)
    request_id = trust.exchange(issuers.oidc.token(trust.audience)).headers["x-request-id"]
    with operator.client("audit:read") as client:
        (event,) = client.get("/api/v1/audit", params={"action": "auth.failed", "requestId": request_id}).json()["data"]
    assert event["metadata"]["reason"] == "outside token: no trust policy of the organization names its issuer"
    assert len(trust.events("auth.failed")) == 1


def test_a_proof_beside_a_registration_is_used_up(trust: Trust, issuers: Issuers) -> None:
    trust.policy(agentId=None)
    server, key, path = trust.tenant.server, OwnKey(), "/api/v1/oidc/token"
    proof = key.proof(server, "POST", path, nonce_of(server))
    with server.client(headers={"DPoP": proof}) as client:
        answers = [client.post(path, json={"token": issuers.github.token(trust.audience)}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 400]
    assert (answers[0].json()["token_type"], answers[1].json()["error"]) == ("Bearer", "invalid_dpop_proof")


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory, issuers: Issuers) -> Iterator[Trust]:
    """On SQLite: rates do not know the engine."""
    rates: dict[str, Any] = {"rate_limit": {"failed_logins_per_minute": FAILURES, "public_per_minute": PUBLIC}}
    folder: Path = tmp_path_factory.mktemp("limited")
    server = RunningServer(settings_for(folder, None, **trusting(issuers), **rates))
    yield Trust(make_tenant(server))
    server.stop()


@pytest.mark.parametrize("door", ["oidc", BEARER, EXCHANGE])
def test_who_fails_too_often_waits_and_its_neighbours_do_not(limited: Trust, issuers: Issuers, door: str) -> None:
    limited.tenant.server.clock.shift_ms += 120_000  # the minutes of the other doors are over
    policy = limited.policy(agentId=limited.tenant.agent().agent_id)

    def present(subject: str, **claims: Any) -> httpx2.Response:
        now = limited.tenant.server.clock() // 1000
        token = issuers.github.token(limited.audience, sub=subject, iat=now, nbf=now, exp=now + 300, **claims)
        if door == "oidc":
            return limited.exchange(token)
        extra = {"assertion": token} if door == BEARER else {"subject_token": token, "subject_token_type": JWT}
        return limited.grant(door, **extra)

    statuses = [present("repo:acme/bad", event_name="pull_request").status_code for _ in range(FAILURES + 2)]
    assert set(statuses[:FAILURES]) <= {400, 403}
    assert statuses[-1] == 429
    assert present("repo:acme/good").status_code == 200
    statuses = [present(f"repo:acme/{number}").status_code for number in range(PUBLIC)]
    assert 429 in statuses, "and a source has a rate, whoever it says to be"
    limited.delete(policy["policyId"])
