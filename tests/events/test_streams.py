"""`GET /api/v1/events`: everything once and in order, resumed where it was cut; whose it is, when it ends, and how many there may be."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from tests.serving import NO_TLS, RunningServer
from tests.tenants import Tenant, TestAgent, make_tenant

from agentidp.agents.actions import update_agent
from agentidp.auth.jwt import VerifiedClaims, verify_access_token
from agentidp.auth.scopes import SCOPES
from agentidp.core import limits
from agentidp.core.caller import SYSTEM, Caller
from agentidp.db.schema import usage_counters
from agentidp.db.unit import Tx
from agentidp.events.queries import get_beginning
from agentidp.events.streams import Wanted, stream
from agentidp.organizations.actions import update_organization

EVENTS = "/api/v1/events"


def blocks(text: str) -> list[dict[str, str]]:
    """The stream's blocks by field; comments under the empty name."""
    return [dict(line.split(":", 1) for line in block.splitlines()) for block in text.split("\n\n") if block]


def events(text: str) -> list[dict[str, Any]]:
    """The events of a stream, each held against its own id and type."""
    found = []
    for block in blocks(text):
        if "data" in block:
            event = json.loads(block["data"])
            assert (event["id"], event["type"]) == (block["id"].strip(), block["event"].strip())
            found.append(event)
    return found


def sealed(tenant: Tenant, at_least: int = 1) -> list[dict[str, Any]]:
    """The tenant's history, oldest first, when all of it is sealed."""
    with tenant.admin.client() as client:
        for _ in range(200):
            rows: list[dict[str, Any]] = client.get("/api/v1/audit", params={"limit": 200}).json()["data"][::-1]
            if len(rows) >= at_least and all(row["seq"] for row in rows):
                return sorted(rows, key=lambda row: row["seq"])
            time.sleep(0.05)
    raise AssertionError("not sealed")


def listening(agent: TestAgent, parameters: dict[str, Any], act: Callable[[], object]) -> httpx2.Response:
    """The whole of a stream during which something is done, once it has begun."""
    server, headers = agent.server, {"Authorization": f"Bearer {agent.token('audit:read')}"}
    begun = threading.Event()

    def act_then() -> None:
        assert begun.wait(10)
        act()

    thread = threading.Thread(target=act_then)
    thread.start()
    with httpx2.stream("GET", f"{server.url}{EVENTS}", params=parameters, headers=headers, timeout=30, trust_env=False, verify=NO_TLS) as response:
        text = ""
        for piece in response.iter_text():
            begun.set()
            text += piece
    thread.join()
    server.check(httpx2.Response(response.status_code, headers=response.headers, text=text, request=response.request))
    return httpx2.Response(response.status_code, headers=response.headers, text=text, request=response.request)


def test_what_happens_arrives_in_order_once_and_as_it_is_told(tenant: Tenant) -> None:
    known = len(sealed(tenant))
    answer = listening(tenant.admin, {"limit": "6", "types": "agent.created,credential.generated"}, lambda: [tenant.agent() for _ in range(3)])
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    found = events(answer.text)
    history = [row for row in sealed(tenant, known + 6) if row["seq"] > known and row["action"] in {"agent.created", "credential.generated"}]
    assert [event["id"] for event in found] == [row["eventId"] for row in history]
    for event, row in zip(found, history, strict=True):
        told = {"seq", "agentId", "outcome", "targetType", "targetId", "requestId", "metadata"}
        assert event == {
            "id": row["eventId"],
            "type": row["action"],
            "timestamp": row["timestamp"],
            "organizationId": tenant.organization_id,
            "data": {name: row[name] for name in told},
        }


def test_who_comes_back_with_the_last_id_misses_nothing(tenant: Tenant) -> None:
    for _ in range(3):
        tenant.agent()
    history = [row["eventId"] for row in sealed(tenant)]
    with tenant.admin.client("audit:read") as client:
        seen = [history[0]]
        while len(seen) < len(history):
            answer = client.get(EVENTS, params={"limit": "2", "seconds": "5"}, headers={"Last-Event-ID": seen[-1]})
            seen += [event["id"] for event in events(answer.text)]
        assert seen[: len(history)] == history
        by_query = client.get(EVENTS, params={"lastEventId": history[0], "seconds": "0"})
        assert [event["id"] for event in events(by_query.text)][: len(history) - 1] == history[1:]
        both = client.get(EVENTS, params={"lastEventId": history[0], "limit": "1"}, headers={"Last-Event-ID": history[1]})
        assert [event["id"] for event in events(both.text)] == [history[2]]


