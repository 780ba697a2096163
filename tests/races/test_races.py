"""What happens at once: on SQLite one process, on PostgreSQL two servers on one database. At a limit exactly one gets through."""

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.serving import RunningServer, settings_for
from tests.tenants import Tenant, TestAgent, make_administrator, operator_of, registration

THREADS = 8


@pytest.fixture(scope="module")
def twins() -> Iterator[dict[str, RunningServer]]:
    """Second servers by engine, for the length of this file."""
    running: dict[str, RunningServer] = {}
    yield running
    for server in running.values():
        server.stop()


@pytest.fixture
def servers_of(engine: str, server: RunningServer, twins: dict[str, RunningServer], folder: Path, request: pytest.FixtureRequest) -> list[RunningServer]:
    """The servers that share one database and one issuer: two on PostgreSQL, the only one on SQLite."""
    if engine == "sqlite":
        return [server]
    if engine not in twins:
        twins[engine] = RunningServer(settings_for(folder / engine, request.getfixturevalue("postgres"), issuer=server.url))
    return [server, twins[engine]]


def address(server: RunningServer) -> str:
    return f"http://{server.settings.host}:{server.settings.port}"


def at_once(servers: list[RunningServer], count: int, send: Callable[[httpx2.Client, int], httpx2.Response]) -> list[httpx2.Response]:
    """`count` requests let go together, spread over the servers, each on its own connection."""
    barrier = threading.Barrier(count)

    def one(number: int) -> httpx2.Response:
        server = servers[number % len(servers)]
        with server.client() as client:
            client.base_url = httpx2.URL(address(server))
            client.get("/health")  # the connection is there before the start
            barrier.wait(20)
            return send(client, number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def form(agent: TestAgent, **values: Any) -> dict[str, Any]:
    return {"grant_type": "client_credentials", "client_id": agent.agent_id, "client_secret": agent.client_secret, **values}


def test_one_email_is_registered_once(servers_of: list[RunningServer], tenant: Tenant) -> None:
    token, body = tenant.admin.token(), registration()
    answers = at_once(servers_of, 30, lambda client, _: client.post("/api/v1/agents", json=body, headers=bearer(token)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 29}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"AGENT_ALREADY_EXISTS"}
    with tenant.admin.client() as client:
        assert client.get("/api/v1/agents").json()["total"] == 2
        assert client.get("/api/v1/audit", params={"action": "agent.created"}).json()["total"] == 2


def test_the_last_free_credential_is_given_once(servers_of: list[RunningServer], tenant: Tenant) -> None:
    agent, token = tenant.agent(), tenant.admin.token()
    path = f"/api/v1/agents/{agent.agent_id}/credentials"
    with tenant.admin.client() as client:
        for _ in range(8):
            assert client.post(path).status_code == 201
        answers = at_once(servers_of, 20, lambda client, _: client.post(path, headers=bearer(token)))
        assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 19}
        assert client.get(path, params={"status": "active"}).json()["total"] == 10


