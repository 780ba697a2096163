"""Rate limits over HTTP on both engines: of a client, of a source that guesses, of a source that asks for what is open to anybody.

The server's limits are so low that nothing comes back by itself while a test runs; each test has source addresses of its own.
"""

import itertools
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from tests.conftest import fresh_postgres_database
from tests.proofs import OwnKey, with_proof
from tests.serving import RunningServer, settings_for
from tests.tenants import Tenant, TestAgent, make_tenant, operator_of

from agentidp.auth.rates import source_of
from agentidp.core.caller import Caller
from agentidp.core.clock import to_rfc3339
from agentidp.db.schema import usage_counters
from agentidp.db.unit import Tx

TOKEN = "/api/v1/token"
FREE, PRO, FAILURES, PUBLIC = 5, 8, 3, 4
LIMITED = {
    "plans": {"free": {"requests_per_minute": FREE}, "pro": {"requests_per_minute": PRO}},
    "rate_limit": {"failed_logins_per_minute": FAILURES, "public_per_minute": PUBLIC},
    "trusted_proxies": ["127.0.0.0/8"],
}
_sources = itertools.count(1)


@pytest.fixture(scope="session")
def limited_servers() -> Iterator[dict[str, RunningServer]]:
    running: dict[str, RunningServer] = {}
    yield running
    for server in running.values():
        server.stop()


@pytest.fixture
def limited(engine: str, limited_servers: dict[str, RunningServer], folder: Path, request: pytest.FixtureRequest) -> RunningServer:
    if engine not in limited_servers:
        url = fresh_postgres_database(request.getfixturevalue("postgres")).__enter__() if engine == "postgresql" else None
        limited_servers[engine] = RunningServer(settings_for(folder / f"limited-{engine}", url, **LIMITED))
    return limited_servers[engine]


@pytest.fixture
def free(limited: RunningServer) -> Tenant:
    """A tenant on the free plan."""
    tenant = make_tenant(limited)
    set_plan(tenant, "free")
    return tenant


def set_plan(tenant: Tenant, plan: str) -> None:
    with operator_of(tenant.server).client("admin:orgs") as operator:
        assert operator.patch(f"/api/v1/organizations/{tenant.organization_id}", json={"planTier": plan}).status_code == 200


def source() -> dict[str, str]:
    """The header that makes a request come from an address of its own."""
    number = next(_sources)
    return {"X-Forwarded-For": f"203.0.{number // 250}.{number % 250 + 1}"}


