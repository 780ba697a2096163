"""The two actions, run as a job runs them, against a GitHub that signs real tokens and a running server with a trust policy. TH46: no secret where it may be read."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from tests.actions.awkward import AGENTS, EXCHANGE, passes_on, serving_awkwardly
from tests.actions.conftest import ACTIONS, BEARER, Job, Outcome
from tests.architecture.source import ROOT
from tests.auth.forgery import parts
from tests.fakes.fake_issuers import DISCOVERY, serving_issuer
from tests.tenants import registration

from agentidp.agents.actions import update_agent
from agentidp.core.ids import new_id

REGISTRATION = {
    "agent_type": "screener",
    "version": "1.0.0",
    "capabilities": "resume:read, candidate:read\nreport:write",
    "owner": "talent-team",
    "deployment_env": "production",
}


def hides(outcome: Outcome, *secrets: str) -> bool:
    """Masked, and printed nowhere but in the command that masks."""
    return all(secret in outcome.masked and outcome.log.count(secret) == 1 and secret not in outcome.shown for secret in secrets)


def email() -> str:
    return str(registration()["email"])


# --- issue-token ----------------------------------------------------------------------------


def test_a_job_gets_a_token_of_its_agent(job: Job) -> None:
    agent = job.trust.tenant.agent("agents:read", "openid")
    job.trust.policy(agentId=agent.agent_id, conditions={"environment": {"equals": "production"}})
    outcome = job.uses("issue-token")
    assert outcome.status == 0, outcome.log
    token = outcome.outputs["token"]
    with job.server.client(headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.get("/agent-info").json()["sub"] == agent.agent_id
    assert outcome.outputs == {"token": token, "scope": "agents:read openid", "expires-in": outcome.outputs["expires-in"]}
    assert 0 < int(outcome.outputs["expires-in"]) <= job.github.life_seconds
    assert outcome.variables == {}
    assert hides(outcome, token, *job.github.given)
    assert BEARER not in outcome.log
    assert outcome.log.startswith(f"::add-mask::{job.github.given[0]}\n::add-mask::{token}\n"), "before anything else"
    assert parts(job.github.given[0])[1]["aud"] == job.trust.audience


def test_a_job_says_what_it_wants(job: Job) -> None:
    """A narrower scope, one agent of several, an audience of its own, and a variable for later steps."""
    audience = f"{job.trust.audience}/deploy"
    one, other = (job.trust.tenant.agent("agents:read", "audit:read") for _ in range(2))
    for agent in (one, other):
        job.trust.policy(agentId=agent.agent_id, audience=audience)
    outcome = job.uses("issue-token", audience=audience, organization_id="", agent_id=other.agent_id, scope="audit:read", env_name="AGENTIDP_TOKEN")
    assert outcome.status == 0, outcome.log
    assert outcome.variables == {"AGENTIDP_TOKEN": outcome.outputs["token"]}
    claims = parts(outcome.outputs["token"])[1]
    assert (claims["sub"], claims["scope"], outcome.outputs["scope"]) == (other.agent_id, "audit:read", "audit:read")
    assert hides(outcome, outcome.outputs["token"], *job.github.given)


def test_each_run_asks_for_a_token_of_its_own(job: Job) -> None:
    job.trust.policy(agentId=job.trust.tenant.agent().agent_id)
    assert [job.uses("issue-token").status for _ in range(2)] == [0, 0]
    assert len(set(job.github.given)) == 2


def test_without_the_permission_it_says_which_one_is_missing(job: Job) -> None:
    job.variables.clear()
    assert "id-token: write" in job.uses("issue-token").error


def test_no_policy_at_all(job: Job) -> None:
    error = job.uses("issue-token").error
    assert "401 OIDC_TOKEN_INVALID: The token is not accepted: nobody whom the organization trusts has signed it" in error
    assert f"is its audience {job.trust.audience}?" in error


def test_a_policy_that_does_not_match_says_how_to_find_out_why(job: Job) -> None:
    job.trust.policy(agentId=job.trust.tenant.agent().agent_id, branch="release")
    outcome = job.uses("issue-token")
    assert "403 OIDC_POLICY_NO_MATCH: No trust policy of the organization accepts this token" in outcome.error
    assert f'as {{"token": "..."}} to {job.server.url}/api/v1/oidc/trust-policies/explain' in outcome.error
    assert "policies:read" in outcome.error
    assert "repository=acme/screener, repository_id=74, repository_owner_id=65, ref=refs/heads/main, ref_type=branch, environment=production" in outcome.error
    assert outcome.outputs == {"token": "", "expires-in": "", "scope": ""}
    assert hides(outcome, *job.github.given)
    (obstacle,) = job.trust.explain(job.github.given[0])["stoppedBy"]
    assert (obstacle["claim"], obstacle["received"]) == ("ref", "refs/heads/main")


def test_refusals_say_what_the_server_says(job: Job) -> None:
    agent = job.trust.tenant.agent("agents:read")
    job.trust.policy(agentId=agent.agent_id)
    assert "400 invalid_scope" in job.uses("issue-token", scope="audit:read").error
    assert "403 OIDC_POLICY_NO_MATCH: No trust policy accepts this token for that agent." in job.uses("issue-token", agent_id=new_id(0)).error
    assert "401 OIDC_TOKEN_INVALID" in job.uses("issue-token", organization_id=new_id(0)).error
    job.server.write(update_agent, agent.caller, agent.agent_id, {"status": "suspended"})
    assert "unauthorized_client" in job.uses("issue-token").error


def test_a_token_that_was_used_is_no_dead_end(job: Job) -> None:
    job.trust.policy(agentId=job.trust.tenant.agent().agent_id)
    assert job.uses("issue-token").status == 0
    job.github.first = [(200, {}, json.dumps({"value": job.github.given[0]}).encode())]
    error = job.uses("issue-token").error
    assert "401 OIDC_TOKEN_REPLAYED" in error
    assert "Run the job again" in error


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, {}, b"{}"), "answered 401"),
        ((501, {}, b"<html>"), "answered 501"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), "answered 302"),
        ((200, {}, b"[]"), "answered 200"),
        ((200, {}, b"{}"), "answered 200"),
        ((200, {}, b'{"value":""}'), "without a token"),
        ((200, {}, b'{"value":["x"]}'), "without a token"),
        ((200, {}, b'{"value":"a\\ntoken=b"}'), "without a token"),
        ((429, {"Retry-After": "3600"}, b"{}"), "It asks for a pause of 3600 seconds; 30 are waited at most."),
    ],
)
def test_a_github_that_gives_no_token(job: Job, answer: Any, said: str) -> None:
    """Neither asked again nor followed elsewhere."""
    before = len(job.github.requests)
    job.github.first = [answer]
    outcome = job.uses("issue-token")
    assert said in outcome.error
    assert (job.github.first, len(job.github.requests), outcome.masked) == ([], before, [])


def test_what_a_server_says_is_no_command_to_the_runner(job: Job) -> None:
    text = "no\n::set-output name=token::evil\r\n::add-mask::a%0A"
    job.github.first = [(400, {}, json.dumps({"message": text, "code": "X\n::stop-commands::x"}).encode())]
    outcome = job.uses("issue-token")
    assert text in outcome.error
    assert [line for line in outcome.log.splitlines() if line.startswith("::")] == [line for line in outcome.log.splitlines() if line.startswith("::error::")]


def test_a_passing_trouble_is_waited_for(job: Job) -> None:
    job.trust.policy(agentId=job.trust.tenant.agent().agent_id)
    job.github.first = [(503, {"Retry-After": "0"}, b"{}"), (429, {"Retry-After": "1"}, b"")]
    outcome = job.uses("issue-token")
    assert outcome.status == 0, outcome.log
    assert outcome.shown.count("::notice::") == 2
    assert "once more in 1 seconds" in outcome.shown


def test_there_is_an_end_of_waiting(job: Job) -> None:
    """The server says 503 while GitHub's keys cannot be had; each attempt brings a token of its own."""
    own = job.trust
    with serving_issuer(type(job.github)()) as issuer:
        oidc = {"provider": "oidc", "issuer": issuer.url, "conditions": {"sub": {"equals": "repo:acme@65/screener@74:ref:refs/heads/main"}}}
        own.policy(**oidc, repository=None, agentId=own.tenant.agent().agent_id)
        issuer.answers[DISCOVERY] = (500, {}, b"")
        job.variables["ACTIONS_ID_TOKEN_REQUEST_URL"] = f"{issuer.url}/request"
        outcome = job.uses("issue-token")
        assert "503 temporarily_unavailable" in outcome.error
        assert "(asked 4 times)" in outcome.error
        assert len(set(issuer.given)) == 4  # type: ignore[attr-defined]  # it is a FakeActions
        assert hides(outcome, *issuer.given)  # type: ignore[attr-defined]


