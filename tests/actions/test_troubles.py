"""The two actions on a bad day: answers that are none, connections that end, and what was done all the same. A step is never green with an output missing."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.actions.awkward import AGENT_ID, AGENTS, EXCHANGE, REQUEST, AwkwardServer, drips, drops, hangs, says, serving_awkwardly
from tests.actions.conftest import Outcome, Runner
from tests.auth.forgery import b64, parts

AGENT = {
    "email": "screener+7@acme.example",
    "agent_type": "screener",
    "version": "1.0.0",
    "capabilities": "resume:read",
    "owner": "talent-team",
    "deployment_env": "production",
}
NOW = {"Retry_After": "0"}
USED_UP = "The exchange may have been done all the same: then that token of GitHub's is used up"
LOOK = "The agent may exist already. Look for its email before you run the job again: GET {url}/api/v1/agents?q=screener%2B7%40acme.example,"


@pytest.fixture
def awkward() -> Iterator[AwkwardServer]:
    with serving_awkwardly() as awkward:
        yield awkward


@pytest.fixture
def runner(awkward: AwkwardServer, tmp_path: Path) -> Runner:
    if not shutil.which("bash"):
        print("skipped: a composite action needs bash")
        pytest.skip("bash is missing")
    runner = Runner(tmp_path, {"issuer": awkward.url, "organization-id": AGENT_ID})
    runner.permit(awkward.url)
    return runner


def registers(runner: Runner) -> Outcome:
    return runner.uses("register-agent", **AGENT)


# --- what is handed on ----------------------------------------------------------------------


@pytest.mark.parametrize("characters", [1025, 16384])
def test_a_long_token_is_handed_on(runner: Runner, awkward: AwkwardServer, characters: int) -> None:
    token, scope = "a" * characters, "agents:read " * 200
    awkward.access |= {"access_token": token, "scope": scope}
    outcome = runner.uses("issue-token", env_name="AGENTIDP_TOKEN")
    assert outcome.status == 0, outcome.log
    assert outcome.outputs == {"token": token, "expires-in": "300", "scope": scope}
    assert outcome.variables == {"AGENTIDP_TOKEN": token}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"access_token": "a" * 16385}, "without a token"),
        ({"access_token": "a\nb"}, "without a token"),
        ({"scope": "a\nexpires-in=9"}, "The answer's scope cannot be handed on"),
        ({"scope": "a\rb"}, "The answer's scope"),
        ({"scope": "a\x1bb"}, "The answer's scope"),
        ({"scope": "a\x85b"}, "The answer's scope"),
        ({"scope": "\ud800"}, "The answer's scope"),
        ({"scope": "a" * 16385}, "The answer's scope"),
        ({"scope": ["a"]}, "The answer's scope"),
        ({"expires_in": "1\ntoken=evil"}, "The answer's expires-in"),
    ],
)
def test_what_cannot_be_handed_on_is_no_success(runner: Runner, awkward: AwkwardServer, changed: dict[str, Any], said: str) -> None:
    """All or nothing: a step that is green with an output missing misleads the next one."""
    awkward.access |= changed
    outcome = runner.uses("issue-token", env_name="AGENTIDP_TOKEN")
    assert said in outcome.error
    assert set(outcome.outputs.values()) == {""}
    assert outcome.variables == {}


def test_what_an_answer_need_not_have(runner: Runner, awkward: AwkwardServer) -> None:
    del awkward.access["scope"], awkward.access["expires_in"]
    assert runner.uses("issue-token").outputs == {"token": "an-access-token", "expires-in": "", "scope": ""}


@pytest.mark.parametrize("agent_id", [f"{AGENT_ID}\nagent-id=evil", f"{AGENT_ID}\n", "evil", 7, None])
def test_an_agent_id_that_is_none(runner: Runner, awkward: AwkwardServer, agent_id: Any) -> None:
    awkward.answers[AGENTS] = [says(201, {"agentId": agent_id})]
    outcome = registers(runner)
    assert "without the id of an agent" in outcome.error
    assert LOOK.format(url=awkward.url) in outcome.error
    assert outcome.outputs == {"agent-id": ""}


def test_an_audience_is_one_value(runner: Runner, awkward: AwkwardServer) -> None:
    assert runner.uses("issue-token", audience="https://a/b?c=d&audience=evil#+%20").status == 0
    assert awkward.asked[0] == (f"{REQUEST}?api-version=2.0&audience=https%3A%2F%2Fa%2Fb%3Fc%3Dd%26audience%3Devil%23%2B%2520", None)


@pytest.mark.parametrize("action", ["issue-token", "register-agent"])
def test_a_module_of_the_checkout_is_not_ours_to_run(runner: Runner, action: str) -> None:
    (runner.folder / "json.py").write_text("print('evil')\nraise SystemExit(7)\n")
    runner.variables["PYTHONPATH"] = str(runner.folder)
    outcome = runner.uses(action, **AGENT if action == "register-agent" else {})
    assert outcome.status == 0, outcome.log
    assert "evil" not in outcome.log


# --- answers that are none ------------------------------------------------------------------


@pytest.mark.parametrize("path", [REQUEST, EXCHANGE])
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"message":"no \\ud800","code":"\\udfff"}', "no \\ud800"),
        (b"[" * 100_000, "nothing that could be read"),
        (b'{"message":["no"]}', "nothing that could"),
    ],
)
def test_an_answer_that_is_no_text(runner: Runner, awkward: AwkwardServer, path: str, body: bytes, said: str) -> None:
    awkward.answers[path] = [says(400, body)]
    assert said in runner.uses("issue-token").error


@pytest.mark.parametrize("payload", ["[" * 12_000, '{"ref":["main"]}', '"x"', "\ud800"])
def test_a_token_that_says_nothing(runner: Runner, awkward: AwkwardServer, payload: str) -> None:
    token = f"e30.{b64(payload.encode('utf-8', 'surrogatepass'))}.c2ln"
    awkward.answers |= {REQUEST: [says(200, {"value": token})], EXCHANGE: [says(403, {"code": "OIDC_POLICY_NO_MATCH", "message": "No."})]}
    error = runner.uses("issue-token").error
    assert "403 OIDC_POLICY_NO_MATCH: No." in error
    assert "The token says" not in error


def test_a_console_that_is_not_of_utf_8(runner: Runner, awkward: AwkwardServer) -> None:
    """Windows writes cp1252; the runner reads UTF-8. Claims are in anybody's script."""
    python = runner.folder / "bin" / "python3"
    python.parent.mkdir()
    script = "import io, runpy, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'cp1252')\ndel sys.argv[:2]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    python.write_text(f"#!{sys.executable}\n{script}")
    python.chmod(0o755)
    runner.variables["PATH"] = f"{python.parent}:/usr/bin:/bin"
    awkward.claims["environment"] = "生产"
    awkward.answers[EXCHANGE] = [says(403, {"message": "não"})]
    error = runner.uses("issue-token").error
    assert "não" in error
    assert "environment=生产" in error


