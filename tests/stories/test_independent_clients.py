"""Other people's libraries against a server process of its own: two OAuth clients get tokens, two JOSE libraries verify them from the JWKS alone."""

import base64
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import joserfc.jwk
import joserfc.jwt
import jwt
import pytest
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc import jws
from oauthlib.oauth2 import BackendApplicationClient
from requests_oauthlib import OAuth2Session as RequestsOAuth2Session
from tests.processes import ServerProcess, serving

pytestmark = pytest.mark.slow

ALGORITHMS = ("ES256", "RS256", "Ed25519")


@pytest.fixture(scope="module", params=ALGORITHMS)
def idp(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("idp"), TOKENS__ALGORITHM=request.param) as server:
        yield server


@pytest.fixture
def algorithm(idp: ServerProcess) -> str:
    return idp.env["AGENTIDP_TOKENS__ALGORITHM"]


def get_with_authlib(idp: ServerProcess) -> dict[str, Any]:
    with OAuth2Session(idp.first["clientId"], idp.first["clientSecret"], scope="agents:read openid") as session:
        session.trust_env = False
        return dict(session.fetch_token(f"{idp.url}/api/v1/token", grant_type="client_credentials"))


def get_with_requests_oauthlib(idp: ServerProcess) -> dict[str, Any]:
    client = BackendApplicationClient(client_id=idp.first["clientId"], scope=["agents:read", "openid"])
    with RequestsOAuth2Session(client=client) as session:
        session.trust_env = False
        return dict(session.fetch_token(f"{idp.url}/api/v1/token", client_secret=idp.first["clientSecret"], include_client_id=True))


def verify_with_joserfc(token: str, key_set: dict[str, Any], algorithm: str, kind: str) -> dict[str, Any]:
    decoded = joserfc.jwt.decode(token, joserfc.jwk.KeySet.import_key_set(key_set), algorithms=[algorithm])  # type: ignore[arg-type]
    assert decoded.header["typ"] == kind
    return dict(decoded.claims)


def verify_with_pyjwt(token: str, key_set: dict[str, Any], algorithm: str, kind: str) -> dict[str, Any]:
    """PyJWT knows RFC 9864's `Ed25519` only by the older name EdDSA: it is given the key, and told what the name means."""
    header = jwt.get_unverified_header(token)
    assert header["typ"] == kind
    assert header["alg"] == algorithm
    document = next(key for key in key_set["keys"] if key["kid"] == header["kid"])
    known = jwt.PyJWS()
    if algorithm not in jwt.algorithms.get_default_algorithms():
        known.register_algorithm(algorithm, jwt.algorithms.OKPAlgorithm())
        document = document | {"alg": "EdDSA"}
    decoder = jwt.PyJWT()
    decoder._jws = known
    claims: dict[str, Any] = decoder.decode(token, jwt.PyJWK(document).key, algorithms=[algorithm], options={"verify_aud": False})
    return claims