def test_a_server_that_is_not_there(job: Job) -> None:
    assert "127.0.0.1:1 cannot be reached" in job.uses("issue-token", issuer="http://127.0.0.1:1").error


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("issuer", ""),
        ("issuer", "id.example.com"),
        ("issuer", "http://id.example.com"),
        ("issuer", "https://user@id.example.com"),
        ("issuer", "https://id.example.com/path"),
        ("issuer", "https://id.example.com\n"),
        ("issuer", "http://127.0.0.1.evil.com"),
        ("issuer", "http://localhost.evil.com"),
        ("issuer", "http://127.0.0.1:80.evil.com"),
        ("organization_id", ""),
        ("organization_id", "acme"),
        ("audience", "acme"),
        ("audience", "https://a b"),
        ("agent_id", "../x"),
        ("scope", "agents:read  audit:read"),
        ("scope", "a\nb"),
        ("env_name", "GITHUB_TOKEN"),
        ("env_name", "RUNNER_X"),
        ("env_name", "ACTIONS_X"),
        ("env_name", "a=b"),
        ("env_name", "A\nB"),
    ],
)
def test_an_input_that_is_none(job: Job, name: str, value: str) -> None:
    """Said before anybody is asked for anything."""
    before = len(job.github.requests)
    if value.endswith("\n"):
        value += "x"
    outcome = job.uses("issue-token", **{name: value})
    assert name.replace("_", "-") in outcome.error
    assert len(job.github.requests) == before


