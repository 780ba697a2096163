"""What both actions run: asks GitHub for a token of this job, exchanges it at AgentIdP, and hands on what comes of it. Needs Python's standard library only.

Each token is masked before anything else is printed. What a server says reaches the log in one escaped line, so that it is no command to the runner.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

CALL_SECONDS_MAX = 20  # without a byte from the other side
ALL_SECONDS_MAX = 180  # for everything, pauses included
ATTEMPTS_MAX = 4
PAUSE_SECONDS_MAX = 30  # who is to wait for longer is refused: it is no passing trouble
ANSWER_BYTES_MAX = 256 * 1024
TEXT_CHARACTERS_MAX = 2000  # of what a server says

ORIGIN = re.compile(r"https://[A-Za-z0-9.-]+(:[0-9]+)?|http://(localhost|127\.0\.0\.1)(:[0-9]+)?")
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
ADDRESS = re.compile(r"https?://[!-~]{1,512}")
SCOPE = re.compile(r"[!#-\[\]-~]+( [!#-\[\]-~]+)*")
VARIABLE = re.compile(r"(?!GITHUB_|RUNNER_|ACTIONS_)[A-Z_][A-Z0-9_]{0,127}")
LINE = re.compile(r"[^\x00-\x1f\x7f]{1,1024}")
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,16384}")

# What GitHub's token says and trust policies ask about. None of it is secret.
CLAIMS = (
    "aud",
    "sub",
    "repository",
    "repository_id",
    "repository_owner_id",
    "ref",
    "ref_type",
    "environment",
    "event_name",
    "job_workflow_ref",
    "runner_environment",
)
HINTS = {
    "OIDC_POLICY_NO_MATCH": "No trust policy of the organization accepts what this token says. To see which one comes nearest and which claim stops it, POST another token "
    'of such a job as {{"token": "..."}} to {issuer}/api/v1/oidc/trust-policies/explain, with a bearer of scope policies:read; see docs/guides/github-actions.md.',
    "OIDC_TOKEN_INVALID": "Does the organization have a trust policy for GitHub, and is its audience {audience}?",
    "OIDC_TOKEN_REPLAYED": "Run the job again: each token of GitHub's is good for one exchange.",
    "INVALID_SCOPES": "The trust policy, or the agent, may hold less than was asked for.",
    "AGENT_ALREADY_EXISTS": "If an earlier attempt of this run was interrupted, it may be that which has registered it.",
    "UNAUTHORIZED": "A token of a trust policy without agent registers one agent, once, within five minutes.",
}


class Refused(Exception):
    """Ends the action. The text is for the log."""


class Busy(Exception):
    """503 or 429: the same again, after a pause."""

    def __init__(self, said: str, pause_seconds: int | None) -> None:
        super().__init__(said)
        self.pause_seconds = pause_seconds


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token goes where the workflow says, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def main() -> int:
    if hasattr(signal, "SIGALRM"):  # Windows has none; there the job's own timeout ends it
        signal.signal(signal.SIGALRM, _out_of_time)
        signal.alarm(ALL_SECONDS_MAX)
    try:
        {"issue-token": issue_token, "register-agent": register_agent}[sys.argv[1]]()
    except Refused as refused:
        tell("error", str(refused))
        return 1
    return 0


def issue_token() -> None:
    issuer, audience = _where()
    wanted = {"agentId": given("agent-id", UUID), "scope": given("scope", SCOPE)}
    variable = given("env-name", VARIABLE)
    answer = patiently(lambda: exchange(issuer, audience, wanted))
    token = answer["access_token"]
    hand_on("GITHUB_OUTPUT", {"token": token, "expires-in": answer.get("expires_in", ""), "scope": answer.get("scope", "")})
    if variable:
        hand_on("GITHUB_ENV", {variable: token})
    print("An access token is in the output `token`.")  # and nothing that a server said: `##[` is a command wherever it stands in a line


def register_agent() -> None:
    issuer, audience = _where()
    agent: dict[str, Any] = {
        "email": required("email", LINE),
        "agentType": required("agent-type", LINE),
        "version": required("version", LINE),
        "capabilities": _words(required("capabilities")),
        "owner": required("owner", LINE),
        "deploymentEnv": required("deployment-env", LINE),
    }
    agent |= {field: value for field, value in {"name": given("name", LINE), "description": given("description", LINE)}.items() if value}
    if scopes := given("scopes"):
        agent["scopes"] = _words(scopes)
    once = patiently(lambda: exchange(issuer, audience, {}))
    if once.get("scope") != "agents:register":
        raise Refused("The trust policy that accepts this job names an agent, so its tokens act as that one and register none. Make a policy without agentId.")
    answer = patiently(lambda: call(f"{issuer}/api/v1/agents", bearer=once["access_token"], body=agent))
    agent_id = answer.get("agentId")
    if not isinstance(agent_id, str) or not UUID.fullmatch(agent_id):
        raise Refused(f"{issuer} has answered without the id of an agent.")
    hand_on("GITHUB_OUTPUT", {"agent-id": agent_id})
    print(f"Registered agent {agent_id}.")


def exchange(issuer: str, audience: str, wanted: dict[str, str]) -> dict[str, Any]:
    """AgentIdP's answer to a fresh token of GitHub's; both tokens are masked."""
    outside = ask_github(audience)
    answer = call(f"{issuer}/api/v1/oidc/token", body={"token": outside} | {name: value for name, value in wanted.items() if value}, says=outside)
    masked(answer.get("access_token"), issuer)
    return answer


def ask_github(audience: str) -> str:
    url, bearer = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL", ""), os.environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "")
    if not url or not bearer:
        raise Refused("This job may not ask GitHub for a token: give it `permissions: id-token: write`. A pull request of a fork never may.")
    answer = call(f"{url}{'&' if '?' in url else '?'}audience={urllib.parse.quote(audience, safe='')}", bearer=bearer)
    return masked(answer.get("value"), "GitHub")


def masked(token: Any, who: str) -> str:
    """The token, once the runner knows to hide it."""
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        raise Refused(f"{who} has answered without a token.")
    print(f"::add-mask::{token}", flush=True)
    return token


def call(url: str, *, bearer: str = "", body: dict[str, Any] | None = None, says: str = "") -> dict[str, Any]:
    """The JSON object that is answered. `says` is the token whose claims a refusal shows. Raises Refused, Busy."""
    host, headers = urllib.parse.urlsplit(url).netloc, {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "agentidp-actions"}
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    try:
        request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
        try:
            with _opener.open(request, timeout=CALL_SECONDS_MAX) as response:
                status, head, raw = response.status, response.headers, response.read(ANSWER_BYTES_MAX)
        except urllib.error.HTTPError as error:
            status, head, raw = error.code, error.headers, error.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Refused(f"{host} cannot be reached: {getattr(error, 'reason', error)}") from None
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = None
    if status in {200, 201} and isinstance(answer, dict):
        return answer
    answer = answer if isinstance(answer, dict) else {}
    code = str(answer.get("code") or answer.get("error") or "")
    said = f"{host} answered {status} {code}: {answer.get('error_description') or answer.get('message') or 'nothing that could be read'}"[:TEXT_CHARACTERS_MAX]
    if status in {429, 503}:
        after = head.get("Retry-After", "")
        raise Busy(said, int(after) if re.fullmatch("[0-9]{1,9}", after) else None)
    raise Refused("\n".join(filter(None, (said, _hint(code, url, says), _claims(says)))))


def patiently(work: Callable[[], T]) -> T:
    """What it gives, after a few pauses at most. Raises Refused."""
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return work()
        except Busy as busy:
            pause = 2**attempt if busy.pause_seconds is None else busy.pause_seconds
            if attempt == ATTEMPTS_MAX or pause > PAUSE_SECONDS_MAX:
                raise Refused(f"{busy} (asked {attempt} times)") from None
            tell("notice", f"{busy}; once more in {pause} seconds")
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def given(name: str, form: re.Pattern[str] | None = None) -> str:
    """An input of the action; empty when it is not given. Raises Refused."""
    value = os.environ.get(f"INPUT_{name.upper().replace('-', '_')}", "").strip()
    if value and form is not None and not form.fullmatch(value):
        raise Refused(f"The input {name} is not what it should be; see the README of the action.")
    return value


def required(name: str, form: re.Pattern[str] | None = None) -> str:
    value = given(name, form)
    if not value:
        raise Refused(f"The input {name} is missing.")
    return value


def hand_on(file: str, values: dict[str, Any]) -> None:
    """To later steps, through one of the runner's files."""
    path = os.environ.get(file, "")
    if not path:
        raise Refused(f"{file} is not set: this runs as a step of GitHub Actions only.")
    lines = "".join(f"{name}={value}\n" for name, value in values.items() if LINE.fullmatch(str(value)))
    with Path(path).open("a", encoding="utf-8") as output:
        output.write(lines)