def test_what_is_shown_is_bounded(runner: Runner, awkward: AwkwardServer) -> None:
    awkward.claims["ref"] = "c" * 5000
    awkward.answers[EXCHANGE] = [says(503, {"message": "n" * 50_000}, **NOW), says(400, {"message": "m" * 50_000})]
    outcome = runner.uses("issue-token")
    notice = next(line for line in outcome.shown.splitlines() if line.startswith("::notice::"))
    assert [(1900 < text.count(letter) <= 2000) for text, letter in ((notice, "n"), (outcome.error, "m"), (outcome.error, "c"))] == [True] * 3
    assert max(len(notice), len(outcome.error)) < 4200


def test_what_is_read_is_bounded(runner: Runner, awkward: AwkwardServer) -> None:
    awkward.answers[REQUEST] = [says(200, b'{"value":"' + b" " * 262_144 + b'"}')]
    assert "answered 200 : nothing that could be read" in runner.uses("issue-token").error
    awkward.answers[REQUEST] = [says(400, b'{"message":"no"' + b" " * 262_144 + b"}")]
    assert "answered 400 : nothing that could be read" in runner.uses("issue-token").error


# --- once more, or not ----------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [says(500, {}, **NOW), says(502, b"<html>", **NOW), says(504, {}, **NOW), drops])
def test_github_is_asked_again(runner: Runner, awkward: AwkwardServer, trouble: Any) -> None:
    """To ask for a token changes nothing."""
    awkward.answers[REQUEST] = [trouble]
    outcome = runner.uses("issue-token")
    assert outcome.status == 0, outcome.log
    assert (awkward.count(REQUEST), awkward.count(EXCHANGE), outcome.shown.count("::notice::")) == (2, 1, 1)