# --- register-agent -------------------------------------------------------------------------


def test_a_job_registers_an_agent(job: Job) -> None:
    job.trust.policy(agentId=None, scopes=["agents:read", "audit:read"])
    address = email()
    outcome = job.uses("register-agent", email=address, scopes="agents:read audit:read", name="Screener 7", description="Reads: all of it", **REGISTRATION)
    assert outcome.status == 0, outcome.log
    agent_id = outcome.outputs["agent-id"]
    with job.trust.tenant.admin.client("agents:read") as client:
        agent = client.get(f"/api/v1/agents/{agent_id}").json()
    assert (agent["email"], agent["name"], agent["description"]) == (address, "Screener 7", "Reads: all of it")
    assert sorted(agent["capabilities"]) == ["candidate:read", "report:write", "resume:read"]
    assert sorted(agent["scopes"]) == ["agents:read", "audit:read"]
    assert hides(outcome, *job.github.given)
    assert len(outcome.masked) == 2
    assert hides(outcome, *outcome.masked)


def test_what_keeps_a_job_from_registering(job: Job) -> None:
    policy = job.trust.policy(agentId=job.trust.tenant.agent().agent_id)
    assert "Make a policy without agentId." in job.uses("register-agent", email=email(), **REGISTRATION).error
    job.trust.delete(policy["policyId"])
    job.trust.policy(agentId=None, scopes=["agents:read"])
    taken = email()
    assert job.uses("register-agent", email=taken, scopes="agents:read", **REGISTRATION).status == 0
    assert "409 AGENT_ALREADY_EXISTS" in job.uses("register-agent", email=taken, scopes="agents:read", **REGISTRATION).error
    wrong = job.uses("register-agent", email=email(), scopes="agents:read", **REGISTRATION | {"version": "one"}).error
    assert "400 VALIDATION_ERROR: version:" in wrong
    assert "400 INVALID_SCOPES" in job.uses("register-agent", email=email(), scopes="billing:read", **REGISTRATION).error
    for missing in REGISTRATION:
        assert f"The input {missing.replace('_', '-')} is missing." in job.uses("register-agent", email=email(), **REGISTRATION | {missing: " "}).error


def test_an_agent_that_was_registered_all_the_same(job: Job) -> None:
    """The answer is lost, and the second attempt is refused, since the token is used up. Where the error says to look, the agent is."""
    job.trust.policy(agentId=None, scopes=["agents:read"])
    address = email().replace("@", "+1@")
    with serving_awkwardly() as between:
        between.answers = {EXCHANGE: [passes_on(job.server.url)], AGENTS: [passes_on(job.server.url, loses=True), passes_on(job.server.url)]}
        outcome = job.uses("register-agent", issuer=between.url, audience=job.trust.audience, email=address, scopes="agents:read", **REGISTRATION)
    assert "answered 401 UNAUTHORIZED" in outcome.error
    (where,) = re.findall(rf"The agent may exist already\. .* GET {between.url}(\S+),", outcome.error)
    with job.trust.tenant.admin.client("agents:read") as client:
        assert [agent["email"] for agent in client.get(where).json()["data"]] == [address]


# --- both -----------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["issue-token", "register-agent"])
def test_what_an_action_says_of_itself(action: str) -> None:
    """Every input reaches the script under its name, and the README names each input and output; no example pins anything by a tag that moves."""
    document = yaml.safe_load((ACTIONS / action / "action.yml").read_text("utf-8"))
    (step,) = document["runs"]["steps"]
    assert step["env"] == {f"INPUT_{name.upper().replace('-', '_')}": f"${{{{ inputs.{name} }}}}" for name in document["inputs"]}
    readme = (ACTIONS / action / "README.md").read_text("utf-8")
    assert [name for name in (*document["inputs"], *document["outputs"]) if f"`{name}`" not in readme] == []
    (example,) = (yaml.safe_load(text.split("```")[0]) for text in readme.split("```yaml")[1:])
    assert example["permissions"] == {"id-token": "write", "contents": "read"}, "to name one permission takes all others away"
    examples = [line for text in readme.split("```yaml")[1:] for line in text.split("```")[0].splitlines() if "uses:" in line]
    assert examples
    assert all(line.split("@")[1].split()[0] == "<commit>" for line in examples)


def test_the_example_is_a_job_that_the_guides_policy_accepts() -> None:
    guide, readme = (path.read_text("utf-8") for path in (ROOT / "docs" / "guides" / "github-actions.md", ACTIONS / "issue-token" / "README.md"))
    (environment,) = re.findall(r'"conditions": \{"environment": \{"equals": "(\w+)"\}\}', guide)
    (job,) = yaml.safe_load(readme.split("```yaml")[1].split("```")[0])["jobs"].values()
    assert job["environment"] == environment


def test_the_script_needs_nothing_but_python() -> None:
    answer = subprocess.run(
        [sys.executable, "-I", "-S", str(ACTIONS / "agentidp.py"), "issue-token"], env={}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (1, "::error::The input issuer is missing.\n", "")