def tell(kind: str, text: str) -> None:
    """One line of the log, whatever is in the text."""
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    print(f"::{kind}::{escaped}", flush=True)


def _where() -> tuple[str, str]:
    """AgentIdP's origin, and the audience that its tokens of GitHub's must have."""
    issuer = required("issuer").rstrip("/")
    if not ORIGIN.fullmatch(issuer):
        raise Refused("The input issuer must be the address of your AgentIdP: https:// and a host.")
    audience = given("audience", ADDRESS)
    return issuer, audience or f"{issuer}/organizations/{required('organization-id', UUID)}"


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _hint(code: str, url: str, says: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return HINTS.get(code, "").format(issuer=f"{parts.scheme}://{parts.netloc}", audience=_payload(says).get("aud"))


def _claims(token: str) -> str:
    claims = _payload(token)
    found = ", ".join(f"{name}={claims[name]}" for name in CLAIMS if name in claims)
    return f"The token says: {found}"[:TEXT_CHARACTERS_MAX] if found else ""


def _payload(token: str) -> dict[str, Any]:
    """What a token says, unverified and for the log only."""
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _out_of_time(*_: object) -> None:
    raise Refused(f"There was no end of it within {ALL_SECONDS_MAX} seconds.")


if __name__ == "__main__":
    sys.exit(main())
