"""Policies that somebody has written wrongly: refused, with what to write instead."""

from typing import Any

import pytest
from tests.policies.conftest import Issuers, Trust

SUBJECT = {"sub": {"equals": "x"}}
MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    "a value without its kind": ({"conditions": {"environment": "production"}}, "conditions.environment", 'must be one of {"equals"'),
    "an unknown kind": ({"conditions": {"environment": {"regex": "p.*"}}}, "conditions.environment", 'must be one of {"equals"'),
    "two kinds": ({"conditions": {"environment": {"equals": "a", "prefix": "a/"}}}, "conditions.environment", 'must be one of {"equals"'),
    "nothing": ({"conditions": {"environment": {}}}, "conditions.environment", 'must be one of {"equals"'),
    "an open prefix": ({"conditions": {"environment": {"prefix": "prod"}}}, "conditions.environment", "a prefix must end with / or : or @"),
    "a prefix of everybody": ({"conditions": {"ref": {"prefix": "refs/"}}}, "conditions.ref", "this prefix is everybody's"),
    "a wildcard": ({"conditions": {"environment": {"equals": "prod*"}}}, "conditions.environment", "there are no wildcards"),
    "one value for several": ({"conditions": {"environment": {"in": "a"}}}, "conditions.environment.in", "list"),
    "a value that is no text": ({"conditions": {"environment": {"equals": True}}}, "conditions.environment.equals", "string"),
    "a claim that says nothing": ({"conditions": {"sub": {"equals": "x"}}}, "conditions.sub", "claims.md"),
    "a name for a number": ({"conditions": {"repository_id": {"equals": "acme/screener"}}}, "conditions.repository_id", "is a number"),
    "a branch with its path": ({"branch": "refs/heads/main"}, "branch", "main, not refs/heads/main"),
    "a branch, and a ref": ({"branch": "main", "conditions": {"ref": {"equals": "refs/heads/x"}}}, "conditions.ref", "is said by branch already"),
    "an issuer with a slash": ({"issuer": "{github}/"}, "issuer", "must be"),
    "GitHub as any issuer": (
        {"provider": "oidc", "repository": None, "issuer": "https://token.actions.githubusercontent.com", "conditions": SUBJECT},
        "issuer",
        "choose github",
    ),
    "an enterprise of GitHub as any issuer": (
        {"provider": "oidc", "repository": None, "issuer": "https://token.actions.octo.ghe.com", "conditions": SUBJECT},
        "issuer",
        "choose github",
    ),
    "GitLab as any issuer": ({"provider": "oidc", "repository": None, "issuer": "https://gitlab.com", "conditions": SUBJECT}, "issuer", "choose gitlab"),
    "all service accounts of a cluster as any issuer": (
        {"provider": "oidc", "repository": None, "issuer": "https://oidc.example.com", "conditions": {"sub": {"prefix": "system:serviceaccount:"}}},
        "conditions.sub",
        "this prefix is everybody's",
    ),
    "a scheme": (
        {"provider": "oidc", "repository": None, "issuer": "https://oidc.example.com", "conditions": {"sub": {"prefix": "spiffe://"}}},
        "conditions.sub",
        "this prefix is everybody's",
    ),
    "more than anybody reads": (
        {"conditions": {name: {"in": [f"{number}{'x' * 500}" for number in range(9)]} for name in ("environment", "actor")}},
        "conditions",
        "in all",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(trust: Trust, issuers: Issuers, name: str) -> None:
    body, field, said = MISTAKES[name]
    if "issuer" in body:
        body = body | {"issuer": body["issuer"].replace("{github}", issuers.github.url)}
    answer = trust.create(agentId=trust.tenant.agent().agent_id, **body)
    assert answer.status_code == 400, answer.text
    rows = {row["field"]: row["message"] for row in answer.json()["details"]["fields"]}
    assert said in rows.get(field, ""), rows


@pytest.mark.parametrize(
    "issuer", ["https://token.actions.githubusercontent.com", "https://token.actions.githubusercontent.com/octo", "https://token.actions.octo.ghe.com"]
)
def test_github_itself_is_github_beside_an_enterprises_own_server(trust: Trust, issuer: str) -> None:
    assert trust.policy(agentId=trust.tenant.agent().agent_id, issuer=issuer)["issuer"] == issuer