def test_a_stream_says_where_it_begins_and_how_far_it_has_looked(tenant: Tenant) -> None:
    """So that a reader who has not seen an event yet can go on, too."""
    newest = sealed(tenant)[-1]["eventId"]
    with tenant.admin.client("audit:read") as client:
        token_issued = sealed(tenant)[-1]["eventId"]
        (opening,) = blocks(client.get(EVENTS, params={"seconds": "0"}).text)
        assert opening["retry"].strip() == str(limits.EVENT_STREAM_RETRY_MS)
        assert opening["id"].strip() == token_issued != newest


def test_another_tenants_event_and_one_that_never_was_are_alike(tenant: Tenant, other_tenant: Tenant) -> None:
    foreign = sealed(other_tenant)[0]["eventId"]
    with tenant.admin.client("audit:read") as client:
        answers = [client.get(EVENTS, headers={"Last-Event-ID": given}) for given in (foreign, "01890000-0000-7000-8000-000000000000", "nonsense", "'; --")]
    assert {(answer.status_code, answer.content) for answer in answers} == {(404, answers[0].content)}
    assert answers[0].json()["code"] == "AUDIT_EVENT_NOT_FOUND"


def test_nothing_of_another_tenant_is_streamed(tenant: Tenant, other_tenant: Tenant) -> None:
    sealed(tenant)
    answer = listening(tenant.admin, {"seconds": "2"}, lambda: [maker.agent() for maker in (other_tenant, tenant)])
    assert {event["organizationId"] for event in events(answer.text)} == {tenant.organization_id}


@pytest.mark.parametrize(
    "parameters",
    [
        {"types": ""},
        {"types": "token.issued,"},
        {"types": "token.issued, auth.failed"},
        {"types": "Token.Issued"},
        {"types": "a\n"},
        {"types": "a" * (limits.EVENT_TYPES_CHARACTERS_MAX + 1)},
        {"limit": "0"},
        {"limit": str(limits.EVENT_STREAM_EVENTS_MAX + 1)},
        {"seconds": "-1"},
        {"seconds": str(limits.EVENT_STREAM_SECONDS_MAX + 1)},
        {"type": "token.issued"},
    ],
)
def test_wrong_parameters_are_refused(tenant: Tenant, parameters: dict[str, str]) -> None:
    with tenant.admin.client("audit:read") as client:
        answer = client.get(EVENTS, params=parameters)
    assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_ERROR")


def read_through(server: RunningServer, token: str, *, meanwhile: Callable[[], object] = lambda: None, beats: int = 3) -> list[bytes]:
    """The pieces of a stream with a quick beat, until it ends or has beaten so often; after the first beat, something is done."""

    async def work() -> list[bytes]:
        instance = server.instance
        claims = await verify_access_token(token, instance.keys, issuer=instance.settings.issuer, now=instance.clock())
        place, newest = await instance.database.read(get_beginning, caller_of(claims), None)
        pieces, lines = [], stream(instance, claims, place, newest, Wanted(frozenset(), None, 20), beat_seconds=0.05)
        async for piece in lines:
            pieces.append(piece)
            count = sum(piece.startswith(b":") for piece in pieces)
            if count == 1 and piece.startswith(b":"):
                await asyncio.to_thread(meanwhile)
            if count == beats:
                await lines.aclose()
        return pieces

    return list(server.await_(work()))


def caller_of(claims: VerifiedClaims) -> Caller:
    return Caller(claims.organization_id, claims.agent_id)


def calls(tenant: Tenant) -> int:
    """The tenant's calls that were counted."""
    counter = usage_counters.c

    def total(tx: Tx) -> int:
        mine = sa.and_(counter.organization_id == tenant.organization_id, counter.meter == "apiCalls")
        return int(tx.connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(counter.count), 0)).where(mine)) or 0)

    return int(tenant.server.read(total, SYSTEM))


def beats(pieces: list[bytes]) -> int:
    return sum(piece.startswith(b":") for piece in pieces)


def test_looking_whether_the_token_is_in_force_is_no_call(tenant: Tenant) -> None:
    token = tenant.agent("audit:read").token()
    before = calls(tenant)
    assert beats(read_through(tenant.server, token, beats=5)) == 5
    assert calls(tenant) == before


