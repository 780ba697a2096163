"""Every state × every path that consumes it: agent, credential, token, key, organization. A check that one path has, its sibling has, too.

`STATES` is the table of expected answers. Each case gets a token while all is well, lets something happen, then tries every path.
"""

import base64
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from tests.serving import RunningServer
from tests.tenants import Tenant, TestAgent, make_tenant, registration

from agentidp.agents.actions import update_agent
from agentidp.auth.keys import retire_key, rotate_keys
from agentidp.auth.scopes import SCOPES
from agentidp.core.caller import OPERATOR_SCOPE, Caller
from agentidp.core.clock import to_rfc3339
from agentidp.db.schema import signing_keys
from agentidp.db.unit import Tx
from agentidp.organizations.actions import delete_organization, update_organization
from agentidp.organizations.rules import OrganizationDeleted

LIFETIME = 3600


@dataclass
class Case:
    """`secret` and `token` are those from before; `stack` holds a turned clock until the paths have been tried."""

    server: RunningServer
    tenant: Tenant
    agent: TestAgent
    email: str
    token: str
    stack: contextlib.ExitStack

    @property
    def path(self) -> str:
        return f"/api/v1/agents/{self.agent.agent_id}"

    @property
    def credential_path(self) -> str:
        with self.tenant.admin.client() as client:
            return f"{self.path}/credentials/{client.get(f'{self.path}/credentials').json()['data'][-1]['credentialId']}"

    def admin(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """As the operator of this tenant, with a token of this moment."""
        with self.tenant.admin.client(" ".join(SCOPES)) as client:
            response = client.request(method, path, **options)
        assert response.is_success, response.text
        return response

    def soon(self, seconds: int) -> str:
        return to_rfc3339(self.server.clock() + seconds * 1000)

    def later(self, seconds: int) -> None:
        self.stack.enter_context(self.server.clock.ahead(seconds=seconds))


def nothing(_: Case) -> None:
    """All is well."""


def suspended(case: Case) -> None:
    case.admin("PATCH", case.path, json={"status": "suspended"})


def reactivated(case: Case) -> None:
    suspended(case)
    case.admin("PATCH", case.path, json={"status": "active"})


def agent_expired(case: Case) -> None:
    case.admin("PATCH", case.path, json={"expiresAt": case.soon(60)})
    case.later(61)


def decommissioned(case: Case) -> None:
    case.admin("DELETE", case.path)


def tokens_revoked(case: Case) -> None:
    case.admin("POST", f"{case.path}/revoke-tokens")


def token_revoked(case: Case) -> None:
    case.admin("POST", "/api/v1/token/revoke", data={"token": case.token})


def token_expired(case: Case) -> None:
    case.later(LIFETIME + 1)


def rotated(case: Case) -> None:
    case.admin("POST", f"{case.credential_path}/rotate")


def rotated_with_overlap(case: Case) -> None:
    case.admin("POST", f"{case.credential_path}/rotate", json={"overlapSeconds": 60})
    case.later(59)


def rotated_overlap_over(case: Case) -> None:
    case.admin("POST", f"{case.credential_path}/rotate", json={"overlapSeconds": 60})
    case.later(61)


def overlap_cut_short(case: Case) -> None:
    rotated_with_overlap(case)
    rotated(case)


def credential_expired(case: Case) -> None:
    case.admin("POST", f"{case.credential_path}/rotate", json={"overlapSeconds": 3000, "expiresAt": case.soon(60)})
    case.later(61)


def credential_revoked(case: Case) -> None:
    case.admin("DELETE", case.credential_path)


def as_operator(case: Case, action: Callable[..., Any], *args: Any) -> None:
    case.server.write(action, Caller(case.tenant.organization_id, scopes=frozenset({OPERATOR_SCOPE})), *args)


def organization_suspended(case: Case) -> None:
    as_operator(case, update_organization, {"status": "suspended"})


def organization_reactivated(case: Case) -> None:
    organization_suspended(case)
    tried(case)  # whatever was cached while it was suspended is not in the way
    as_operator(case, update_organization, {"status": "active"})


def token_expired_in_a_suspended_organization(case: Case) -> None:
    organization_suspended(case)
    case.later(LIFETIME + 1)
    as_operator(case, update_organization, {"status": "active"})


def organization_deleted(case: Case) -> None:
    for agent in case.admin("GET", "/api/v1/agents", params={"limit": 100}).json()["data"]:
        as_operator(case, update_agent, agent["agentId"], {"status": "suspended"})
    as_operator(case, delete_organization)
    with pytest.raises(OrganizationDeleted):
        as_operator(case, update_organization, {"status": "active"})


def agent_back_in_a_deleted_organization(case: Case) -> None:
    """Even if somebody could reactivate the agent: the organization stays dead."""
    organization_deleted(case)
    as_operator(case, update_agent, case.agent.agent_id, {"status": "active"})


OK, DEAD = (200, None), (401, "UNAUTHORIZED")
INVALID_CLIENT, NOT_ACTIVE, DEAD_BEARER = (401, "invalid_client"), (400, "unauthorized_client"), (401, "invalid_token")


@dataclass(frozen=True)
class Answers:
    """What the old secret, the old token, whoever asks about the token, and whoever makes a new credential are told."""

    secret: tuple[int, str | None]
    token_lives: bool
    generate: tuple[int, str | None] = (201, None)
    asking: tuple[int, str | None] = OK


STATES: dict[Callable[[Case], None], Answers] = {
    nothing: Answers(OK, token_lives=True),
    suspended: Answers(NOT_ACTIVE, token_lives=False, generate=(409, "AGENT_NOT_ACTIVE")),
    reactivated: Answers(OK, token_lives=False),
    agent_expired: Answers(NOT_ACTIVE, token_lives=False, generate=(409, "AGENT_NOT_ACTIVE")),
    decommissioned: Answers(INVALID_CLIENT, token_lives=False, generate=(409, "AGENT_NOT_ACTIVE")),
    tokens_revoked: Answers(OK, token_lives=False),
    token_revoked: Answers(OK, token_lives=False),
    token_expired: Answers(OK, token_lives=False),
    rotated: Answers(INVALID_CLIENT, token_lives=True),
    rotated_with_overlap: Answers(OK, token_lives=True),
    rotated_overlap_over: Answers(INVALID_CLIENT, token_lives=True),
    overlap_cut_short: Answers(INVALID_CLIENT, token_lives=True),
    credential_expired: Answers(INVALID_CLIENT, token_lives=False),
    credential_revoked: Answers(INVALID_CLIENT, token_lives=False),
    organization_suspended: Answers(NOT_ACTIVE, token_lives=False, generate=DEAD, asking=DEAD_BEARER),
    organization_reactivated: Answers(OK, token_lives=True),
    token_expired_in_a_suspended_organization: Answers(OK, token_lives=False),
    organization_deleted: Answers(NOT_ACTIVE, token_lives=False, generate=DEAD, asking=DEAD_BEARER),
    agent_back_in_a_deleted_organization: Answers(NOT_ACTIVE, token_lives=False, generate=DEAD, asking=DEAD_BEARER),
}


def expected(answers: Answers) -> dict[str, tuple[int, str | None]]:
    api, oauth = (OK, OK) if answers.token_lives else (DEAD, DEAD_BEARER)
    return {
        "token endpoint": answers.secret,
        "token endpoint, Basic": answers.secret,
        "introspection as client": answers.secret,
        "revocation as client": answers.secret,
        "API": api,
        "agent-info": api,
        "own credentials": api,
        "audit": api,
        "health": api,
        "metrics": api,
        "introspection by bearer": oauth,
        "revocation by bearer": oauth,
        "new credential": answers.generate,
        "asking about the token": answers.asking,
        "the token is active": (answers.token_lives, None),
    }


def tried(case: Case) -> dict[str, tuple[int, str | None]]:
    """The answer of every path, each on the same state; those that change nothing first."""
    agent, form = case.agent, {"client_id": case.agent.agent_id, "client_secret": case.agent.client_secret}
    basic = base64.b64encode(f"{agent.agent_id}:{agent.client_secret}".encode()).decode()
    bearer, far = {"Authorization": f"Bearer {case.token}"}, {"Authorization": f"Bearer {case.token}", "X-Forwarded-For": "203.0.113.9"}
    grant = {"grant_type": "client_credentials", "scope": "openid"}
    with case.server.client() as client:
        answers = {
            "token endpoint": client.post("/api/v1/token", data=grant | form),
            "token endpoint, Basic": client.post("/api/v1/token", data=grant, headers={"Authorization": f"Basic {basic}"}),
            "introspection as client": client.post("/api/v1/token/introspect", data=form | {"token": "x"}),
            "revocation as client": client.post("/api/v1/token/revoke", data=form | {"token": "x"}),
            "API": client.get("/api/v1/agents", headers=bearer),
            "agent-info": client.get("/agent-info", headers=bearer),
            "own credentials": client.get(f"{case.path}/credentials", headers=bearer),
            "audit": client.get("/api/v1/audit", headers=bearer),
            "health": client.get("/health/detailed", headers=far),
            "metrics": client.get("/metrics", headers=far),
            "introspection by bearer": client.post("/api/v1/token/introspect", data={"token": "x"}, headers=bearer),
            "revocation by bearer": client.post("/api/v1/token/revoke", data={"token": "x"}, headers=bearer),
        }
        theirs = {"Authorization": f"Bearer {_admin_token(case)}"}
        asked = client.post("/api/v1/token/introspect", data={"token": case.token}, headers=theirs)
        answers |= {"asking about the token": asked, "new credential": client.post(f"{case.path}/credentials", headers=theirs)}
    shown = {name: (answer.status_code, _code(answer)) for name, answer in answers.items()}
    return shown | {"the token is active": (asked.is_success and asked.json()["active"], None)}


def _admin_token(case: Case) -> str:
    """A fresh one where that is possible; in a suspended organization the one from before."""
    response = case.tenant.admin.token_response(" ".join(SCOPES))
    return str(response.json()["access_token"]) if response.is_success else case.token


def _code(answer: httpx2.Response) -> str | None:
    if answer.is_success:
        return None
    body = answer.json()
    return str(body.get("code") or body["error"])


@pytest.fixture
def operators(server: RunningServer, tenant: Tenant) -> Tenant:
    """A tenant whose administrator may do everything, so that health and metrics are among the paths."""
    return Tenant(server, tenant.organization_id, tenant.agent(*SCOPES))


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_state(server: RunningServer, operators: Tenant, state: Callable[[Case], None]) -> None:
    email = registration()["email"]
    agent = operators.agent(*SCOPES, email=email)
    with contextlib.ExitStack() as stack:
        case = Case(server, operators, agent, email, agent.token(" ".join(SCOPES)), stack)
        state(case)
        assert tried(case) == expected(STATES[state])


def test_rotated_secret_is_refused_by_a_process_whose_clock_is_behind(server: RunningServer, tenant: Tenant) -> None:
    agent = tenant.agent()
    with contextlib.ExitStack() as stack:
        case = Case(server, tenant, agent, "", agent.token(), stack)
        path = case.credential_path
        with tenant.admin.client() as client:
            assert client.post(f"{path}/rotate").status_code == 200
        with server.clock.ahead(seconds=-30):
            assert agent.token_response().status_code == 401


def test_reregistered_email_stays_taken(tenant: Tenant) -> None:
    """A decommissioned agent keeps its email in its own tenant, whatever the case; in another tenant it is free."""
    body = registration()
    other = make_tenant(tenant.server)
    with tenant.admin.client() as client, other.admin.client() as elsewhere:
        agent_id = client.post("/api/v1/agents", json=body).json()["agentId"]
        assert client.delete(f"/api/v1/agents/{agent_id}").status_code == 204
        again = client.post("/api/v1/agents", json=body | {"email": body["email"].upper()})
        assert (again.status_code, again.json()["code"]) == (409, "AGENT_ALREADY_EXISTS")
        assert elsewhere.post("/api/v1/agents", json=body).status_code == 201


def test_retired_key(own_server: RunningServer) -> None:
    """Rotation leaves tokens alive; retiring the key that signed them kills them on every path at once."""
    operators = make_tenant(own_server)
    operators = Tenant(own_server, operators.organization_id, operators.agent(*SCOPES))
    agent = operators.agent(*SCOPES)
    operator = Caller(own_server.instance.operator_organization_id, is_system=True)
    with contextlib.ExitStack() as stack:
        case = Case(own_server, operators, agent, "", agent.token(" ".join(SCOPES)), stack)
        own_server.write(rotate_keys, operator, own_server.instance.sealer, "ES256", lifetime_seconds=LIFETIME, at_once=True)
        own_server.await_(own_server.instance.keys.reload())
        assert tried(case) == expected(STATES[nothing])
        own_server.write(retire_key, operator, own_server.read(_retired_key, operator))
        assert tried(case) == expected(Answers(OK, token_lives=False))


def _retired_key(tx: Tx) -> str:
    row = tx.one(sa.select(signing_keys.c.key_id).where(signing_keys.c.status == "retired"))
    assert row is not None
    return str(row.key_id)
