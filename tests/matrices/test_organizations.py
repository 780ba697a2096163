"""Every operation that crosses tenants × everybody who may try it: status, body, side effects in every organization, and what is left on record."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from tests.matrices.declared import OF_THE_OPERATOR, Operation
from tests.matrices.world import events, snapshot
from tests.serving import RunningServer
from tests.tenants import ALL_SCOPES, Tenant, TestAgent, make_administrator, make_tenant, operator_of

from agentidp.agents.actions import update_agent
from agentidp.auth.scopes import SCOPES
from agentidp.core.caller import OPERATOR_SCOPE, SYSTEM, Caller
from agentidp.db.schema import organizations
from agentidp.db.unit import Tx
from agentidp.organizations.actions import create_organization, remove_member

EVERYTHING = " ".join(SCOPES)
OPERATOR = frozenset({OPERATOR_SCOPE})


@dataclass
class Cast:
    """A tenant, a stranger's tenant, and a token of everybody. Administrators and members have narrow tokens, strangers wide ones."""

    server: RunningServer
    home: Tenant = field(init=False)
    away: Tenant = field(init=False)
    tokens: dict[str, str | None] = field(default_factory=lambda: {"nobody": None})

    def __post_init__(self) -> None:
        self.home, self.away = make_tenant(self.server), make_tenant(self.server)
        operator = operator_of(self.server)
        self.tokens |= {"operator": operator.token(EVERYTHING), "operator without the scope": operator.token(" ".join(ALL_SCOPES))}
        make_administrator(self.home.admin)
        make_administrator(self.away.admin)
        self.tokens["own administrator"] = self.home.admin.token("openid")
        self.tokens["own agent"] = self.home.agent(*ALL_SCOPES).token()
        self.tokens["own member"] = self._with_role("member").token()
        former = self._with_role("admin")
        self.tokens["former administrator"] = former.token()
        self.server.write(remove_member, Caller(self.home.organization_id, scopes=OPERATOR), former.agent_id)
        for status in ("suspended", "decommissioned"):
            agent = self._with_role("admin")
            self.tokens[f"{status} administrator"] = agent.token()
            self.server.write(update_agent, agent.caller, agent.agent_id, {"status": status})
        self.tokens["other tenant"] = self.away.agent(*ALL_SCOPES).token()
        self.tokens["other tenant's administrator"] = self.away.admin.token()

    def _with_role(self, role: str) -> TestAgent:
        agent = self.home.agent(*ALL_SCOPES)
        make_administrator(agent, role)
        return agent

    def empty_organization(self) -> str:
        caller = Caller(str(uuid.uuid4()), scopes=OPERATOR)
        self.server.write(create_organization, caller, caller.organization_id, name="Empty", slug=f"e-{uuid.uuid4().hex[:12]}", plan_tier="free")
        return caller.organization_id


@dataclass
class Target:
    """What one request is about: the organization acted upon, path parameters, body, and the actions that a success leaves."""

    organization_id: str
    path: dict[str, str]
    body: Any = None
    actions: tuple[str, ...] = ()


def _create(cast: Cast) -> Target:
    return Target("", {}, {"name": "New", "slug": f"n-{uuid.uuid4().hex[:12]}"}, ("org.created",))


def _list(_: Cast) -> Target:
    return Target("", {})


def _get(cast: Cast) -> Target:
    return Target(cast.home.organization_id, {})


def _update(cast: Cast) -> Target:
    return Target(cast.home.organization_id, {}, {"name": f"Name {uuid.uuid4().hex[:8]}"}, ("org.updated",))


def _delete(cast: Cast) -> Target:
    return Target(cast.empty_organization(), {}, None, ("org.deleted",))


def _register_administrator(cast: Cast) -> Target:
    recorded = ("agent.created", "credential.generated", "org.member_added")
    return Target(cast.home.organization_id, {}, {"email": f"a-{uuid.uuid4().hex[:8]}@acme.example"}, recorded)


def _add_member(cast: Cast) -> Target:
    return Target(cast.home.organization_id, {}, {"agentId": cast.home.agent().agent_id, "role": "admin"}, ("org.member_added",))


def _remove_member(cast: Cast) -> Target:
    return Target(cast.home.organization_id, {"agentId": cast._with_role("member").agent_id}, None, ("org.member_removed",))


TARGETS: dict[str, Callable[[Cast], Target]] = {
    "POST /api/v1/organizations": _create,
    "GET /api/v1/organizations": _list,
    "GET /api/v1/organizations/{orgId}": _get,
    "PATCH /api/v1/organizations/{orgId}": _update,
    "DELETE /api/v1/organizations/{orgId}": _delete,
    "POST /api/v1/organizations/{orgId}/administrators": _register_administrator,
    "POST /api/v1/organizations/{orgId}/members": _add_member,
    "GET /api/v1/organizations/{orgId}/members": _get,
    "DELETE /api/v1/organizations/{orgId}/members/{agentId}": _remove_member,
}
CALLERS = (
    *("operator", "own administrator", "own member", "own agent", "former administrator", "suspended administrator", "decommissioned administrator"),
    *("operator without the scope", "other tenant", "other tenant's administrator", "nobody"),
)
STRANGERS = {"operator without the scope", "other tenant", "other tenant's administrator"}


