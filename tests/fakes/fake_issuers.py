"""Issuers that are none: GitHub's, GitLab's, a cluster's and anybody's, with real keys and real HTTP on a real port. What a test sets on one counts from the next request on.

The claims are those of their documentation: docs.github.com/actions/reference/security/oidc, docs.gitlab.com/ci/secrets/id_token_authentication, KEP-1205.
"""

import contextlib
import json
import ssl
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from tests.auth.forgery import b64

DISCOVERY, KEYS = "/.well-known/openid-configuration", "/keys"


class IssuerKey:
    """An RSA key with its id, as such issuers have them."""

    def __init__(self, key_id: str | None = None) -> None:
        self.key, self.key_id = rsa.generate_private_key(public_exponent=65537, key_size=2048), key_id or uuid.uuid4().hex

    @property
    def jwk(self) -> dict[str, Any]:
        numbers = self.key.public_key().public_numbers()
        n, e = (b64(number.to_bytes((number.bit_length() + 7) // 8)) for number in (numbers.n, numbers.e))
        return {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": self.key_id, "n": n, "e": e}

    def sign(self, header: Any, claims: Any) -> str:
        """RS256 over these parts, whatever the header says. Text and bytes go in as they are, everything else as JSON."""
        signing_input = ".".join(b64(part if isinstance(part, str | bytes) else json.dumps(part)) for part in (header, claims))
        return f"{signing_input}.{b64(self.key.sign(signing_input.encode(), PKCS1v15(), SHA256()))}"


class FakeIssuer:
    """`answers` takes the place of what is at a path: (status, headers, body). `path` is below which the issuer lives."""

    life_seconds = 300

    def __init__(self, path: str = "") -> None:
        self.path, self.key = path, IssuerKey()
        self.published = [self.key.jwk]
        self.caching: dict[str, str] = {"Cache-Control": "public, max-age=300"}
        self.is_down, self.refused = False, 0
        self.pause_seconds = 0.0
        self.drips = False
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.requests: list[str] = []
        self.authorizations: list[str | None] = []
        self.url = ""

    def header(self) -> dict[str, Any]:
        return {"typ": "JWT", "alg": "RS256", "kid": self.key.key_id}

    def claims(self, audience: str) -> dict[str, Any]:
        now = int(time.time())
        return {"iss": self.url, "sub": "somebody", "aud": audience, "iat": now, "nbf": now, "exp": now + self.life_seconds, "jti": str(uuid.uuid4())}

    def token(self, audience: str, **changed: Any) -> str:
        """A token that the issuer really signed. Claims given as `...` are missing."""
        claims = {name: value for name, value in (self.claims(audience) | changed).items() if value is not ...}
        return self.key.sign(self.header(), claims)

    def rotate(self, *, keep: bool = False) -> None:
        """A new key signs from now on; the old one is published no longer, unless it is kept."""
        self.key = IssuerKey()
        self.published = [*(self.published if keep else ()), self.key.jwk]

    def reply(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.requests.append(path)
        if path in self.answers:
            return self.answers[path]
        headers = {"Content-Type": "application/json"} | self.caching
        if path == self.path + DISCOVERY:
            return 200, headers, json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}{KEYS}"}).encode()
        if path == self.path + KEYS:
            return 200, headers, json.dumps({"keys": self.published}).encode()
        return 404, {}, b""


class FakeGitHub(FakeIssuer):
    """A push to `main` of acme/screener, repository 74 of owner 65. `is_numbered`: `sub` in the form of after 2026-07-15."""

    def __init__(self, *, is_numbered: bool = True) -> None:
        super().__init__()
        self.is_numbered = is_numbered

    def reply(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Also what a job asks for its token: docs.github.com/actions/reference/security/oidc."""
        asked = urlsplit(path)
        if asked.path == "/request":
            audience = parse_qs(asked.query)["audience"][0]
            return 200, {"Content-Type": "application/json"}, json.dumps({"value": self.token(audience)}).encode()
        return super().reply(path)

    def header(self) -> dict[str, Any]:
        return super().header() | {"x5t": "eBZ_cn3sXYAd0ch4THBKHIgOwOE"}

    def claims(self, audience: str) -> dict[str, Any]:
        names = ("acme@65", "screener@74") if self.is_numbered else ("acme", "screener")
        return super().claims(audience) | {
            "sub": f"repo:{'/'.join(names)}:ref:refs/heads/main",
            "repository": "acme/screener",
            "repository_id": "74",
            "repository_owner": "acme",
            "repository_owner_id": "65",
            "repository_visibility": "private",
            "ref": "refs/heads/main",
            "ref_type": "branch",
            "ref_protected": "true",
            "sha": "71d2e0f1a4b6c8d9e0f1a2b3c4d5e6f708192a3b",
            "event_name": "push",
            "environment": "production",
            "workflow": "deploy",
            "workflow_ref": "acme/screener/.github/workflows/deploy.yml@refs/heads/main",
            "job_workflow_ref": "acme/screener/.github/workflows/deploy.yml@refs/heads/main",
            "runner_environment": "github-hosted",
            "run_id": "30433642",
            "run_number": "1",
            "run_attempt": "1",
            "actor": "octocat",
            "actor_id": "12",
        }


class FakeGitLab(FakeIssuer):
    """A pipeline on `main` of acme/screener, project 28 of namespace 9."""

    def claims(self, audience: str) -> dict[str, Any]:
        return super().claims(audience) | {
            "sub": "project_path:acme/screener:ref_type:branch:ref:main",
            "namespace_id": "9",
            "namespace_path": "acme",
            "project_id": "28",
            "project_path": "acme/screener",
            "user_id": "1",
            "user_login": "octocat",
            "pipeline_id": "455",
            "pipeline_source": "push",
            "job_id": "1123",
            "ref": "main",
            "ref_type": "branch",
            "ref_path": "refs/heads/main",
            "ref_protected": "true",
            "runner_id": 1,
            "runner_environment": "gitlab-hosted",
            "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        }


class FakeKubernetes(FakeIssuer):
    """A pod of the service account `screener` in the namespace `agents`; the audience is a list, and the header has no `typ`."""

    life_seconds = 3607

    def header(self) -> dict[str, Any]:
        return {"alg": "RS256", "kid": self.key.key_id}

    def claims(self, audience: str) -> dict[str, Any]:
        return super().claims(audience) | {
            "aud": [audience],
            "sub": "system:serviceaccount:agents:screener",
            "kubernetes.io": {
                "namespace": "agents",
                "node": {"name": "worker", "uid": "517eb86e-b863-451b-bf70-86cb61439a3a"},
                "pod": {"name": "screener-0", "uid": "0d8b260e-ef0e-45fb-be8e-ff44f97722e8"},
                "serviceaccount": {"name": "screener", "uid": "e6a8680e-d103-4cce-80ea-03acbbeacf7d"},
            },
        }


class FakePartner(FakeIssuer):
    """Another company's identity provider, whose agent `screener-7` is of its organization `talent`."""

    def claims(self, audience: str) -> dict[str, Any]:
        return super().claims(audience) | {"sub": "screener-7", "organization_id": "talent"}


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # of five, some of many that come at once are refused


@contextlib.contextmanager
def serving_issuer(issuer: FakeIssuer, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[FakeIssuer]:
    """The fake on a port of its own of 127.0.0.1, for the length of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if issuer.is_down:
                issuer.refused += 1
                self.close_connection = True
                return
            issuer.authorizations.append(self.headers.get("Authorization"))
            time.sleep(issuer.pause_seconds)
            status, headers, body = issuer.reply(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):  # a client that has seen enough
                if issuer.drips:
                    for byte in body:
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.2)
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Tests read their own output."""

    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    issuer.url = f"{'https' if tls else 'http'}://{host}:{server.server_address[1]}{issuer.path}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
