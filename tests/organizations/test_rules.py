"""What of an organization changes, and by whom."""

import itertools

import pytest

from agentidp.core.caller import OPERATOR_SCOPE, Caller, Origin
from agentidp.core.errors import Forbidden
from agentidp.core.ids import new_id
from agentidp.organizations.rules import OrganizationDeleted, OrganizationNotFound, acting_in, changes, require_administrator

HOME, AWAY = new_id(1), new_id(2)
OPERATOR = Caller(AWAY, "operator", frozenset({OPERATOR_SCOPE}), "credential", "token", Origin("192.0.2.1"))
ADMIN = Caller(HOME, "admin", frozenset({"openid"}))
STORED = {"name": "Acme", "slug": "acme", "plan_tier": "free", "max_agents": 5, "max_tokens_per_day": None, "status": "active"}


def test_the_operator_acts_anywhere_under_its_own_name_and_others_at_home() -> None:
    inside = acting_in(OPERATOR, HOME)
    assert (inside.organization_id, inside.agent_id, inside.origin, inside.token_id) == (HOME, "operator", OPERATOR.origin, "token")
    assert acting_in(ADMIN, HOME) == ADMIN
    for wrong in (AWAY, "", "nonsense", HOME.upper()):
        with pytest.raises(OrganizationNotFound):
            acting_in(ADMIN, wrong)
    for wrong in ("", "nonsense", HOME.upper(), f"{HOME} "):
        with pytest.raises(OrganizationNotFound):
            acting_in(OPERATOR, wrong)


def test_administrators_are_the_operator_and_those_with_the_role() -> None:
    require_administrator(OPERATOR, None)
    require_administrator(ADMIN, "admin")
    for role in ("member", None):
        with pytest.raises(Forbidden) as refused:
            require_administrator(ADMIN, role)
        assert refused.value.scope == OPERATOR_SCOPE
        assert [(entry.action, entry.target_id) for entry in refused.value.audit] == [("access.denied", HOME)]


def test_a_change_is_what_differs() -> None:
    change = changes(OPERATOR, STORED, {"name": "Acme", "max_agents": None, "slug": "new"})
    assert (change.columns, change.metadata) == ({"max_agents": None, "slug": "new"}, {"fields": ["max_agents", "slug"]})
    assert changes(OPERATOR, STORED, dict(STORED)).columns == {}
    change = changes(OPERATOR, STORED, {"status": "suspended"})
    assert change.metadata == {"fields": ["status"], "oldStatus": "active", "newStatus": "suspended"}


def test_an_administrator_changes_exactly_name_and_slug() -> None:
    for count in range(1, len(STORED) + 1):
        for names in itertools.combinations(STORED, count):
            patch = {name: STORED[name] for name in names}
            if set(names) <= {"name", "slug"}:
                assert changes(ADMIN, STORED, patch).columns == {}
            else:
                with pytest.raises(Forbidden):
                    changes(ADMIN, STORED, patch)


def test_nothing_of_a_deleted_organization_changes() -> None:
    for patch in ({}, {"name": "Back"}, {"status": "active"}):
        with pytest.raises(OrganizationDeleted):
            changes(OPERATOR, STORED | {"status": "deleted"}, patch)
