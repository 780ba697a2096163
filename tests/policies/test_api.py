"""/oidc/trust-policies: what may be trusted, by whom, and what is shown."""

from typing import Any

import pytest
from tests.policies.conftest import Issuers, Trust
from tests.tenants import Tenant, make_administrator

from agentidp.core import limits

GITHUB = {"provider": "github", "repository": "acme/screener"}
LOOPBACK = "http://127.0.0.1:1/issuer"
SUBJECT = {"sub": {"equals": "somebody"}}


def fields(response: Any) -> set[str]:
    assert response.status_code == 400, response.text
    return {row["field"] for row in response.json()["details"]["fields"]}


def create(trust: Trust, **body: Any) -> Any:
    with trust.tenant.admin.client() as client:
        return client.post("/api/v1/oidc/trust-policies", json=body)


def test_a_policy_is_made_shown_listed_and_deleted(trust: Trust, issuers: Issuers) -> None:
    agent = trust.tenant.agent()
    conditions = {"environment": {"in": ["production", "staging"]}, "ref": {"prefix": "refs/heads/release/"}, "runner_environment": {"equals": "github-hosted"}}
    policy = trust.policy(agentId=agent.agent_id, conditions=conditions, scopes=["openid", "agents:read"])
    shown = {"provider": "github", "issuer": issuers.github.url, "audience": trust.audience, "repository": "acme/screener", "branch": None}
    assert policy == policy | shown | {"conditions": conditions, "agentId": agent.agent_id, "scopes": ["agents:read", "openid"]}
    with trust.tenant.admin.client() as client:
        path = f"/api/v1/oidc/trust-policies/{policy['policyId']}"
        assert client.get(path).json() == policy
        second = trust.policy(agentId=agent.agent_id)
        assert [one["policyId"] for one in client.get("/api/v1/oidc/trust-policies").json()["data"]] == [second["policyId"], policy["policyId"]]
        assert client.delete(path).status_code == 204
        assert (client.delete(path).status_code, client.get(path).json()["code"]) == (404, "POLICY_NOT_FOUND")
        assert client.get("/api/v1/oidc/trust-policies/explain").status_code == 404
    assert {event["targetId"] for event in trust.events("policy.created")} == {policy["policyId"], second["policyId"]}
    assert [event["targetId"] for event in trust.events("policy.deleted")] == [policy["policyId"]]


WIDE: dict[str, tuple[dict[str, Any], str]] = {
    "nobody in particular": ({"provider": "github"}, "conditions"),
    "a name without a number": ({"provider": "github", "conditions": {"repository": {"equals": "acme/screener"}}}, "conditions"),
    "an owner's name": ({"provider": "github", "conditions": {"repository_owner": {"equals": "acme"}}}, "conditions"),
    "the subject of GitHub": ({"provider": "github", "conditions": {"sub": {"equals": "repo:acme/screener:ref:refs/heads/main"}}}, "conditions.sub"),
    "a prefix of a number": ({"provider": "github", "conditions": {"repository_id": {"prefix": "7/"}}}, "conditions"),
    "a branch of nothing": ({"provider": "github", "branch": "main", "conditions": {"repository_id": {"equals": "74"}}}, "branch"),
    "a claim that GitHub does not have": (GITHUB | {"conditions": {"repositry": {"equals": "x"}}}, "conditions.repositry"),
    **{
        f"a condition on {name}": (GITHUB | {"conditions": {name: {"equals": "x"}}}, f"conditions.{name}")
        for name in ("iss", "aud", "exp", "jti", "iat", "nbf")
    },
    **{
        f"the wildcard {value!r}": (GITHUB | {"conditions": {"ref": condition}}, "conditions.ref")
        for value in ("*", "refs/heads/*", "refs/*/main")
        for condition in ({"equals": value}, {"in": ["refs/heads/main", value]}, {"prefix": f"{value}/"})
    },
    **{
        f"the prefix {value!r}": (GITHUB | {"conditions": {"ref": {"prefix": value}}}, "conditions.ref")
        for value in ("", "/", ":", "@", "//", "refs/heads/release-", "refs/heads/release", "refs/", "refs/heads/v1.")
    },
    "pull_request_target": (GITHUB | {"conditions": {"event_name": {"equals": "pull_request_target"}}}, "conditions.event_name"),
    "pull_request_target among others": (GITHUB | {"conditions": {"event_name": {"in": ["push", "pull_request_target"]}}}, "conditions.event_name"),
    "a ref of GitLab without its kind": ({"provider": "gitlab", "repository": "acme/screener", "conditions": {"ref": {"equals": "main"}}}, "conditions.ref"),
    "nobody in particular at GitLab": ({"provider": "gitlab", "conditions": {"project_path": {"equals": "acme/screener"}}}, "conditions"),
    "every service account": ({"provider": "kubernetes", "issuer": LOOPBACK, "conditions": {"sub": {"prefix": "system:serviceaccount:"}}}, "conditions.sub"),
    "everything of a cluster": ({"provider": "kubernetes", "issuer": LOOPBACK, "conditions": {"kubernetes.io/namespace": {"equals": "agents"}}}, "conditions"),
    "a repository of a cluster": ({"provider": "kubernetes", "issuer": LOOPBACK, "repository": "a/b", "conditions": SUBJECT}, "repository"),
    "a cluster without issuer": ({"provider": "kubernetes", "conditions": SUBJECT}, "issuer"),
    "anybody": ({"provider": "oidc", "issuer": LOOPBACK, "conditions": {"email": {"equals": "x"}}}, "conditions"),
    "an audience of anybody": (GITHUB | {"audience": "https://api.example.com"}, "audience"),
    "an issuer that is not GitHub's": (GITHUB | {"issuer": LOOPBACK}, "issuer"),
    "an unknown provider": (GITHUB | {"provider": "bitbucket"}, "provider"),
    **{f"the repository {name!r}": (GITHUB | {"repository": name}, "repository") for name in ("acme", "acme/", "/x", "a/b/c", "acme/scr*", "acme/a b", "")},
    **{f"the branch {name!r}": (GITHUB | {"branch": name}, "branch") for name in ("", "*", "a b", "a\x00", "release/*")},
}