def test_github_is_asked_four_times_at_most(runner: Runner, awkward: AwkwardServer) -> None:
    awkward.answers[REQUEST] = [says(502, {}, **NOW)] * 9
    error = runner.uses("issue-token").error
    assert "answered 502" in error
    assert "(asked 4 times)" in error
    assert USED_UP not in error
    assert (awkward.count(REQUEST), awkward.count(EXCHANGE)) == (4, 0)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (says(500, {}), "answered 500"),
        (says(502, {}), "answered 502"),
        (says(504, {}), "answered 504"),
        (drops, "has not answered"),
        (says(200, b"{"), "answered 200"),
    ],
)
def test_what_may_have_been_done_is_not_done_again(runner: Runner, awkward: AwkwardServer, trouble: Any, said: str) -> None:
    awkward.answers[EXCHANGE] = [trouble]
    error = runner.uses("issue-token").error
    assert said in error
    assert USED_UP in error
    assert awkward.count(EXCHANGE) == 1
    awkward.answers[AGENTS] = [trouble]
    error = registers(runner).error
    assert said in error
    assert LOOK.format(url=awkward.url) in error
    assert USED_UP not in error
    assert awkward.count(AGENTS) == 1


def test_a_refusal_leaves_no_doubt(runner: Runner, awkward: AwkwardServer) -> None:
    awkward.answers |= {EXCHANGE: [says(403, {})], AGENTS: [says(429, {}, **NOW), says(409, {})]}
    assert USED_UP not in runner.uses("issue-token").error
    error = registers(runner).error
    assert "answered 409" in error
    assert "may exist" not in error
    assert USED_UP not in runner.uses("issue-token", issuer="http://127.0.0.1:1").error, "nothing was sent"


@pytest.mark.parametrize("answer", [says(401, {"code": "UNAUTHORIZED", "message": "Used."}), says(503, {}, Retry_After="60"), drops])
def test_a_registration_of_unknown_outcome(runner: Runner, awkward: AwkwardServer, answer: Any) -> None:
    """The first attempt may be that which has registered it and has used the token up."""
    awkward.answers[AGENTS] = [says(503, {}, **NOW), answer]
    assert LOOK.format(url=awkward.url) in registers(runner).error
    assert awkward.count(AGENTS) == 2
    assert len({json.dumps(body) for path, body in awkward.asked if path == AGENTS}) == 1


def test_an_exchange_of_unknown_outcome(runner: Runner, awkward: AwkwardServer) -> None:
    """Each attempt brings a token of its own; that one may be used up for nothing is said at the end."""
    awkward.answers[EXCHANGE] = [says(503, {}, **NOW), says(400, {})]
    assert USED_UP in runner.uses("issue-token").error
    tokens = [body["token"] for path, body in awkward.asked if path == EXCHANGE]
    assert len(set(tokens)) == 2
    assert all("jti" in parts(token)[1] for token in tokens)


def test_a_pause_that_is_too_long(runner: Runner, awkward: AwkwardServer) -> None:
    awkward.answers[EXCHANGE] = [says(503, {}, Retry_After="31")]
    assert "It asks for a pause of 31 seconds; 30 are waited at most." in runner.uses("issue-token").error
    runner.limits["ALL_SECONDS_MAX"] = 9
    awkward.answers[EXCHANGE] = [says(429, {}, Retry_After="10")]
    assert "A pause of 10 seconds would be longer than the rest of the 9 that there are for everything." in runner.uses("issue-token").error


def test_more_than_one_policy_is_no_contradiction(runner: Runner, awkward: AwkwardServer) -> None:
    message = "More than one trust policy accepts this token, and they lead to different agents or scopes; say which agent, or make them stricter."
    awkward.answers[EXCHANGE] = [says(403, {"code": "OIDC_POLICY_NO_MATCH", "message": message})]
    error = runner.uses("issue-token").error
    assert message in error
    assert "No trust policy" not in error
    assert "/api/v1/oidc/trust-policies/explain" in error


# --- an end of it ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", [REQUEST, EXCHANGE, AGENTS])
def test_an_answer_that_drips(runner: Runner, awkward: AwkwardServer, path: str) -> None:
    """Each byte starts a socket's time-out anew; the bound for everything needs no signal, which Windows does not have."""
    runner.limits["ALL_SECONDS_MAX"] = 2
    awkward.answers[path] = [drips]
    before = time.monotonic()
    error = registers(runner).error
    assert time.monotonic() - before < 10
    assert "there was no end of it within 2 seconds" in error
    assert [USED_UP in error, LOOK.format(url=awkward.url) in error] == [path == EXCHANGE, path == AGENTS]


def test_a_server_that_hangs(runner: Runner, awkward: AwkwardServer) -> None:
    runner.limits["CALL_SECONDS_MAX"] = 1
    awkward.answers[EXCHANGE] = [hangs]
    before = time.monotonic()
    error = runner.uses("issue-token").error
    assert time.monotonic() - before < 10
    assert "has not answered: timed out" in error
    assert USED_UP in error
