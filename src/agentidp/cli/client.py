"""How commands talk to a running server: as an agent, over HTTP, with the same API as everybody else."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx2
from cyclopts import Parameter

from agentidp.core.config import FIRST_CREDENTIAL_FILE
from agentidp.core.errors import Problem, WrongSettings

_TIMEOUT_SECONDS = 15
_SILENCE_SECONDS = 40  # of a stream, which gives a sign of life every 15
_EARLY_SECONDS = 30  # a token is renewed this long before it ends


class Refused(Problem):
    """The server has answered, and not as it was asked to."""

    def __init__(self, detail: str, status_code: int) -> None:
        super().__init__(detail)
        self.status_code = status_code


@Parameter(name="*")
@dataclass(frozen=True)
class Login:
    """Which server, and as whom. What is not given is read from first-credential.json in the data folder."""

    url: Annotated[str | None, Parameter(env_var="AGENTIDP_URL", help="Where the server is.")] = None
    client_id: Annotated[str | None, Parameter(env_var="AGENTIDP_CLIENT_ID", help="The agent's id.")] = None
    client_secret: Annotated[str | None, Parameter(env_var="AGENTIDP_CLIENT_SECRET", help="Its secret; better in the environment.")] = field(
        default=None, repr=False
    )
    data_dir: Annotated[Path, Parameter(env_var="AGENTIDP_DATA_DIR", help="Folder with first-credential.json.")] = Path("data")


def get_token(login: Login, scope: str | None, resources: list[str]) -> dict[str, Any]:
    """A token answer. Raises WrongSettings without a credential, Problem when the server refuses or does not answer."""
    url, client_id, client_secret = _complete(login)
    form: dict[str, Any] = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": client_secret}
    form |= ({"scope": scope} if scope else {}) | ({"resource": resources} if resources else {})
    return _send("POST", f"{url}/api/v1/token", data=form)


def call(login: Login, method: str, path: str, *, scope: str, **options: Any) -> dict[str, Any]:
    """One API call with a token of its own. Raises what `get_token` does."""
    url, _, _ = _complete(login)
    token = get_token(login, scope, [])["access_token"]
    return _send(method, f"{url}{path}", headers={"Authorization": f"Bearer {token}"}, **options)


class Session:
    """Many calls with one token, which is renewed in time. Its methods raise what `get_token` does."""

    def __init__(self, login: Login, scope: str) -> None:
        self._login, self._scope = login, scope
        self._url, _, _ = _complete(login)
        self._token, self._good_until = "", 0.0

    def get(self, path: str, query: dict[str, Any]) -> dict[str, Any]:
        return _send("GET", f"{self._url}{path}", headers=self._headers(), params=query)

    def stream(self, path: str, query: dict[str, Any]) -> Iterator[bytes]:
        """The body, as it comes."""
        with self._opened(path, query, _TIMEOUT_SECONDS) as response:
            yield from response.iter_bytes()

    def events(self, path: str, query: dict[str, Any]) -> Iterator[httpx2.ServerSentEvent]:
        """Server-sent events, as they come; those without data only tell where the stream is."""
        with self._opened(path, query, _SILENCE_SECONDS) as response:
            yield from httpx2.EventSource(response)

    @contextlib.contextmanager
    def _opened(self, path: str, query: dict[str, Any], seconds: float) -> Iterator[httpx2.Response]:
        url = f"{self._url}{path}"
        options: dict[str, Any] = {"headers": self._headers(), "params": query, "timeout": seconds, "follow_redirects": False, "trust_env": False}
        try:
            with httpx2.stream("GET", url, **options) as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response, response.json())
                yield response
        except (httpx2.HTTPError, ValueError) as error:
            raise Problem(f"no usable answer from {url}: {error}") from error

    def _headers(self) -> dict[str, str]:
        if time.monotonic() >= self._good_until:
            answer = get_token(self._login, self._scope, [])
            self._token, self._good_until = answer["access_token"], time.monotonic() + answer["expires_in"] - _EARLY_SECONDS
        return {"Authorization": f"Bearer {self._token}"}


def _complete(login: Login) -> tuple[str, str, str]:
    path = login.data_dir / FIRST_CREDENTIAL_FILE
    try:
        stored = json.loads(path.read_text("utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise WrongSettings(f"{path}: {error}") from error
    url, client_id = login.url or stored.get("issuer"), login.client_id or stored.get("clientId")
    client_secret = login.client_secret or (stored.get("clientSecret") if client_id == stored.get("clientId") else None)
    if not url or not client_id or not client_secret:
        raise WrongSettings(f"set AGENTIDP_URL, AGENTIDP_CLIENT_ID and AGENTIDP_CLIENT_SECRET, or run where {path} is")
    return url.rstrip("/"), client_id, client_secret


def _send(method: str, url: str, **options: Any) -> dict[str, Any]:
    try:
        response = httpx2.request(method, url, timeout=_TIMEOUT_SECONDS, follow_redirects=False, trust_env=False, **options)
        body = response.json()
    except (httpx2.HTTPError, ValueError) as error:
        raise Problem(f"no usable answer from {url}: {error}") from error
    if response.is_error:
        raise _refusal(response, body)
    assert isinstance(body, dict)
    return body


def _refusal(response: httpx2.Response, body: dict[str, Any]) -> Refused:
    code, message = body.get("code", body.get("error")), body.get("message", body.get("error_description"))
    return Refused(f"the server refused ({response.status_code} {code}): {message}", response.status_code)