def test_the_last_free_place_is_given_once(servers_of: list[RunningServer], tenant: Tenant) -> None:
    """TH27: 50 registrations at the limit minus one."""
    token, bodies = tenant.admin.token(), [registration() for _ in range(50)]
    with operator_of(tenant.server).client("admin:orgs") as operator:
        assert operator.patch(f"/api/v1/organizations/{tenant.organization_id}", json={"maxAgents": 2}).status_code == 200
    answers = at_once(servers_of, 50, lambda client, number: client.post("/api/v1/agents", json=bodies[number], headers=bearer(token)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 403: 49}
    refused = [answer.json() for answer in answers if answer.status_code == 403]
    assert {body["code"] for body in refused} == {"TIER_LIMIT_EXCEEDED"}
    assert {(body["details"]["limit"], body["details"]["used"]) for body in refused} == {(2, 2)}
    with tenant.admin.client() as client:
        assert client.get("/api/v1/agents").json()["total"] == 2


def test_administrators_who_remove_each_other_leave_one(servers_of: list[RunningServer], tenant: Tenant) -> None:
    second = tenant.agent()
    for admin in (tenant.admin, second):
        make_administrator(admin)
    members, pair = f"/api/v1/organizations/{tenant.organization_id}/members", [(tenant.admin, second), (second, tenant.admin)]
    tokens = [who.token("openid") for who, _ in pair]
    answers = at_once(servers_of, 2, lambda client, number: client.delete(f"{members}/{pair[number][1].agent_id}", headers=bearer(tokens[number])))
    assert sorted(answer.status_code for answer in answers) == [204, 403]
    with operator_of(tenant.server).client("admin:orgs") as operator:
        assert operator.get(members).json()["total"] == 1


def test_one_slug_is_given_once(servers_of: list[RunningServer], tenant: Tenant) -> None:
    token, body = operator_of(tenant.server).token("admin:orgs"), {"name": "Acme", "slug": f"s-{tenant.organization_id}"}
    answers = at_once(servers_of, 20, lambda client, _: client.post("/api/v1/organizations", json=body, headers=bearer(token)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 19}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"ORG_SLUG_TAKEN"}


def test_an_agent_becomes_a_member_once(servers_of: list[RunningServer], tenant: Tenant) -> None:
    make_administrator(tenant.admin)
    members, token, body = (
        f"/api/v1/organizations/{tenant.organization_id}/members",
        tenant.admin.token(),
        {"agentId": tenant.agent().agent_id, "role": "member"},
    )
    answers = at_once(servers_of, 20, lambda client, _: client.post(members, json=body, headers=bearer(token)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 19}


def test_no_agent_is_registered_in_an_organization_that_was_deleted(servers_of: list[RunningServer], tenant: Tenant) -> None:
    """The operator deletes an empty organization while its first administrator is being registered: one of them is refused."""
    token = operator_of(tenant.server).token("admin:orgs agents:read")
    for _ in range(5):
        with tenant.server.client(headers=bearer(token)) as client:
            body = {"name": "Acme", "slug": f"s-{uuid.uuid4().hex}"}
            path = f"/api/v1/organizations/{client.post('/api/v1/organizations', json=body).json()['organizationId']}"

        def send(client: httpx2.Client, number: int, path: str = path) -> httpx2.Response:
            if number:
                return client.post(f"{path}/administrators", json={"email": "first@acme.example"}, headers=bearer(token))
            return client.delete(path, headers=bearer(token))

        assert [answer.status_code for answer in at_once(servers_of, 2, send)] in ([204, 409], [409, 201])


def test_parallel_first_tokens_are_all_issued(servers_of: list[RunningServer], tenant: Tenant) -> None:
    """The first use of a credential also writes its `lastUsedAt`: that must not make requests wait for each other in a circle."""
    agent = tenant.agent()
    answers = at_once(servers_of, 16, lambda client, _: client.post("/api/v1/token", data=form(agent)))
    assert Counter(answer.status_code for answer in answers) == {200: 16}


@pytest.mark.parametrize("overlap_seconds", [0, 60])
def test_rotation_while_tokens_are_issued(servers_of: list[RunningServer], tenant: Tenant, overlap_seconds: int) -> None:
    """TH48: of the two secrets at least one works at any time; without overlap the old one never after the acknowledgement."""
    agent, token = tenant.agent(), tenant.admin.token()
    path = f"/api/v1/agents/{agent.agent_id}/credentials"
    with tenant.admin.client() as client:
        one = client.get(path).json()["data"][0]["credentialId"]
        secrets, acknowledged, done = [agent.client_secret], threading.Event(), threading.Event()
        wrong: list[str] = []

        def issue(number: int) -> int:
            server, count = servers_of[number % len(servers_of)], 0
            with server.client() as issuing:
                issuing.base_url = httpx2.URL(address(server))
                while not done.is_set():
                    known, was_acknowledged = list(secrets), acknowledged.is_set()
                    statuses = [issuing.post("/api/v1/token", data=form(agent, client_secret=secret)).status_code for secret in known]
                    count += 1
                    if not {200, 401}.issuperset(statuses):
                        wrong.append(f"answers {statuses}")
                    if len(known) == 2 and statuses[1] != 200:
                        wrong.append("the new secret was refused")
                    if was_acknowledged and (statuses[0] == 200) != (overlap_seconds > 0):
                        wrong.append(f"the old secret after the acknowledgement: {statuses}")
            return count

        with ThreadPoolExecutor(4) as pool:
            loops = [pool.submit(issue, number) for number in range(4)]
            try:
                renewed = client.post(f"{path}/{one}/rotate", json={"overlapSeconds": overlap_seconds}, headers=bearer(token))
                secrets.append(renewed.json()["clientSecret"])
                acknowledged.set()
                used = [agent.token_response(client_secret=secrets[1]).status_code for _ in range(10)]
            finally:
                done.set()
            assert sum(loop.result() for loop in loops) >= 4
    assert (wrong, set(used)) == ([], {200})


def test_parallel_rotations_leave_exactly_one_secret(servers_of: list[RunningServer], tenant: Tenant) -> None:
    agent, token = tenant.agent(), tenant.admin.token()
    path = f"/api/v1/agents/{agent.agent_id}/credentials"
    with tenant.admin.client() as client:
        one = client.get(path).json()["data"][0]["credentialId"]
    answers = at_once(servers_of, 10, lambda client, _: client.post(f"{path}/{one}/rotate", headers=bearer(token)))
    assert Counter(answer.status_code for answer in answers) == {200: 10}
    live = [agent.token_response(client_secret=answer.json()["clientSecret"]).status_code for answer in answers]
    assert Counter(live) == {200: 1, 401: 9}


def _revoke_token(client: httpx2.Client, _: TestAgent, token: str) -> httpx2.Response:
    return client.post("/api/v1/token/revoke", data={"token": token})


def _revoke_tokens(client: httpx2.Client, agent: TestAgent, _: str) -> httpx2.Response:
    return client.post(f"/api/v1/agents/{agent.agent_id}/revoke-tokens")


def _suspend(client: httpx2.Client, agent: TestAgent, _: str) -> httpx2.Response:
    return client.patch(f"/api/v1/agents/{agent.agent_id}", json={"status": "suspended"})


def _decommission(client: httpx2.Client, agent: TestAgent, _: str) -> httpx2.Response:
    return client.delete(f"/api/v1/agents/{agent.agent_id}")


def _suspend_organization(_: httpx2.Client, agent: TestAgent, __: str) -> httpx2.Response:
    with operator_of(agent.server).client("admin:orgs") as operator:
        return operator.patch(f"/api/v1/organizations/{agent.organization_id}", json={"status": "suspended"})


def _revoke_credential(client: httpx2.Client, agent: TestAgent, _: str) -> httpx2.Response:
    path = f"/api/v1/agents/{agent.agent_id}/credentials"
    return client.delete(f"{path}/{client.get(path).json()['data'][0]['credentialId']}")


STOPS = (_revoke_token, _revoke_tokens, _suspend, _decommission, _revoke_credential, _suspend_organization)


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.__name__.strip("_"))
def test_nothing_succeeds_after_the_acknowledgement(servers_of: list[RunningServer], tenant: Tenant, stop: Callable[..., httpx2.Response]) -> None:
    """Threads use the token on every server all the time; each request that starts after the acknowledgement is refused."""
    agent = tenant.agent("agents:read", "openid")
    token, acknowledged, done = agent.token(), threading.Event(), threading.Event()

    def use(number: int) -> Counter[tuple[bool, int]]:
        server, seen = servers_of[number % len(servers_of)], Counter[tuple[bool, int]]()
        with server.client(headers=bearer(token)) as client:
            client.base_url = httpx2.URL(address(server))
            while not done.is_set() or not any(late for late, _ in seen):
                late = acknowledged.is_set()
                seen[late, client.get("/agent-info").status_code] += 1
        return seen

    with ThreadPoolExecutor(THREADS) as pool:
        loops = [pool.submit(use, number) for number in range(THREADS)]
        try:
            with tenant.admin.client() as client:
                assert stop(client, agent, token).is_success
        finally:
            acknowledged.set()
            done.set()
        seen = sum((loop.result() for loop in loops), Counter[tuple[bool, int]]())
    late = {status: count for (is_late, status), count in seen.items() if is_late}
    assert late.keys() == {401}
    assert late[401] >= THREADS
    assert {status for (is_late, status) in seen if not is_late} <= {200, 401}


@pytest.mark.parametrize("stop", [_suspend, _decommission, _revoke_credential, _suspend_organization], ids=lambda stop: stop.__name__.strip("_"))
def test_no_token_is_issued_after_the_acknowledgement(servers_of: list[RunningServer], tenant: Tenant, stop: Callable[..., httpx2.Response]) -> None:
    """And whatever was issued in the same moment is dead as well."""
    agent = tenant.agent("agents:read", "openid")
    acknowledged, done = threading.Event(), threading.Event()

    def issue(number: int) -> list[tuple[bool, httpx2.Response]]:
        server, answers = servers_of[number % len(servers_of)], list[tuple[bool, httpx2.Response]]()
        with server.client() as client:
            client.base_url = httpx2.URL(address(server))
            while not done.is_set() or not any(late for late, _ in answers):
                late = acknowledged.is_set()
                answers.append((late, client.post("/api/v1/token", data=form(agent))))
        return answers

    with ThreadPoolExecutor(4) as pool:
        loops = [pool.submit(issue, number) for number in range(4)]
        try:
            with tenant.admin.client() as client:
                assert stop(client, agent, "").is_success
        finally:
            acknowledged.set()
            done.set()
        answers = [answer for loop in loops for answer in loop.result()]
    assert {answer.status_code for _, answer in answers} <= {200, 400, 401}
    assert not [answer for late, answer in answers if late and answer.status_code == 200]
    issued = [answer.json()["access_token"] for _, answer in answers if answer.status_code == 200]
    with servers_of[0].client() as client:
        assert [client.get("/agent-info", headers=bearer(token)).status_code for token in issued] == [401] * len(issued)
