"""An issuer of our own for the measuring of exchanges: discovery and key set on a port, and tokens signed beforehand, since each is good for one exchange."""

import base64
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from bench.load import http
from bench.products import FORM, Product, call

_GRANT = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer"
_LIFE_SECONDS = 3600


class Issuer:
    """RS256 with 2048 bits, as GitHub, GitLab and clusters sign."""

    def __init__(self) -> None:
        self.key, self.url = rsa.generate_private_key(public_exponent=65537, key_size=2048), ""

    def documents(self) -> dict[str, Any]:
        numbers = self.key.public_key().public_numbers()
        jwk = {"kty": "RSA", "kid": "1", "n": _b64(numbers.n.to_bytes(256)), "e": "AQAB"}
        return {"/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}, "/keys": {"keys": [jwk]}}

    def token(self, audience: str, number: int) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "sub": "bench", "aud": audience, "iat": now, "exp": now + _LIFE_SECONDS, "jti": f"{number}"}
        signing_input = ".".join(_b64(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "1"}, claims))
        return f"{signing_input}.{_b64(self.key.sign(signing_input.encode(), PKCS1v15(), SHA256()))}"


def exchanges(product: Product, issuer: Issuer, count: int) -> list[str]:
    """So many requests, each with a token of its own, by a trust policy of the product's first agent."""
    first = product.first()
    bearer = {"Authorization": f"Bearer {product.operator_token('policies:write+agents:read+tokens:read')}"}
    policy = {
        "provider": "oidc",
        "issuer": issuer.url,
        "conditions": {"sub": {"equals": "bench"}},
        "agentId": first["agentId"],
        "scopes": ["agents:read", "tokens:read"],
    }
    audience = call(f"{product.url}/api/v1/oidc/trust-policies", policy, bearer)["audience"]
    return [http("POST", "/api/v1/token", product.port, FORM, f"{_GRANT}&assertion={issuer.token(audience, number)}") for number in range(count)]


@contextlib.contextmanager
def serving() -> Iterator[Issuer]:
    """The issuer on a port of its own."""
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(issuer.documents().get(self.path)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Cache-Control", "max-age=3600")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """What is measured says enough."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    issuer.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
