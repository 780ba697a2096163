"""Every way in which a JWT can be wrong, shown as a partner's: an answer each time, never an error, and never a look at where the token points to."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.auth.forgery import b64, forge, forge_hmac, other_last_character
from tests.fakes.fake_issuers import KEYS, FakeIssuer, IssuerKey
from tests.federation.conftest import VERIFY, Federation

from agentidp.core import limits

Forge = Callable[[FakeIssuer, dict[str, Any], dict[str, Any]], str]


def _changed(**claims: Any) -> Forge:
    """With other claims: a function is given the time of signing, `...` means left out."""

    def forged(issuer: FakeIssuer, header: dict[str, Any], known: dict[str, Any]) -> str:
        now = int(time.time())
        changed = {name: value(now) if callable(value) else value for name, value in claims.items()}
        return issuer.key.sign(header, {name: value for name, value in (known | changed).items() if value is not ...})

    return forged


def _headed(**changed: Any) -> Forge:
    return lambda issuer, header, claims: issuer.key.sign({name: value for name, value in (header | changed).items() if value is not ...}, claims)


def _hmac(issuer: FakeIssuer, header: dict[str, Any], claims: dict[str, Any]) -> str:
    public = issuer.key.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return forge_hmac(public, header | {"alg": "HS256"}, claims)


def _unsigned(algorithm: str, signature: str) -> Forge:
    return lambda _, header, claims: f"{b64(json.dumps(header | {'alg': algorithm}))}.{b64(json.dumps(claims))}.{signature}"


def _embedded(issuer: FakeIssuer, header: dict[str, Any], claims: dict[str, Any]) -> str:
    own = IssuerKey(header["kid"])
    return own.sign(header | {"jwk": own.jwk}, claims)


def _text(change: Callable[[str], str]) -> Forge:
    return lambda issuer, header, claims: change(issuer.key.sign(header, claims))


def _parts(change: Callable[[list[str]], list[str]]) -> Forge:
    return _text(lambda token: ".".join(change(token.split("."))))


FORGERIES: dict[str, Forge] = {
    "none": _unsigned("none", ""),
    "none with a signature": _unsigned("none", "AA"),
    "NONE": _unsigned("NONE", "AA"),
    "HMAC with the public key": _hmac,
    "HMAC with the JWK": lambda issuer, header, claims: forge_hmac(json.dumps(issuer.key.jwk).encode(), header | {"alg": "HS256"}, claims),
    "HMAC with nothing": lambda _, header, claims: forge_hmac(b"", header | {"alg": "HS256"}, claims),
    "another algorithm's name": _headed(alg="RS512"),
    "PSS": _headed(alg="PS256"),
    "ES256 under the key's id": lambda _, header, claims: forge(ec.generate_private_key(ec.SECP256R1()), header | {"alg": "ES256"}, claims),
    "no algorithm": _headed(alg=...),
    "an algorithm that is no text": _headed(alg=["RS256"]),
    "a key in the header": _embedded,
    "a jku": _headed(jku="https://evil.example/keys"),
    "an x5u": _headed(x5u="https://evil.example/keys"),
    "an x5c": _headed(x5c=["AA"]),
    "crit": _headed(crit=["exp"]),
    "b64": _headed(b64=False),
    "zip": _headed(zip="DEF"),
    "no kid": _headed(kid=...),
    "a kid that is a path": _headed(kid="../../etc/passwd"),
    "a kid that is SQL": _headed(kid="' OR 1=1 --"),
    "a kid that is a number": _headed(kid=1),
    "typ dpop+jwt": _headed(typ="dpop+jwt"),
    "typ logout+jwt": _headed(typ="logout+jwt"),
    "typ no text": _headed(typ=1),
    "a header twice": lambda issuer, header, claims: issuer.key.sign(json.dumps(header)[:-1] + ',"alg":"RS256"}', claims),
    "a claim twice": lambda issuer, header, claims: issuer.key.sign(header, json.dumps(claims)[:-1] + ',"sub":"other"}'),
    "claims that are a list": lambda issuer, header, _: issuer.key.sign(header, "[]"),
    "claims that are no JSON": lambda issuer, header, _: issuer.key.sign(header, "{"),
    "NaN": lambda issuer, header, claims: issuer.key.sign(header, json.dumps(claims | {"x": float("nan")})),
    "a lone surrogate": lambda issuer, header, claims: issuer.key.sign(header, json.dumps(claims)[:-1] + ',"x":"\\ud800"}'),
    "no UTF-8": lambda issuer, header, _: issuer.key.sign(header, b'{"x":"\xff"}'),
    "too deep": lambda issuer, header, claims: issuer.key.sign(header, json.dumps(claims)[:-1] + f',"x":{"[" * 100}{"]" * 100}}}'),
    "expired": _changed(exp=lambda now: now - 1, iat=lambda now: now - 60, nbf=lambda now: now - 60),
    "no exp": _changed(exp=...),
    "exp as text": _changed(exp=lambda now: str(now + 300)),
    "exp with a fraction": _changed(exp=lambda now: now + 300.5),
    "exp true": _changed(exp=True),
    "exp at the end of time": _changed(exp=10**18),
    "no iat": _changed(iat=...),
    "iat in the future": _changed(iat=lambda now: now + 600, exp=lambda now: now + 900),
    "iat as text": _changed(iat=str),
    "nbf in the future": _changed(nbf=lambda now: now + 600, exp=lambda now: now + 900),
    "nbf as text": _changed(nbf="0"),
    "no sub": _changed(sub=...),
    "sub empty": _changed(sub=""),
    "sub a number": _changed(sub=1),
    "jti a number": _changed(jti=1),
    "no iss": _changed(iss=...),
    "iss a list": _changed(iss=["x"]),
    "iss with a NUL": _changed(iss="https://id.partner.example/\x00"),
    "iss nobody's": _changed(iss="https://id.partner.example"),
    "iss enormous": _changed(iss="https://id.partner.example/" + "x" * 4000),
    "another claim than was signed": _parts(lambda part: [part[0], b64(json.dumps({"sub": "other"})), part[2]]),
    "a signature cut": _text(lambda token: token[:-4]),
    "no signature": _parts(lambda part: [part[0], part[1], ""]),
    "two parts": _parts(lambda part: part[:2]),
    "four parts": _parts(lambda part: [*part, part[2]]),
    "padding": _text(lambda token: token + "=="),
    "another spelling": _parts(lambda part: [part[0], part[1], other_last_character(part[2])]),
    "white space": _text(lambda token: f" {token}\n"),
    "standard base64": _text(lambda token: token.replace("-", "+").replace("_", "/") + "+/"),
    "a NUL": _text(lambda token: token + "\x00"),
    "not ASCII": _text(lambda token: token + "é"),
    "nothing": _text(lambda _: "."),
    "as long as may be": _text(lambda _: "a" * limits.TOKEN_CHARACTERS_MAX),
}


@pytest.mark.parametrize("how", FORGERIES)
def test_a_bad_token_is_an_answer(federation: Federation, issuer: FakeIssuer, how: str) -> None:
    federation.partner(issuer)
    claims = issuer.claims(federation.audience)
    if how == "a NUL":
        refused = federation.call("POST", VERIFY, json={"token": FORGERIES[how](issuer, issuer.header(), claims)})
        assert refused.status_code == 400 or not refused.json()["valid"]
        return
    assert federation.reason(FORGERIES[how](issuer, issuer.header(), claims))
    assert federation.verify(issuer.key.sign(issuer.header(), claims))["valid"], "the same without the flaw"
    assert set(issuer.requests) == {KEYS}, "whatever a token points to, nobody goes there"
