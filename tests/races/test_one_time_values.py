"""50 at once with one value, through two connections to one database and in units of work beside them: exactly one has it, also after a restart."""

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest
from tests.db.opened import Turned, opened
from tests.ledger.made import Known, make_known
from tests.ledger.test_one_time import value
from tests.ledger.test_writers import entry
from tests.proofs import OwnKey, asserted, nonce_of, register
from tests.races.test_races import at_once, servers_of, twins
from tests.serving import RunningServer
from tests.tenants import Tenant

from agentidp.db.unit import Database
from agentidp.ledger.entries import Verdict
from agentidp.ledger.one_time import claim_once

AT_ONCE = 50
__all__ = ["servers_of", "twins"]  # the fixtures


async def claim_at_once(databases: list[Database], known: Known, now: int, name: str) -> Counter[bool]:
    """Half of them entries of the ledger, half of them units of work, spread over the databases."""

    async def one(number: int) -> bool:
        database = databases[number % len(databases)]
        if number // len(databases) % 2:
            return await database.write(claim_once, known.caller, value(name))
        asked = entry(known, now, once=(value(name), value(f"{name} {number}")))
        await database.append(asked)
        return asked.verdict is Verdict.RECORDED

    return Counter(await asyncio.gather(*(one(number) for number in range(AT_ONCE))))


@pytest.mark.parametrize("round_", range(3))
def test_one_value_is_used_once(database_url: str, engine: str, round_: int) -> None:
    clock = Turned()

    async def work() -> Any:
        async with contextlib.AsyncExitStack() as stack:
            databases = [await stack.enter_async_context(opened(database_url, clock)) for _ in range(1 if engine == "sqlite" else 2)]
            known = await make_known(databases[0])
            first = await claim_at_once(databases, known, clock.now, f"value {round_}")
        async with opened(database_url, clock) as database:
            return first, await claim_at_once([database], known, clock.now, f"value {round_}")

    assert asyncio.run(work()) == (Counter({True: 1, False: AT_ONCE - 1}), Counter({False: AT_ONCE}))


def test_values_in_any_order_do_not_wait_for_each_other_in_a_circle(database_url: str, engine: str) -> None:
    """Batches of two processes that hold the same values: both are settled, each value in exactly one of them."""
    clock = Turned()

    async def work() -> list[Verdict]:
        async with contextlib.AsyncExitStack() as stack:
            databases = [await stack.enter_async_context(opened(database_url, clock)) for _ in range(1 if engine == "sqlite" else 2)]
            known = await make_known(databases[0])
            names = [f"value {number}" for number in range(40)]
            batches = [[entry(known, clock.now, once=(value(name),)) for name in order] for order in (names, names[::-1])]
            await asyncio.gather(*(databases[number % len(databases)].append(one) for number, batch in enumerate(batches) for one in batch))
            return [{a.verdict, b.verdict} for a, b in zip(batches[0], reversed(batches[1]), strict=True)]  # type: ignore[misc]

    assert asyncio.run(work()) == [{Verdict.RECORDED, Verdict.REPLAYED}] * 40


@pytest.mark.parametrize("path", ["/api/v1/token", "/api/v1/token/introspect"])
def test_one_assertion_authenticates_once(servers_of: list[RunningServer], tenant: Tenant, path: str) -> None:
    key, agent = OwnKey(), tenant.agent()
    register(agent, key)
    form = asserted(key.assertion(agent), token="x")
    answers = at_once(servers_of, AT_ONCE, lambda client, _: client.post(path, data=form))
    assert Counter(answer.status_code for answer in answers) == {200: 1, 401: AT_ONCE - 1}
    if path.endswith("token"):
        with tenant.admin.client("audit:read") as client:
            issued = client.get("/api/v1/audit", params={"action": "token.issued", "agentId": agent.agent_id}).json()["total"]
        assert issued == 2, "and the one with which the key was registered"


def test_one_proof_gets_one_token_and_makes_one_call(servers_of: list[RunningServer], tenant: Tenant) -> None:
    """The nonce comes from one server, and the others take it."""
    key, agent, server = OwnKey(), tenant.agent(), servers_of[0]
    form = {"grant_type": "client_credentials", "client_id": agent.agent_id, "client_secret": agent.client_secret}
    nonce = nonce_of(server)
    proof = {"DPoP": key.proof(server, "POST", "/api/v1/token", nonce)}
    answers = at_once(servers_of, AT_ONCE, lambda client, _: client.post("/api/v1/token", data=form, headers=proof))
    assert Counter(answer.status_code for answer in answers) == {200: 1, 400: AT_ONCE - 1}
    token = next(answer.json()["access_token"] for answer in answers if answer.status_code == 200)
    headers = {"Authorization": f"DPoP {token}", "DPoP": key.proof(server, "GET", "/agent-info", nonce, token)}
    answers = at_once(servers_of, AT_ONCE, lambda client, _: client.get("/agent-info", headers=headers))
    assert Counter(answer.status_code for answer in answers) == {200: 1, 401: AT_ONCE - 1}