@pytest.mark.parametrize("name", WIDE)
def test_what_would_trust_too_many_is_refused(trust: Trust, name: str) -> None:
    body, field = WIDE[name]
    named = fields(create(trust, **body))
    assert field in named or any(one.startswith(f"{field}.") for one in named), named


def test_everything_wrong_is_named_at_once(trust: Trust) -> None:
    body = {"provider": "github", "branch": "main", "audience": "https://example.com", "conditions": {"sub": {"equals": "x"}, "ref": {"equals": "*a"}}}
    assert fields(create(trust, **body)) == {"audience", "branch", "conditions", "conditions.sub", "conditions.ref"}


def test_an_audience_may_be_one_of_several_of_the_organization(trust: Trust, issuers: Issuers) -> None:
    agent = trust.tenant.agent()
    assert trust.policy(agentId=agent.agent_id, audience=f"{trust.audience}/deploy")["audience"] == f"{trust.audience}/deploy"
    assert trust.exchange(issuers.github.token(f"{trust.audience}/deploy")).status_code == 200
    for audience in (trust.audience, f"{trust.audience}/other", f"{trust.audience}x", f"{trust.audience}/"):
        assert trust.exchange(issuers.github.token(audience)).status_code in {401, 403}
    for audience in (f"{trust.audience}x", f"{trust.audience}/", trust.tenant.server.url, f"{trust.tenant.server.url}/organizations/"):
        assert "audience" in fields(trust.create(agentId=agent.agent_id, audience=audience))


@pytest.mark.parametrize(
    "issuer",
    [
        "https://10.0.0.1",
        "https://169.254.169.254/latest",
        "http://example.com",
        "https://user@example.com",
        "https://example.com:22",
        "https://intranet",
        "https://[::ffff:127.0.0.1]",
    ],
)
def test_an_issuer_is_a_public_address(trust: Trust, issuer: str) -> None:
    """TH19: refused when it is named, and again when it is called."""
    response = create(trust, provider="oidc", issuer=issuer, conditions=SUBJECT)
    assert fields(response) == {"issuer"}
    assert response.json()["details"]["reason"]


def test_an_issuer_has_no_query_and_belongs_to_its_provider(trust: Trust, issuers: Issuers) -> None:
    assert fields(create(trust, provider="oidc", issuer="https://id.example.com/?x=y", conditions=SUBJECT)) == {"issuer"}
    for issuer in (issuers.github.url, f"{issuers.github.url}/acme", issuers.gitlab.url):
        assert fields(create(trust, provider="oidc", issuer=issuer, conditions=SUBJECT)) == {"issuer"}, "or GitHub's own checks would be left out"
    assert fields(create(trust, **GITHUB, issuer=f"{issuers.github.url}/acme/x")) == {"issuer"}
    assert create(trust, **GITHUB, issuer=f"{issuers.github.url}/acme").status_code == 201
    assert create(trust, provider="gitlab", repository="a/b", issuer="https://gitlab.example.com").status_code == 201