@pytest.mark.parametrize("end", ["token revoked", "agent suspended", "agent decommissioned", "organization suspended"])
def test_a_stream_that_may_not_be_read_any_more_ends(tenant: Tenant, end: str) -> None:
    server, agent = tenant.server, tenant.agent("audit:read")
    token = agent.token()

    def stop() -> None:
        what, how = end.split()
        if what == "agent":
            server.write(update_agent, agent.caller, agent.agent_id, {"status": how})
        elif what == "organization":
            server.write(update_organization, Caller(tenant.organization_id, scopes=frozenset(SCOPES)), {"status": how})
        else:
            with agent.client() as client:
                assert client.post("/api/v1/token/revoke", data={"token": token}).status_code == 200

    assert beats(read_through(server, token, meanwhile=stop, beats=50)) < 50


def test_a_stream_ends_when_its_token_does(own_server: RunningServer) -> None:
    token = make_tenant(own_server).agent("audit:read").token()
    with contextlib.ExitStack() as later:
        pieces = read_through(own_server, token, meanwhile=lambda: later.enter_context(own_server.clock.ahead(seconds=3600)), beats=50)
    assert 0 < beats(pieces) < 50


def test_there_are_turns_and_they_are_given_back(tenant: Tenant) -> None:
    turns = tenant.server.instance.event_streams
    with tenant.admin.client("audit:read") as client:
        with contextlib.ExitStack() as held:
            for _ in range(limits.EVENT_STREAMS_EACH_MAX):
                held.enter_context(turns.take(tenant.organization_id))
            refused = client.get(EVENTS, params={"seconds": "0"})
        assert refused.status_code == 429
        assert refused.headers["retry-after"]
        assert client.get(EVENTS, params={"seconds": "0"}).status_code == 200


def test_a_reader_that_goes_away_leaves_its_turn(tenant: Tenant) -> None:
    server = tenant.server
    headers = {"Authorization": f"Bearer {tenant.admin.token('audit:read')}"}
    for _ in range(3):
        with httpx2.stream("GET", f"{server.url}{EVENTS}", headers=headers, timeout=10, trust_env=False, verify=NO_TLS) as response:
            pieces = response.iter_bytes()  # kept: its end would be the connection's
            assert next(pieces)
            assert server.instance.event_streams._taken.count(tenant.organization_id) >= 1
    for _ in range(100):
        if tenant.organization_id not in server.instance.event_streams._taken:
            break
        time.sleep(0.05)
    assert tenant.organization_id not in server.instance.event_streams._taken
    assert tenant.organization_id not in server.instance.feed._watched


def test_streams_of_one_organization_share_their_reads(own_server: RunningServer) -> None:
    """Fifty at once, idle and then told of something: far fewer reads than streams."""
    tenant = make_tenant(own_server)
    sealed(tenant)
    token = tenant.admin.token("audit:read")
    sealed(tenant)
    reads = "agentidp_db_query_duration_seconds_count"

    def count() -> float:
        return own_server.instance.metrics.registry.get_sample_value(reads, {"kind": "read"}) or 0

    async def work() -> list[list[bytes]]:
        instance = own_server.instance
        claims = await verify_access_token(token, instance.keys, issuer=instance.settings.issuer, now=instance.clock())
        place, newest = await instance.database.read(get_beginning, caller_of(claims), None)

        async def one() -> list[bytes]:
            return [piece async for piece in stream(instance, claims, place, newest, Wanted(frozenset({"agent.created"}), 1, 20))]

        streams = [asyncio.create_task(one()) for _ in range(50)]
        await asyncio.sleep(0.2)
        await asyncio.to_thread(tenant.agent)
        return await asyncio.gather(*streams)

    before = count()
    found = own_server.await_(work())
    assert {events(b"".join(pieces).decode())[0]["type"] for pieces in found} == {"agent.created"}
    print(f"50 streams of one organization, one event: {count() - before:.0f} reads in all")
    assert count() - before < 50


def test_the_end_of_the_server_does_not_wait_for_streams(own_server: RunningServer) -> None:
    token = make_tenant(own_server).admin.token("audit:read")
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.stream("GET", f"{own_server.url}{EVENTS}", headers=headers, timeout=30, trust_env=False, verify=NO_TLS) as response:
        pieces = response.iter_text()
        assert "retry:" in next(pieces)
        stopping = threading.Thread(target=own_server.stop)
        stopping.start()
        assert "retry:" not in "".join(pieces)  # ended in order, not cut: httpx2 would raise
    stopping.join(30)
    assert not stopping.is_alive()
