"""What both actions run: asks GitHub for a token of this job, exchanges it at AgentIdP, and hands on what comes of it. Needs Python's standard library only.

Each token is masked before anything else is printed. What a server says reaches the log in one escaped line, so that it is no command to the runner.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import queue
import re
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any, TypeVar, cast

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
LINE = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,1024}")
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,16384}")
VALUE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{0,16384}")  # of the runner's files; any token is one, too

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
    "OIDC_POLICY_NO_MATCH": "To see what the trust policies make of such a token, and which claim stops it, POST another one of such a job "
    'as {{"token": "..."}} to {issuer}/api/v1/oidc/trust-policies/explain, with a bearer of scope policies:read; see docs/guides/github-actions.md.',
    "OIDC_TOKEN_INVALID": "Does the organization have a trust policy for GitHub, and is its audience {audience}?",
    "OIDC_TOKEN_REPLAYED": "Run the job again: each token of GitHub's is good for one exchange.",
    "INVALID_SCOPES": "The trust policy, or the agent, may hold less than was asked for.",
    "AGENT_ALREADY_EXISTS": "If an earlier attempt of this run was interrupted, it may be that which has registered it.",
    "UNAUTHORIZED": "A token of a trust policy without agent registers one agent, once, within five minutes.",
}
EXCHANGE_DOUBT = "The exchange may have been done all the same: then that token of GitHub's is used up, and an access token that nobody has ends by itself within minutes. Run the job again."
REGISTER_DOUBT = (
    "The agent may exist already. Look for its email before you run the job again: GET {issuer}/api/v1/agents?q={email}, with a bearer of scope agents:read."
)


class Refused(Exception):
    """Ends the action. The text is for the log."""


class Failed(Exception):
    """A call without the answer that was wanted. `may_pass`: the same again is safe, and may do. `may_be_done`: the other side may have done it all the same."""

    def __init__(self, said: str, *, may_pass: bool, may_be_done: bool, pause_seconds: int | None = None) -> None:
        super().__init__(said)
        self.may_pass, self.may_be_done, self.pause_seconds = may_pass, may_be_done, pause_seconds


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token goes where the workflow says, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)
_ends = time.monotonic() + ALL_SECONDS_MAX


def main() -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):  # the runner reads UTF-8, also where the system writes something else; what is no text is escaped
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
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
    answer = patiently(lambda: exchange(issuer, audience, wanted), EXCHANGE_DOUBT)
    token = answer["access_token"]
    hand_on("GITHUB_OUTPUT", {"token": token, "expires-in": answer.get("expires_in") or "", "scope": answer.get("scope") or ""})
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
    once = patiently(lambda: exchange(issuer, audience, {}), EXCHANGE_DOUBT)
    if once.get("scope") != "agents:register":
        raise Refused("The trust policy that accepts this job names an agent, so its tokens act as that one and register none. Make a policy without agentId.")
    doubt = REGISTER_DOUBT.format(issuer=issuer, email=urllib.parse.quote(agent["email"]))
    answer = patiently(lambda: call(f"{issuer}/api/v1/agents", bearer=once["access_token"], body=agent), doubt)
    agent_id = answer.get("agentId")
    if not isinstance(agent_id, str) or not UUID.fullmatch(agent_id):
        raise Refused(f"{issuer} has answered without the id of an agent.\n{doubt}")
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
    answer = patiently(lambda: call(f"{url}{'&' if '?' in url else '?'}audience={urllib.parse.quote(audience, safe='')}", bearer=bearer))
    return masked(answer.get("value"), "GitHub")


def masked(token: Any, who: str) -> str:
    """The token, once the runner knows to hide it."""
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        raise Refused(f"{who} has answered without a token.")
    print(f"::add-mask::{token}", flush=True)
    return token


def call(url: str, *, bearer: str = "", body: dict[str, Any] | None = None, says: str = "") -> dict[str, Any]:
    """The JSON object that is answered. `says` is the token whose claims a refusal shows. Raises Failed."""
    host, headers = urllib.parse.urlsplit(url).netloc, {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "agentidp-actions"}
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    only_asks = body is None
    try:
        request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
        status, head, raw = _in_time(lambda: _send(request))
    except (urllib.error.URLError, http.client.InvalidURL, ValueError) as error:  # before the whole of it was sent
        raise Failed(f"{host} cannot be reached: {getattr(error, 'reason', error)}", may_pass=only_asks, may_be_done=False) from None
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"{host} has not answered: {error}", may_pass=only_asks, may_be_done=not only_asks) from None
    answer = _object(raw)
    if status in {200, 201} and answer:
        return answer
    code = _text(answer, "code", "error")
    said = f"{host} answered {status} {code}: {_text(answer, 'error_description', 'message') or 'nothing that could be read'}"[:TEXT_CHARACTERS_MAX]
    after = head.get("Retry-After", "")
    raise Failed(
        "\n".join(filter(None, (said, _hint(code, url, says), _claims(says)))),
        may_pass=status in {429, 503} or (only_asks and status in {500, 502, 504}),
        may_be_done=not only_asks and (status < 300 or status >= 500),
        pause_seconds=int(after) if re.fullmatch("[0-9]{1,9}", after) else None,
    )


def patiently(work: Callable[[], T], doubt: str = "") -> T:
    """What it gives, after a few pauses at most. Raises Refused, with `doubt` where any attempt may have been done all the same."""
    may_be_done = False
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return work()
        except Failed as failed:
            said, may_be_done = str(failed), may_be_done or failed.may_be_done
            pause = 2**attempt if failed.pause_seconds is None else failed.pause_seconds
            if not failed.may_pass:
                why = ""
            elif attempt == ATTEMPTS_MAX:
                why = f"(asked {attempt} times)"
            elif pause > PAUSE_SECONDS_MAX:
                why = f"It asks for a pause of {pause} seconds; {PAUSE_SECONDS_MAX} are waited at most."
            elif time.monotonic() + pause > _ends:
                why = f"A pause of {pause} seconds would be longer than the rest of the {ALL_SECONDS_MAX} that there are for everything."
            else:
                tell("notice", f"{said}; once more in {pause} seconds")
                time.sleep(pause)
                continue
            raise Refused("\n".join(filter(None, (said, why, doubt if may_be_done else "")))) from None
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
    """To later steps, through one of the runner's files: all of it, or Refused is raised. A step that is green with an output missing misleads the next one."""
    path = os.environ.get(file, "")
    if not path:
        raise Refused(f"{file} is not set: this runs as a step of GitHub Actions only.")
    for name, value in values.items():
        if not isinstance(value, (str, int)) or not VALUE.fullmatch(str(value)):
            raise Refused(f"The answer's {name} cannot be handed on: it is no line of text, or too long.")
    with Path(path).open("a", encoding="utf-8") as output:
        output.write("".join(f"{name}={value}\n" for name, value in values.items()))


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