def test_nobody_gives_away_more_than_he_holds(trust: Trust) -> None:
    """TH7, TH47: a policy is a credential of the agent for somebody else."""
    powerful, narrow = trust.tenant.agent("agents:write", "audit:read"), trust.tenant.agent("policies:write", "audit:read")
    with narrow.client() as client:
        body = GITHUB | {"agentId": powerful.agent_id}
        refused = client.post("/api/v1/oidc/trust-policies", json=body)
        assert (refused.status_code, refused.json()["code"]) == (403, "FORBIDDEN")
        assert client.post("/api/v1/oidc/trust-policies", json=body | {"scopes": ["agents:write"]}).status_code == 400
        assert client.post("/api/v1/oidc/trust-policies", json=body | {"scopes": ["audit:read"]}).status_code == 201
        assert client.post("/api/v1/oidc/trust-policies", json=GITHUB | {"agentId": narrow.agent_id}).status_code == 201, "its own agent"
        make_administrator(trust.tenant.admin)
        admin = GITHUB | {"agentId": trust.tenant.admin.agent_id, "scopes": ["audit:read"]}
        assert client.post("/api/v1/oidc/trust-policies", json=admin).status_code == 403, "whoever acts as an administrator has its role"


def test_another_tenants_agent_is_none(trust: Trust, other_tenant: Tenant) -> None:
    response = trust.create(agentId=other_tenant.admin.agent_id)
    assert (response.status_code, response.json()["code"]) == (404, "AGENT_NOT_FOUND")


def test_the_number_of_policies_is_bounded(trust: Trust) -> None:
    assert {trust.create(agentId=None).status_code for _ in range(limits.TRUST_POLICIES_MAX)} == {201}
    assert trust.create(agentId=None).status_code == 409


def test_explain_names_the_nearest_policy_and_what_stops_it(trust: Trust, issuers: Issuers) -> None:
    agent = trust.tenant.agent()
    trust.policy(agentId=trust.tenant.agent().agent_id, repository="acme/other", branch="release")
    near = trust.policy(agentId=agent.agent_id, branch="main")
    token = issuers.github.token(trust.audience, ref="refs/heads/feature")
    explained = trust.explain(token)
    assert explained == {
        "accepted": False,
        "reason": None,
        "policyId": near["policyId"],
        "agentId": agent.agent_id,
        "stoppedBy": [{"claim": "ref", "expected": "refs/heads/main", "received": "refs/heads/feature"}],
    }
    assert token.rpartition(".")[2] not in str(explained)
    assert trust.explain(issuers.github.token(trust.audience))["accepted"]
    assert not trust.events("token.exchanged")


def test_explain_says_what_is_wrong_with_the_token_itself(trust: Trust, other_tenant: Tenant, issuers: Issuers) -> None:
    policy = trust.policy(agentId=trust.tenant.agent().agent_id)
    expired = trust.explain(issuers.github.token(trust.audience, exp=1, iat=0))
    assert (expired["reason"], expired["stoppedBy"], expired["policyId"]) == ("expired", [], policy["policyId"])
    default = trust.explain(issuers.github.token("https://github.com/acme"))
    assert default["stoppedBy"] == [{"claim": "aud", "expected": trust.audience, "received": "https://github.com/acme"}]
    assert "https://unknown.example" in trust.explain(issuers.github.token(trust.audience, iss="https://unknown.example"))["reason"]
    assert trust.explain("x")["reason"] == "not three base64url parts"
    foreign = Trust(other_tenant).explain(issuers.github.token(trust.audience))
    assert (foreign["accepted"], foreign["policyId"]) == (False, None), "another tenant's policies are not shown"
    huge = trust.explain(issuers.github.token(trust.audience, repository="x" * 3000))
    assert len(huge["stoppedBy"][0]["received"]) == limits.CLAIM_CHARACTERS_MAX + 1


def test_explain_needs_its_scope(trust: Trust, issuers: Issuers) -> None:
    with trust.tenant.agent("policies:write").client() as client:
        assert client.post("/api/v1/oidc/trust-policies/explain", json={"token": issuers.github.token(trust.audience)}).status_code == 403