def expected(operation: Operation, caller: str) -> tuple[int, str | None]:
    if caller in {"nobody", "suspended administrator", "decommissioned administrator"}:
        return 401, "UNAUTHORIZED"
    if caller == "operator" or (caller == "own administrator" and operation.scope != OPERATOR_SCOPE):
        return operation.success, None
    if caller in STRANGERS and operation.scope != OPERATOR_SCOPE:
        return 404, "ORG_NOT_FOUND"
    return 403, "FORBIDDEN"


@pytest.fixture(scope="module")
def casts() -> dict[str, Cast]:
    return {}


@pytest.fixture
def cast(server: RunningServer, casts: dict[str, Cast]) -> Cast:
    if server.url not in casts:
        casts[server.url] = Cast(server)
    return casts[server.url]


def test_the_table_is_complete() -> None:
    assert sorted(map(str, OF_THE_OPERATOR)) == sorted(TARGETS)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("operation", OF_THE_OPERATOR, ids=str)
def test_operation(cast: Cast, operation: Operation, caller: str) -> None:
    target = TARGETS[str(operation)](cast)
    watched = (cast.home.organization_id, cast.away.organization_id, cast.server.instance.operator_organization_id)
    before, existed = [snapshot(cast.server, one) for one in watched], _organizations(cast.server)
    response = request(cast, operation, target, caller)
    status, code = expected(operation, caller)
    assert response.status_code == status, response.text
    assert status < 400 or response.json()["code"] == code
    changed = {one for one, old in zip(watched, before, strict=True) if snapshot(cast.server, one) != old}
    assert changed == ({target.organization_id} & set(watched) if status < 400 and target.actions else set())
    made = _organizations(cast.server).keys() - existed.keys()
    assert len(made) == (status == 201 and target.organization_id == "")
    _require_record(cast, response, caller, target.organization_id or next(iter(made), ""), target.actions)
    if status == 404:
        unknown = request(cast, operation, Target("", target.path, target.body), caller, org_id=str(uuid.uuid4()))
        assert (response.status_code, response.content) == (unknown.status_code, unknown.content)
        assert cast.home.organization_id not in response.text


def request(cast: Cast, operation: Operation, target: Target, caller: str, *, org_id: str = "") -> httpx2.Response:
    token = cast.tokens[caller]
    headers = {"X-Request-Id": uuid.uuid4().hex} | ({"Authorization": f"Bearer {token}"} if token else {})
    body = {} if target.body is None else {"json": target.body}
    with cast.server.client(headers=headers) as client:
        return client.request(operation.method, operation.path.format(orgId=org_id or target.organization_id, **target.path), **body)


def _require_record(cast: Cast, response: httpx2.Response, caller: str, acted_upon: str, actions: tuple[str, ...]) -> None:
    """What was done is in the history of the organization acted upon; a refusal in that of whoever tried, and never in a foreign one."""
    found = sorted(events(cast.server, response.headers["x-request-id"]))
    instance = cast.server.instance.operator_organization_id
    home = instance if caller in {"nobody", "operator without the scope"} else cast.away.organization_id if caller in STRANGERS else cast.home.organization_id
    if response.status_code == 401:
        assert found == [(home, "auth.failed", "failure")]
    elif response.status_code == 403:
        assert found == [(home, "access.denied", "failure")]
    elif response.status_code == 404:
        assert found == []
    else:
        assert found == sorted((acted_upon, action, "success") for action in actions)


def _organizations(server: RunningServer) -> dict[str, str]:
    def find(tx: Tx) -> dict[str, str]:
        return {row.organization_id: row.status for row in tx.all(sa.select(organizations))}

    return dict(server.read(find, SYSTEM))


def test_an_agents_own_organization_is_the_only_one_it_can_join(cast: Cast) -> None:
    """TH11: not by itself, not by the other tenant's administrator, not by its own."""
    stray = cast.away.admin
    path = f"/api/v1/organizations/{cast.home.organization_id}/members"
    answers = {}
    for caller in ("other tenant's administrator", "own administrator", "operator"):
        with cast.server.client(headers={"Authorization": f"Bearer {cast.tokens[caller]}"}) as client:
            answer = client.post(path, json={"agentId": stray.agent_id, "role": "admin"})
            answers[caller] = (answer.status_code, answer.json()["code"])
    not_found = (404, "AGENT_NOT_FOUND")
    assert answers == {"other tenant's administrator": (404, "ORG_NOT_FOUND"), "own administrator": not_found, "operator": not_found}
