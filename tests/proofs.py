"""A key of an agent's own, and what it signs: client assertions and DPoP proofs. Nothing here uses the product's encoder."""

import hashlib
import uuid
from typing import Any, Literal

import httpx2
import joserfc.jwk
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from tests.auth.forgery import b64
from tests.serving import RunningServer
from tests.tenants import TestAgent

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
TOKEN = "/api/v1/token"
Algorithm = Literal["ES256", "RS256", "Ed25519"]


class OwnKey:
    """A key pair. `sign` leaves out what is None in header and claims."""

    def __init__(self, algorithm: Algorithm = "ES256") -> None:
        self.algorithm = algorithm
        self.private = {
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "Ed25519": ed25519.Ed25519PrivateKey.generate,
        }[algorithm]()
        pem = self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[attr-defined]
        kinds: dict[str, Any] = {"ES256": joserfc.jwk.ECKey, "RS256": joserfc.jwk.RSAKey, "Ed25519": joserfc.jwk.OKPKey}
        self.pem, self.key = pem, kinds[algorithm].import_key(pem)
        self.jwk: dict[str, Any] = self.key.as_dict(private=False)
        self.jwk.pop("kid", None)
        self.thumbprint = str(self.key.thumbprint())

    def sign(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        kept = [{name: value for name, value in part.items() if value is not None} for part in ({"alg": self.algorithm} | header, claims)]
        return jwt.encode(kept[0], kept[1], self.key, algorithms=[self.algorithm], default_type=None)

    def assertion(self, agent: TestAgent, header: dict[str, Any] | None = None, **claims: Any) -> str:
        now = self._now(agent.server)
        good = {"iss": agent.agent_id, "sub": agent.agent_id, "aud": agent.server.url, "iat": now, "exp": now + 60, "jti": str(uuid.uuid4())}
        return self.sign(header or {}, good | claims)

    def proof(
        self, server: RunningServer, method: str, path: str, nonce: str | None, token: str | None = None, header: dict[str, Any] | None = None, /, **claims: Any
    ) -> str:
        hashed = b64(hashlib.sha256(token.encode()).digest()) if token is not None else None
        good = {"htm": method, "htu": server.url + path, "iat": self._now(server), "jti": str(uuid.uuid4()), "nonce": nonce, "ath": hashed}
        return self.sign({"typ": "dpop+jwt", "jwk": self.jwk} | (header or {}), good | claims)

    @staticmethod
    def _now(server: RunningServer) -> int:
        return server.clock() // 1000


def register(agent: TestAgent, key: OwnKey, **body: Any) -> str:
    """Give the agent the key as a credential, by its own token. Returns the credential's id."""
    with agent.client("openid") as client:
        response = client.post(f"/api/v1/agents/{agent.agent_id}/credentials", json={"kind": "public_key", "jwk": key.jwk} | body)
    assert response.status_code == 201, response.text
    return str(response.json()["credentialId"])


def asserted(assertion: str, **form: Any) -> dict[str, Any]:
    """A token request that an assertion authenticates; None takes a parameter out."""
    data = {"grant_type": "client_credentials", "client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion} | form
    return {name: value for name, value in data.items() if value is not None}


def nonce_of(server: RunningServer) -> str:
    """As any client gets one: by asking with a proof that has none."""
    with server.client() as client:
        answer = client.post(TOKEN, data={"grant_type": "client_credentials"}, headers={"DPoP": OwnKey().proof(server, "POST", TOKEN, None)})
    assert answer.json()["error"] == "use_dpop_nonce"
    return str(answer.headers["dpop-nonce"])


def bound_token(agent: TestAgent, key: OwnKey, scope: str | None = None) -> str:
    """A token of the agent that is bound to the key."""
    proof = key.proof(agent.server, "POST", TOKEN, nonce_of(agent.server))
    form = {"grant_type": "client_credentials", "client_id": agent.agent_id, "client_secret": agent.client_secret}
    with agent.server.client() as client:
        answer = client.post(TOKEN, data=form | ({"scope": scope} if scope else {}), headers={"DPoP": proof})
    assert answer.json()["token_type"] == "DPoP", answer.text
    return str(answer.json()["access_token"])


def with_proof(client: httpx2.Client, method: str, path: str, token: str, proof: str, **options: Any) -> httpx2.Response:
    return client.request(method, path, headers={"Authorization": f"DPoP {token}", "DPoP": proof}, **options)