def _send(request: urllib.request.Request) -> tuple[int, Message, bytes]:
    """Status, headers, and as much of the body as is looked at."""
    try:
        with _opener.open(request, timeout=CALL_SECONDS_MAX) as response:
            return response.status, response.headers, response.read(ANSWER_BYTES_MAX)
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read(ANSWER_BYTES_MAX)


def _in_time(work: Callable[[], T]) -> T:
    """What it gives or raises; TimeoutError when there is no time left.

    It is left behind in a thread then: a socket's time-out begins again with each byte, and Windows has no alarm.
    """
    done: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            done.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = done.get(timeout=max(0.0, _ends - time.monotonic()))
    except queue.Empty:
        raise TimeoutError(f"there was no end of it within {ALL_SECONDS_MAX} seconds") from None
    if error is not None:
        raise error
    return cast("T", result)


def _hint(code: str, url: str, says: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return HINTS.get(code, "").format(issuer=f"{parts.scheme}://{parts.netloc}", audience=_text(_payload(says), "aud"))


def _claims(token: str) -> str:
    claims = _payload(token)
    found = ", ".join(f"{name}={_text(claims, name)}" for name in CLAIMS if _text(claims, name))
    return f"The token says: {found}"[:TEXT_CHARACTERS_MAX] if found else ""


def _payload(token: str) -> dict[str, Any]:
    """What a token says, unverified and for the log only."""
    try:
        part = token.split(".")[1]
        return _object(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError):
        return {}


def _object(raw: bytes) -> dict[str, Any]:
    """The JSON object; an empty one when it is none."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(found: dict[str, Any], *names: str) -> str:
    """The first of these that is a text."""
    return next((found[name] for name in names if isinstance(found.get(name), str)), "")


if __name__ == "__main__":
    sys.exit(main())