@pytest.mark.parametrize("get", [get_with_authlib, get_with_requests_oauthlib], ids=["authlib", "requests-oauthlib"])
@pytest.mark.parametrize("verify", [verify_with_joserfc, verify_with_pyjwt], ids=["joserfc", "pyjwt"])
def test_a_token_from_one_library_is_verified_by_another(idp: ServerProcess, algorithm: str, get: Any, verify: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if get is get_with_requests_oauthlib:
        monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")  # loopback without TLS
    answer = get(idp)
    assert answer["token_type"] == "Bearer"
    key_set = httpx2.get(f"{idp.url}/.well-known/jwks.json", trust_env=False).json()

    claims = verify(answer["access_token"], key_set, algorithm, "at+jwt")
    assert (claims["iss"], claims["aud"]) == (idp.url, idp.url)
    assert claims["sub"] == claims["client_id"] == idp.first["agentId"]
    assert claims["organization_id"] == idp.first["organizationId"]
    assert set(claims["scope"].split()) == {"agents:read", "openid"}
    assert claims["exp"] - claims["iat"] == answer["expires_in"] == 3600
    assert claims["iat"] <= time.time() < claims["exp"]

    identity = verify(answer["id_token"], key_set, algorithm, "JWT")
    assert (identity["iss"], identity["aud"], identity["sub"]) == (idp.url, idp.first["clientId"], idp.first["agentId"])
    half = hashlib.sha256(answer["access_token"].encode()).digest()[:16]  # SHA-512 only for Ed448 and the 384 and 512 families
    assert identity["at_hash"] == base64.urlsafe_b64encode(half).rstrip(b"=").decode()


@pytest.mark.parametrize("verify", [verify_with_joserfc, verify_with_pyjwt], ids=["joserfc", "pyjwt"])
def test_the_libraries_refuse_a_changed_token(idp: ServerProcess, algorithm: str, verify: Any) -> None:
    token = idp.token(scope="agents:read")["access_token"]
    key_set = httpx2.get(f"{idp.url}/.well-known/jwks.json", trust_env=False).json()
    header, payload, signature = token.split(".")
    changed = base64.urlsafe_b64encode(base64.urlsafe_b64decode(payload + "==").replace(b"agents:read", b"admin:orgs!")).rstrip(b"=").decode()
    with pytest.raises((joserfc.errors.BadSignatureError, jwt.InvalidSignatureError)):
        verify(f"{header}.{changed}.{signature}", key_set, algorithm, "at+jwt")


def test_the_key_set_holds_public_keys_of_the_algorithm_only(idp: ServerProcess, algorithm: str) -> None:
    keys = httpx2.get(f"{idp.url}/.well-known/jwks.json", trust_env=False).json()["keys"]
    assert len(keys) == 2  # the one that signs and the next
    assert {key["alg"] for key in keys} == {algorithm}
    private = {"d", "p", "q", "dp", "dq", "qi", "k", "oth"}
    assert not [name for key in keys for name in key if name in private]
    token = idp.token(scope="agents:read")["access_token"]
    assert jws.extract_compact(token.encode()).headers()["kid"] in {key["kid"] for key in keys}


def test_a_client_finds_its_way_by_discovery_alone(idp: ServerProcess, algorithm: str) -> None:
    metadata = httpx2.get(f"{idp.url}/.well-known/openid-configuration", trust_env=False).json()
    assert metadata["issuer"] == idp.url
    assert algorithm in metadata["id_token_signing_alg_values_supported"]
    with OAuth2Session(idp.first["clientId"], idp.first["clientSecret"], scope="openid", token_endpoint_auth_method="client_secret_post") as session:
        session.trust_env = False
        session.fetch_token(metadata["token_endpoint"], grant_type="client_credentials")
        assert session.get(metadata["userinfo_endpoint"]).json()["sub"] == idp.first["agentId"]
        introspected = session.introspect_token(metadata["introspection_endpoint"], token=session.token["access_token"])
        assert introspected.json()["active"] is True
        assert session.revoke_token(metadata["revocation_endpoint"], token=session.token["access_token"]).status_code == 200
        assert session.get(metadata["userinfo_endpoint"]).status_code == 401


def test_authlib_authenticates_with_a_key(idp: ServerProcess, algorithm: str) -> None:
    """private_key_jwt as Authlib does it: an hour's life, no key id; the audience is the issuer, and an assertion for the token endpoint is refused."""
    kinds: dict[str, Any] = {"ES256": (joserfc.jwk.ECKey, "P-256"), "RS256": (joserfc.jwk.RSAKey, 2048), "Ed25519": (joserfc.jwk.OKPKey, "Ed25519")}
    kind, size = kinds[algorithm]
    key = kind.generate_key(size)
    agent, bearer = idp.first["clientId"], {"Authorization": f"Bearer {idp.token(scope='agents:read')['access_token']}"}
    body = {"kind": "public_key", "jwk": key.as_dict(private=False)}
    created = httpx2.post(f"{idp.url}/api/v1/agents/{agent}/credentials", json=body, headers=bearer, trust_env=False)
    assert (created.status_code, created.json()["hint"]) == (201, key.thumbprint())
    for audience, is_good in ((idp.url, True), (f"{idp.url}/api/v1/token", False)):
        methods = dict.fromkeys(("token_endpoint_auth_method", "revocation_endpoint_auth_method"), "private_key_jwt")
        with OAuth2Session(agent, key, scope="agents:read", **methods) as session:
            session.trust_env = False
            session.register_client_auth_method(PrivateKeyJWT(audience, alg=algorithm))
            if is_good:
                token = session.fetch_token(f"{idp.url}/api/v1/token", grant_type="client_credentials")
                assert token["scope"] == "agents:read"
                assert session.introspect_token(f"{idp.url}/api/v1/token/introspect", token=token["access_token"]).json()["active"] is True
                assert session.revoke_token(f"{idp.url}/api/v1/token/revoke", token=token["access_token"]).status_code == 200
            else:
                with pytest.raises(OAuthError, match="invalid_client"):
                    session.fetch_token(f"{idp.url}/api/v1/token", grant_type="client_credentials")
