"""What a token request may say and what its claims become, without a database."""

import pytest

from agentidp.core.errors import Forbidden, InvalidScopes
from agentidp.tokens.rules import (
    InvalidClient,
    InvalidTarget,
    IssuedToken,
    NotYourToken,
    UnauthorizedClient,
    UnsupportedGrantType,
    access_token_claims,
    expiry,
    id_token_claims,
    requested_audience,
    requested_scope,
)

TOKEN = IssuedToken("org", "agent", "credential", "token", 3, "agents:read openid", ("https://one.example",), 100, 200)


@pytest.mark.parametrize("value", ["a", "a b", "agents:read openid", "!#[]~", "x" * 1024])
def test_requested_scope(value: str) -> None:
    assert requested_scope({"scope": [value]}) == value


def test_no_scope_is_none() -> None:
    assert requested_scope({}) is None


@pytest.mark.parametrize("value", ["", " ", " a", "a ", "a  b", "a\tb", "a\nb", 'a"b', "a\\b", "ä", "x" * 1025, "a\x00"])
def test_malformed_scope(value: str) -> None:
    with pytest.raises(InvalidScopes):
        requested_scope({"scope": [value]})


@pytest.mark.parametrize(
    ("resources", "audience"),
    [
        ((), ("default",)),
        (("https://API.Example.com",), ("https://api.example.com",)),
        (("HTTPS://api.example.com/",), ("https://api.example.com",)),
        (("https://api.example.com/V1/",), ("https://api.example.com/V1/",)),
        (("https://api.example.com/?a=B",), ("https://api.example.com/?a=B",)),
        (("https://api.example.com:8443/x",), ("https://api.example.com:8443/x",)),
        (("urn:example:Service",), ("urn:example:Service",)),
        (("https://[2001:DB8::1]/x",), ("https://[2001:db8::1]/x",)),
        (("https://a.example", "https://b.example"), ("https://a.example", "https://b.example")),
        (("https://a.example", "https://A.example/"), ("https://a.example",)),
        (tuple(f"urn:x:{number}" for number in range(10)), tuple(f"urn:x:{number}" for number in range(10))),
    ],
)
def test_requested_audience(resources: tuple[str, ...], audience: tuple[str, ...]) -> None:
    assert requested_audience({"resource": list(resources)} if resources else {}, "default") == audience


@pytest.mark.parametrize(
    "resource",
    [
        "api.example.com",
        "/relative",
        "//host/path",
        "https://a.example#part",
        "https://a.example#",
        "https://a.example/a b",
        "https://",
        "http:///path",
        "https:path",
        "https://[::1",
        "https://ä.example",
        "1x:y",
        'https://a.example/"',
        "https://a.example/\n",
        "urn:x:" + "y" * 512,
    ],
)
def test_invalid_target(resource: str) -> None:
    with pytest.raises(InvalidTarget):
        requested_audience({"resource": [resource]}, "default")


def test_too_many_resources() -> None:
    with pytest.raises(InvalidTarget):
        requested_audience({"resource": [f"urn:x:{number}" for number in range(11)]}, "default")


@pytest.mark.parametrize(
    ("bound_ms", "expires_at"),
    [(None, 3700), (3_700_000, 3700), (4_000_000, 3700), (3_699_999, 3699), (150_000, 150)],
)
def test_expiry(bound_ms: int | None, expires_at: int) -> None:
    assert expiry(100, 3600, bound_ms) == expires_at


def test_access_token_claims() -> None:
    assert access_token_claims(TOKEN, "https://id.example") == {
        "iss": "https://id.example",
        "sub": "agent",
        "aud": "https://one.example",
        "client_id": "agent",
        "scope": "agents:read openid",
        "iat": 100,
        "exp": 200,
        "jti": "token",
        "organization_id": "org",
        "credential_id": "credential",
        "epoch": 3,
    }


def test_several_audiences_are_a_list() -> None:
    several = IssuedToken("o", "a", "c", "t", 1, "", ("urn:a", "urn:b"), 1, 2)
    assert access_token_claims(several, "i")["aud"] == ["urn:a", "urn:b"]
    assert access_token_claims(several, "i")["scope"] == ""


def test_id_token_claims() -> None:
    assert id_token_claims(TOKEN, "https://id.example", "hash") == {
        "iss": "https://id.example",
        "sub": "agent",
        "aud": "agent",
        "iat": 100,
        "exp": 200,
        "at_hash": "hash",
        "organization_id": "org",
    }


def test_errors() -> None:
    assert InvalidClient().headers["WWW-Authenticate"].startswith("Basic ")
    named = [(error.status, error.oauth_error) for error in (InvalidClient, UnsupportedGrantType, UnauthorizedClient, InvalidTarget, NotYourToken)]
    expected = [(401, "invalid_client"), (400, "unsupported_grant_type"), (400, "unauthorized_client"), (400, "invalid_target"), (403, "insufficient_scope")]
    assert named == expected
    assert issubclass(NotYourToken, Forbidden)
