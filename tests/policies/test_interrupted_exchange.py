"""What happens to a subject between its verification and the commit of what is made of it. The request is the server's own; its ledger is told when to wait."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from starlette.requests import Request
from tests.auth.forgery import parts
from tests.policies.conftest import Trust
from tests.policies.test_delegation import ACCESS, status
from tests.tenants import TestAgent

from agentidp.agents.actions import revoke_agent_tokens, update_agent
from agentidp.auth.jwt import verify_access_token
from agentidp.core.caller import Caller, Origin
from agentidp.core.clock import to_rfc3339
from agentidp.credentials.actions import revoke_credential
from agentidp.ledger.entries import Entry
from agentidp.ledger.ledger import Ledger
from agentidp.policies.rules import PresentedTokenRefused
from agentidp.tokens.actions import revoke_token
from agentidp.tokens.grants import token_exchange


class Interrupted:
    """The server's database, to which something happens right after the append that confirms the subject, or right before that of the result."""

    def __init__(self, database: Any, happens: Callable[[], Any], *, confirmed: bool) -> None:
        self._database, self._happens, self._confirmed = database, happens, confirmed
        self.happened = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def append(self, entry: Entry) -> "asyncio.Future[None]":
        return asyncio.ensure_future(self._append(entry))

    async def _append(self, entry: Entry) -> None:
        is_result = entry.meter == "tokensIssued"
        if is_result and not self._confirmed and not self.happened:
            self.happened += 1
            await self._happens()
        await self._database.append(entry)
        if not is_result and self._confirmed:
            self.happened += 1
            await self._happens()


def request_of(trust: Trust, instance: Any) -> Request:
    scope = {"type": "http", "method": "POST", "raw_path": b"/api/v1/token", "path": "/api/v1/token", "query_string": b"", "headers": []}
    return Request(scope | {"agentidp.instance": instance, "agentidp.origin": Origin("127.0.0.1")})


def interrupted(trust: Trust, token: str, happens: Callable[[], Any], *, confirmed: bool = False) -> dict[str, Any]:
    """The answer to an exchange of the token while that happens."""
    server = trust.tenant.server
    database = Interrupted(server.instance.database, happens, confirmed=confirmed)

    async def handle() -> dict[str, Any]:
        instance = replace(server.instance, ledger=Ledger(database, server.instance.plans))  # type: ignore[arg-type]  # all that a ledger uses
        return await token_exchange.handle(request_of(trust, instance), {"subject_token": [token], "subject_token_type": [ACCESS]})

    try:
        answer: dict[str, Any] = server.await_(handle())
    finally:
        assert database.happened == 1
    return answer


async def nothing() -> None:
    """What happens most of the time."""


def test_nothing_happens(trust: Trust) -> None:
    """The harness itself lets a good token through."""
    for confirmed in (False, True):
        answer = interrupted(trust, trust.tenant.agent("openid").token(), nothing, confirmed=confirmed)
        assert status(trust, answer["access_token"], "/agent-info") == 200


def changes(trust: Trust, agent: TestAgent, token: str) -> dict[str, tuple[Any, ...]]:
    claims = parts(token)[1]
    server = trust.tenant.server

    async def verified() -> Any:
        return await verify_access_token(token, server.instance.keys, issuer=server.settings.issuer, now=server.clock())

    return {
        "the token is revoked": (revoke_token, server.await_(verified())),
        "all tokens are revoked": (revoke_agent_tokens, agent.agent_id),
        "the credential is revoked": (revoke_credential, agent.agent_id, claims["credential_id"]),
        "the agent is suspended": (update_agent, agent.agent_id, {"status": "suspended"}),
    }


@pytest.mark.parametrize("change", ["the token is revoked", "all tokens are revoked", "the credential is revoked", "the agent is suspended"])
@pytest.mark.parametrize("confirmed", [False, True])
def test_a_subject_that_is_stopped_meanwhile_gives_nothing(trust: Trust, change: str, confirmed: bool) -> None:  # noqa: FBT001 - of the table
    agent = trust.tenant.agent("openid")
    token, server = agent.token(), trust.tenant.server
    action, *arguments = changes(trust, agent, token)[change]
    caller = Caller(agent.organization_id, agent.agent_id, agent.caller.scopes)

    async def happens() -> None:
        await server.instance.database.write(action, caller, *arguments)

    with pytest.raises(PresentedTokenRefused, match="subject_token is no longer good"):
        interrupted(trust, token, happens, confirmed=confirmed)
    assert trust.events("token.exchanged") == []


def test_a_subject_that_expires_meanwhile_gives_nothing(trust: Trust) -> None:
    """Also where nothing else has changed: its end is looked at when the result is decided on."""
    server, agent = trust.tenant.server, trust.tenant.agent("openid")
    token = agent.token()
    remaining = parts(token)[1]["exp"] - server.clock() // 1000

    async def happens() -> None:
        server.clock.shift_ms += remaining * 1000

    try:
        with pytest.raises(PresentedTokenRefused, match="subject_token is no longer good"):
            interrupted(trust, token, happens, confirmed=True)
    finally:
        server.clock.shift_ms -= remaining * 1000


def test_a_credential_that_expires_meanwhile_gives_nothing(trust: Trust) -> None:
    server, agent = trust.tenant.server, trust.tenant.agent("openid")
    with agent.client() as client:
        body = {"expiresAt": to_rfc3339(server.clock() + 60_000)}
        secret = client.post(f"/api/v1/agents/{agent.agent_id}/credentials", json=body).json()["clientSecret"]
    token = agent.token(client_secret=secret)

    async def happens() -> None:
        server.clock.shift_ms += 61_000

    try:
        with pytest.raises(PresentedTokenRefused, match="subject_token is no longer good"):
            interrupted(trust, token, happens, confirmed=True)
    finally:
        server.clock.shift_ms -= 61_000
