"""Which changes of an agent exist, without a database."""

from typing import Any

import pytest

from agentidp.agents.rules import (
    AgentAlreadyDecommissioned,
    AgentAlreadyExists,
    AgentNotActive,
    AgentNotFound,
    Change,
    changes,
    is_active,
)
from agentidp.core.errors import Conflict, NotFound

STORED: dict[str, object] = {"status": "active", "owner": "red", "expires_at": None, "is_public": False}


@pytest.mark.parametrize(
    ("stored", "patch", "change"),
    [
        ({}, {}, Change()),
        ({}, {"owner": "red", "status": "active"}, Change()),
        ({}, {"owner": "blue"}, Change({"owner": "blue"}, ("agent.updated",))),
        ({}, {"status": "suspended"}, Change({"status": "suspended"}, ("agent.suspended",), kills_tokens=True)),
        ({}, {"status": "decommissioned"}, Change({"status": "decommissioned"}, ("agent.decommissioned",), kills_tokens=True)),
        ({"status": "suspended"}, {"status": "active"}, Change({"status": "active"}, ("agent.reactivated",))),
        ({"status": "suspended"}, {"status": "suspended"}, Change()),
        ({"status": "suspended"}, {"owner": "blue"}, Change({"owner": "blue"}, ("agent.updated",))),
        (
            {},
            {"status": "suspended", "owner": "blue"},
            Change({"status": "suspended", "owner": "blue"}, ("agent.updated", "agent.suspended"), kills_tokens=True),
        ),
        ({"expires_at": 7}, {"expires_at": None}, Change({"expires_at": None}, ("agent.updated",))),
    ],
)
def test_changes(stored: dict[str, object], patch: dict[str, object], change: Change) -> None:
    assert changes(STORED | stored, patch) == change


@pytest.mark.parametrize("patch", [{}, {"status": "active"}, {"status": "decommissioned"}, {"owner": "red"}])
def test_nothing_of_a_decommissioned_agent_changes(patch: dict[str, object]) -> None:
    with pytest.raises(AgentAlreadyDecommissioned):
        changes(STORED | {"status": "decommissioned"}, patch)


@pytest.mark.parametrize(
    ("status", "expires_at", "active"),
    [
        ("active", None, True),
        ("active", 101, True),
        ("active", 100, False),
        ("active", 99, False),
        ("suspended", None, False),
        ("suspended", 101, False),
        ("decommissioned", None, False),
    ],
)
def test_is_active(status: str, expires_at: int | None, *, active: bool) -> None:
    assert is_active(status, expires_at, 100) is active


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (AgentNotFound, NotFound, "AGENT_NOT_FOUND"),
        (AgentAlreadyExists, Conflict, "AGENT_ALREADY_EXISTS"),
        (AgentAlreadyDecommissioned, Conflict, "AGENT_ALREADY_DECOMMISSIONED"),
        (AgentNotActive, Conflict, "AGENT_NOT_ACTIVE"),
    ],
)
def test_errors(error: type[Any], kind: type[Any], code: str) -> None:
    raised = error()
    assert isinstance(raised, kind)
    assert (raised.code, raised.detail) == (code, error.title)