def ask(server: RunningServer, client_id: str, secret: str, headers: dict[str, str]) -> httpx2.Response:
    with server.client(headers=headers) as client:
        return client.post(TOKEN, data={"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret})


def refusals(tenant: Tenant, reason: str) -> list[dict[str, Any]]:
    """The tenant's audit events with that reason; the tenant is put on a plan that lets it ask."""
    set_plan(tenant, "enterprise")
    with tenant.admin.client("audit:read") as client:
        return [event for event in client.get("/api/v1/audit", params={"limit": 200}).json()["data"] if event["metadata"].get("reason") == reason]


def hits(server: RunningServer, kind: str) -> float:
    found = server.instance.metrics.registry.get_sample_value("agentidp_rate_limit_hits_total", {"kind": kind})
    assert found is not None
    return found


def test_a_client_is_told_its_limit_then_refused_then_served_again(free: Tenant) -> None:
    agent, before = free.agent("agents:read"), hits(free.server, "client")
    with agent.client() as client:  # its token was the first of five requests
        answers = [client.get("/api/v1/agents") for _ in range(FREE + 1)]
        assert [answer.status_code for answer in answers] == [200] * (FREE - 1) + [429] * 2
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["3", "2", "1", "0", "0", "0"]
        assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {str(FREE)}
        now = free.server.clock() / 1000
        assert now + 40 < int(answers[-1].headers["x-ratelimit-reset"]) <= now + 61
        refused = answers[-1]
        assert refused.json() == {"code": "RATE_LIMIT_EXCEEDED", "message": "Too many requests; wait and try again."}
        wait = int(refused.headers["retry-after"])
        assert 1 <= wait <= 12
        assert refused.headers["cache-control"] == "no-store"
        with free.server.clock.ahead(seconds=wait):
            assert client.get("/api/v1/agents").status_code == 200
            assert client.get("/api/v1/agents").status_code == 429
    assert hits(free.server, "client") == before + 3


def test_tokens_introspections_and_calls_are_one_count(free: Tenant) -> None:
    agent = free.agent("tokens:read")
    form = {"client_id": agent.agent_id, "client_secret": agent.client_secret}
    token = agent.token_response()
    assert token.headers["x-ratelimit-remaining"] == "4"
    with free.server.client() as client:
        answer = client.post(f"{TOKEN}/introspect", data=form | {"token": token.json()["access_token"]})
        assert (answer.status_code, answer.headers["x-ratelimit-remaining"]) == (200, "3")
        assert client.post(f"{TOKEN}/revoke", data=form | {"token": "x"}).headers["x-ratelimit-remaining"] == "2"
    answers = [agent.token_response() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].json() == {"error": "slow_down", "error_description": "Too many requests; wait and try again."}
    assert answers[-1].headers["retry-after"].isdecimal()
    assert answers[-1].headers["x-ratelimit-remaining"] == "0"


def test_agents_are_limited_each_for_itself(free: Tenant) -> None:
    first, second = free.agent(), free.agent()
    assert [first.token_response().status_code for _ in range(FREE + 1)][-1] == 429
    assert second.token_response().headers["x-ratelimit-remaining"] == "4"


def test_another_plan_applies_to_the_next_request(free: Tenant) -> None:
    agent = free.agent()
    assert [agent.token_response().status_code for _ in range(FREE + 1)][-1] == 429
    for plan, limit in (("pro", PRO), ("enterprise", 10_000), ("free", FREE)):
        set_plan(free, plan)
        answer = agent.token_response()
        assert answer.headers["x-ratelimit-limit"] == str(limit)
        assert answer.status_code == (429 if plan == "free" else 200)  # what was used up of a plan stays so


def test_invalid_scopes_count_so_that_their_events_do_not_fill_the_trail(free: Tenant) -> None:
    agent = free.agent()
    answers = [agent.token_response("no:such").status_code for _ in range(FREE + 3)]
    assert answers == [400] * FREE + [429] * 3
    assert len(refusals(free, "invalid_scope")) == FREE


def test_refusals_are_recorded_once_a_minute(free: Tenant) -> None:
    agent = free.agent()
    for _ in range(FREE + 7):
        agent.token_response()
    with free.server.clock.ahead(seconds=61):
        for _ in range(FREE + 7):
            agent.token_response()
    events = refusals(free, "rate limit")
    assert [(event["action"], event["outcome"], event["agentId"], event["metadata"]["perMinute"]) for event in events] == [
        ("access.denied", "failure", agent.agent_id, FREE)
    ] * 2


def test_a_refused_call_is_not_counted_as_a_call(free: Tenant) -> None:
    agent = free.agent("agents:read")
    with agent.client() as client:
        for _ in range(FREE + 5):
            client.get("/api/v1/agents")

    def calls(tx: Tx) -> int:
        mine = sa.and_(usage_counters.c.organization_id == free.organization_id, usage_counters.c.meter == "apiCalls")
        return int(tx.all(sa.select(sa.func.sum(usage_counters.c["count"]).label("total")).where(mine))[0].total)

    assert free.server.read(calls, Caller(free.organization_id)) == FREE - 1


@pytest.mark.parametrize(("per_minute", "limit"), [(2, "2"), (0, None)])
def test_the_setting_overrides_every_plan(tmp_path: Path, per_minute: int, limit: str | None) -> None:
    server = RunningServer(settings_for(tmp_path, None, rate_limit={"per_minute": per_minute}))
    try:
        agent = make_tenant(server).agent()
        answers = [agent.token_response() for _ in range(4)]
        assert [answer.status_code for answer in answers] == ([200, 200, 429, 429] if per_minute else [200] * 4)
        assert {answer.headers.get("x-ratelimit-limit") for answer in answers} == {limit}
    finally:
        server.stop()


def wrong_credentials(tenant: Tenant) -> Iterator[tuple[str, str]]:
    """Client id and secret in every way in which they can be wrong."""
    known, other = tenant.agent(), tenant.agent()
    yield known.agent_id, "aidp_sk_nonsense"
    yield known.agent_id, other.client_secret
    yield str(uuid.uuid4()), known.client_secret
    with tenant.admin.client() as client:
        path = f"/api/v1/agents/{known.agent_id}/credentials"
        revoked = client.post(path).json()
        client.delete(f"{path}/{revoked['credentialId']}")
        expired = client.post(path, json={"expiresAt": to_rfc3339(tenant.server.clock() + 1_000)}).json()
    yield known.agent_id, revoked["clientSecret"]
    tenant.server.clock.shift_ms += 2_000
    try:
        yield known.agent_id, expired["clientSecret"]
    finally:
        tenant.server.clock.shift_ms -= 2_000


def test_guessing_is_answered_alike_whatever_is_wrong_then_refused_alike(limited: RunningServer) -> None:
    """TH5"""
    shapes, before = set(), hits(limited, "login")
    for client_id, secret in wrong_credentials(make_tenant(limited)):
        headers = source()
        answers = [ask(limited, client_id, secret, headers) for _ in range(FAILURES + 2)]
        assert [answer.status_code for answer in answers] == [401] * FAILURES + [429] * 2
        assert all(1 <= int(answer.headers["retry-after"]) <= 20 for answer in answers[FAILURES:])
        assert not [answer for answer in answers if "x-ratelimit-limit" in answer.headers]
        shapes.add((answers[0].content, answers[-1].content, answers[0].headers["www-authenticate"]))
    assert len(shapes) == 1
    assert hits(limited, "login") == before + 10


def test_the_right_secret_after_too_many_wrong_ones_must_wait_there_but_not_elsewhere(limited: RunningServer) -> None:
    """TH6: whoever fails in a victim's name locks it out only where he is himself."""
    tenant = make_tenant(limited)
    victim, neighbour, attacker = tenant.agent(), tenant.agent(), source()
    for _ in range(FAILURES):
        assert ask(limited, victim.agent_id, "wrong", attacker).status_code == 401
    refused = ask(limited, victim.agent_id, victim.client_secret, attacker)
    assert refused.status_code == 429
    assert refused.json()["error"] == "slow_down"
    assert ask(limited, victim.agent_id, victim.client_secret, source()).status_code == 200
    assert ask(limited, neighbour.agent_id, neighbour.client_secret, attacker).status_code == 200
    with limited.clock.ahead(seconds=int(refused.headers["retry-after"])):
        assert ask(limited, victim.agent_id, victim.client_secret, attacker).status_code == 200


def test_a_source_that_tries_many_names_is_stopped_too(limited: RunningServer) -> None:
    agent, attacker = make_tenant(limited).agent(), source()
    statuses = [ask(limited, str(uuid.uuid4()), "wrong", attacker).status_code for _ in range(10 * FAILURES + 1)]
    assert statuses == [401] * 10 * FAILURES + [429]
    assert ask(limited, agent.agent_id, agent.client_secret, attacker).status_code == 429
    assert ask(limited, agent.agent_id, agent.client_secret, source()).status_code == 200


def test_wrong_proofs_are_guesses_and_rounds_for_a_nonce_are_none(limited: RunningServer) -> None:
    server, key = limited, OwnKey()
    agent = make_tenant(server).agent("agents:read", "openid")
    form = {"grant_type": "client_credentials", "client_id": agent.agent_id, "client_secret": agent.client_secret}
    with server.client(headers=source()) as client:

        def ask_with(nonce: str, **claims: Any) -> httpx2.Response:
            return client.post(TOKEN, data=form, headers={"DPoP": key.proof(server, "POST", TOKEN, nonce, **claims)})

        def call_with(token: str, nonce: str, **claims: Any) -> int:
            return with_proof(client, "GET", "/agent-info", token, key.proof(server, "GET", "/agent-info", nonce, token, **claims)).status_code

        rounds = [ask_with("") for _ in range(10 * FAILURES + 5)]
        assert {(answer.status_code, answer.json()["error"]) for answer in rounds} == {(400, "use_dpop_nonce")}
        nonce = rounds[-1].headers["dpop-nonce"]
        token = ask_with(nonce).json()["access_token"]
        assert [call_with(token, "") for _ in range(FAILURES + 2)] == [401] * (FAILURES + 2)
        assert [call_with(token, nonce, htm="PUT") for _ in range(FAILURES + 2)] == [401] * FAILURES + [429] * 2
        statuses = [ask_with(nonce, htm="PUT").status_code for _ in range(20 * FAILURES)]  # of no client yet: the source's failures are counted
        assert (statuses[: 9 * FAILURES], statuses[-1]) == ([400] * 9 * FAILURES, 429)


def test_an_exchange_of_our_own_token_is_a_request_of_its_client(free: Tenant) -> None:
    kind = "urn:ietf:params:oauth:token-type:access_token"
    token = free.agent("agents:read").token()
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": token, "subject_token_type": kind}
    with free.server.client() as client:
        answers = [client.post(TOKEN, data=form) for _ in range(FREE + 1)]
    assert [answer.status_code for answer in answers] == [200] * (FREE - 1) + [429] * 2
    assert answers[-1].json()["error"] == "slow_down"


def test_a_good_token_is_served_where_bad_ones_are_refused(limited: RunningServer) -> None:
    """And what is refused leaves one event, not one each."""
    agent, attacker = make_tenant(limited).agent("agents:read"), source()
    with limited.client(headers=attacker) as client:
        statuses = [client.get("/api/v1/agents").status_code for _ in range(10 * FAILURES)]
        statuses += [client.get("/api/v1/agents", headers={"Authorization": "Bearer a.b.c"}).status_code for _ in range(10)]
    assert statuses == [401] * 10 * FAILURES + [429] * 10
    with limited.client(headers=attacker | {"Authorization": f"Bearer {agent.token()}"}) as client:
        assert client.get("/api/v1/agents").status_code == 200
    with operator_of(limited).client("audit:read") as client:
        events = client.get("/api/v1/audit", params={"limit": 200}).json()["data"]
    mine = [event["metadata"]["reason"] for event in events if event["ipAddress"] == attacker["X-Forwarded-For"]]
    assert sorted(mine) == ["no bearer token"] * 10 * FAILURES + ["too many failures"]


def test_a_revoked_token_cannot_use_up_the_rate_of_its_agent(free: Tenant) -> None:
    agent, thief = free.agent("agents:read"), source()
    stolen = agent.token()
    with free.server.client() as client:
        client.post(f"{TOKEN}/revoke", data={"client_id": agent.agent_id, "client_secret": agent.client_secret, "token": stolen})
    set_plan(free, "pro")
    with free.server.client(headers=thief | {"Authorization": f"Bearer {stolen}"}) as client:
        assert [client.get("/api/v1/agents").status_code for _ in range(10)] == [401] * FAILURES + [429] * (10 - FAILURES)
    assert agent.token_response().headers["x-ratelimit-remaining"] == str(PRO - FAILURES - 1)


def test_an_agent_that_is_not_active_cannot_go_on_asking(limited: RunningServer) -> None:
    tenant, headers = make_tenant(limited), source()
    agent: TestAgent = tenant.agent()
    with tenant.admin.client() as client:
        client.patch(f"/api/v1/agents/{agent.agent_id}", json={"status": "suspended"})
    answers = [ask(limited, agent.agent_id, agent.client_secret, headers).status_code for _ in range(FAILURES + 2)]
    assert answers == [400] * FAILURES + [429] * 2


def test_what_is_open_to_anybody_is_limited_by_source(limited: RunningServer) -> None:
    with limited.client(headers=source()) as client, limited.client(headers=source()) as other:
        answers = [client.get("/docs") for _ in range(PUBLIC)] + [client.get("/openapi.json") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200] * PUBLIC + [429] * 2
        assert answers[-1].json()["code"] == "RATE_LIMIT_EXCEEDED"
        assert answers[-1].headers["retry-after"] == "15"
        assert other.get("/docs").status_code == 200


@pytest.mark.parametrize("path", ["/health", "/.well-known/jwks.json", "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"])
def test_health_keys_and_discovery_are_never_refused(limited: RunningServer, path: str) -> None:
    with limited.client(headers=source()) as client:
        assert {client.get(path).status_code for _ in range(3 * PUBLIC)} == {200}


def test_an_ipv6_network_is_one_source() -> None:
    assert source_of("2001:db8:1:2::5") == source_of("2001:db8:1:2:ffff::1") == "2001:db8:1:2::/64"
    assert source_of("2001:db8:1:3::5") != source_of("2001:db8:1:2::5")
    assert source_of("203.0.113.7") == "203.0.113.7"
    assert source_of(None) == "unknown"
