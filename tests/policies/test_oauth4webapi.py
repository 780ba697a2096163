"""oauth4webapi, the strictest client there is, against a running server: all that discovery lists works, and every refusal is one that OAuth knows."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.node import installed, run
from tests.policies.conftest import Issuers, Trust
from tests.proofs import OwnKey, register

from agentidp.auth.jws import ALGORITHMS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def client_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(Path(__file__).parent / "oauth4webapi", tmp_path_factory.mktemp("npm") / "oauth4webapi")


@pytest.fixture
def done(trust: Trust, issuers: Issuers, client_folder: Path) -> dict[str, Any]:
    """What the client reports."""
    agent = trust.tenant.agent("agents:read", "tokens:read", "openid")
    trust.policy(agentId=agent.agent_id)
    keys = {algorithm: OwnKey(algorithm) for algorithm in ALGORITHMS}
    for key in keys.values():
        register(agent, key)
    given = {
        "issuer": trust.tenant.server.url,
        "clientId": agent.agent_id,
        "agentId": agent.agent_id,
        "clientSecret": agent.client_secret,
        "keys": {name: base64.b64encode(key.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())).decode() for name, key in keys.items()},
        "outsideTokens": [issuers.github.token(trust.audience) for _ in range(2)],
    }
    reported: dict[str, Any] = json.loads(run(["node", "client.mjs"], client_folder, json.dumps(given)))
    return reported | {"agentId": agent.agent_id, "issuer": trust.tenant.server.url}


def test_all_that_discovery_lists_works(done: dict[str, Any]) -> None:
    assert (done["oidc"], done["oauth2"], done["resource"]) == (done["issuer"], done["issuer"], [done["issuer"]])
    methods = ["client_secret_basic", "client_secret_post", *(f"private_key_jwt {algorithm}" for algorithm in ALGORITHMS)]
    assert done["methods"] == {name: ["bearer", "agents:read tokens:read", done["agentId"], True, False] for name in methods}
    assert done["identified"] == [done["agentId"], ["ES256"], True]
    bound = ["dpop", True, done["agentId"], True, "dpop", [401, ["dpop", "invalid_token"]]]
    assert done["bound"] == dict.fromkeys(ALGORITHMS, bound), "the last: as a plain bearer"
    assert done["grants"] == ["agents:read", "urn:ietf:params:oauth:token-type:access_token", "agents:read"]
    assert done["refusals"] == {
        "replayed": [400, "invalid_grant", True],
        "garbage": [400, "invalid_grant", True],
        "unacceptable": [400, "invalid_request", True],
        "wider": [400, "invalid_scope", True],
        "audience": [400, "invalid_target", True],
        "no subject": [400, "invalid_request", True],
        "secret": [401, ["basic", None]],
        "scope": [400, "invalid_scope", True],
        "grant": [400, "unsupported_grant_type", True],
        "bearer": [401, ["bearer", "invalid_token"]],
    }
