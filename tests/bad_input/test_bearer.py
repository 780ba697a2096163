"""Every way an access token can be wrong, on a guarded operation, on introspection and on revocation. Nothing leaves this machine for any of them."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.auth.forgery import b64, es256, forge, forge_hmac, now, other_last_character, parts, unb64
from tests.bad_input import wire
from tests.bad_input.conftest import Target, fresh_request_id
from tests.bad_input.operations import GUARDED, Operation

from agentidp.core.ids import new_id

FOREIGN = ec.generate_private_key(ec.SECP256R1())
FOREIGN_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
NOBODY = new_id(0)
OUTSIDE = "https://keys.attacker.example/jwks.json"


class Kit:
    """A live token taken apart, and the server's real key to sign the changed one with."""

    def __init__(self, target: Target) -> None:
        self.target, self.token = target, target.token
        self.header, self.claims = parts(target.token)
        key = target.server.instance.keys.current.private_key
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self.key = key
        self.jwk = target.server.instance.keys.current.public_jwk

    def claim(self, **changed: Any) -> str:
        """Really signed; some claims differ, those given as `...` are missing."""
        claims = {name: value for name, value in (self.claims | changed).items() if value is not ...}
        return forge(self.key, self.header, claims)

    def head(self, **changed: Any) -> str:
        """Really signed; some header parameters differ, those given as `...` are missing."""
        header = {name: value for name, value in (self.header | changed).items() if value is not ...}
        return forge(self.key, header, self.claims)

    def spki(self, encoding: Encoding) -> bytes:
        return self.key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)

    def hmac(self, secret: bytes) -> str:
        return forge_hmac(secret, self.header | {"alg": "HS256"}, self.claims)

    def split(self) -> list[str]:
        return self.token.split(".")

    def signed(self, header: str | bytes, claims: str | bytes) -> str:
        return forge(self.key, header, claims)

    def by_rsa(self, algorithm: str) -> str:
        signing_input = f"{b64(json.dumps(self.header | {'alg': algorithm}))}.{self.split()[1]}"
        padding = PSS(MGF1(SHA256()), 32) if algorithm.startswith("PS") else PKCS1v15()
        return f"{signing_input}.{b64(FOREIGN_RSA.sign(signing_input.encode(), padding, SHA256()))}"

    def by_ed25519(self, algorithm: str) -> str:
        signing_input = f"{b64(json.dumps(self.header | {'alg': algorithm}))}.{self.split()[1]}"
        return f"{signing_input}.{b64(ed25519.Ed25519PrivateKey.generate().sign(signing_input.encode()))}"

    def der(self) -> str:
        """The signature as ASN.1 instead of two numbers."""
        signing_input = self.token.rpartition(".")[0]
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

        return f"{signing_input}.{b64(self.key.sign(signing_input.encode(), ECDSA(SHA256())))}"

    def escaped_claims(self) -> str:
        """The claims with a name twice, once escaped."""
        return json.dumps(self.claims)[:-1] + ', "s\\u0075b": "' + new_id(0) + '"}'


Maker = Callable[[Kit], str]
_public: Callable[[ec.EllipticCurvePrivateKey], dict[str, str]] = lambda key: {  # noqa: E731 - one expression
    "kty": "EC",
    "crv": "P-256",
    "x": b64(key.public_key().public_numbers().x.to_bytes(32)),
    "y": b64(key.public_key().public_numbers().y.to_bytes(32)),
}

ALGORITHMS: dict[str, Maker] = {
    **{f"alg {name}": lambda kit, name=name: f"{b64(json.dumps(kit.header | {'alg': name}))}.{kit.split()[1]}." for name in ("none", "None", "NONE", "")},
    "alg none with our signature": lambda kit: kit.head(alg="none"),
    "alg none with any signature": lambda kit: f"{b64(json.dumps(kit.header | {'alg': 'none'}))}.{kit.split()[1]}.AAAA",
    "HS256 with our key in PEM": lambda kit: kit.hmac(kit.spki(Encoding.PEM)),
    "HS256 with our key in PEM, stripped": lambda kit: kit.hmac(kit.spki(Encoding.PEM).strip()),
    "HS256 with our key in DER": lambda kit: kit.hmac(kit.spki(Encoding.DER)),
    "HS256 with our key as a point": lambda kit: kit.hmac(kit.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)),
    "HS256 with our key as JSON": lambda kit: kit.hmac(json.dumps(kit.jwk).encode()),
    "HS256 with our key as compact JSON": lambda kit: kit.hmac(json.dumps(kit.jwk, separators=(",", ":")).encode()),
    "HS256 with x": lambda kit: kit.hmac(unb64(kit.jwk["x"])),
    "HS256 with the key id": lambda kit: kit.hmac(kit.jwk["kid"].encode()),
    "HS256 with nothing": lambda kit: kit.hmac(b""),
    **{
        f"{name} that says so, by our key": lambda kit, name=name: kit.head(alg=name)
        for name in ("ES384", "ES512", "ES256K", "EdDSA", "Ed25519", "HS256", "es256", "ES256 ")
    },
    **{f"{name} by another key": lambda kit, name=name: kit.by_rsa(name) for name in ("RS256", "PS256", "RS384")},
    **{f"{name} by another key": lambda kit, name=name: kit.by_ed25519(name) for name in ("EdDSA", "Ed25519")},
    **{f"alg is {value!r}": lambda kit, value=value: kit.head(alg=value) for value in (None, 1, True, ["ES256"], {"a": "ES256"})},
    "alg is missing": lambda kit: kit.head(alg=...),
}
KEYS: dict[str, Maker] = {
    "a foreign key with our kid": lambda kit: forge(FOREIGN, kit.header, kit.claims),
    "kid is missing": lambda kit: kit.head(kid=...),
    **{
        f"kid is {value!r:.40}": lambda kit, value=value: kit.head(kid=value)
        for value in (
            "",
            "../../etc/passwd",
            "/dev/null",
            "' OR '1'='1",
            "x' UNION SELECT '",
            "\x00",
            "x" * 1000,
            0,
            1,
            True,
            None,
            [],
            ["a"],
            {"a": "b"},
            1e300,
        )
    },
    "an embedded key": lambda kit: forge(FOREIGN, kit.header | {"jwk": _public(FOREIGN)}, kit.claims),
    "an embedded key with a kid of its own": lambda kit: forge(FOREIGN, kit.header | {"kid": "mine", "jwk": _public(FOREIGN) | {"kid": "mine"}}, kit.claims),
    "our key embedded": lambda kit: kit.head(jwk=kit.jwk),
    **{f"{name} by a foreign key": lambda kit, name=name: forge(FOREIGN, kit.header | {name: OUTSIDE}, kit.claims) for name in ("jku", "x5u")},
    **{f"{name} by our key": lambda kit, name=name: kit.head(**{name: OUTSIDE}) for name in ("jku", "x5u")},
    "x5c": lambda kit: forge(FOREIGN, kit.header | {"x5c": ["MIIB"]}, kit.claims),
    "x5t": lambda kit: kit.head(x5t="AAAA"),
    "x5t#S256": lambda kit: kit.head(**{"x5t#S256": "AAAA"}),
}
HEADERS: dict[str, Maker] = {
    **{f"crit {value!r}": lambda kit, value=value: kit.head(crit=value) for value in ([], ["exp"], ["b64"], "exp", None)},
    "b64 false": lambda kit: kit.head(b64=False),
    "b64 false and critical": lambda kit: kit.head(b64=False, crit=["b64"]),
    "b64 true": lambda kit: kit.head(b64=True),
    "zip": lambda kit: kit.head(zip="DEF"),
    "enc": lambda kit: kit.head(enc="A128GCM"),
    **{
        f"typ {value!r}": lambda kit, value=value: kit.head(typ=value)
        for value in (..., "JWT", "", "AT+JWT", "at+jwt ", "application/at+jwt", "at+JWT\x00", "dpop+jwt", "logout+jwt", None, 1, ["at+jwt"], {"a": 1})
    },
    "a header name twice": lambda kit: kit.signed(json.dumps(kit.header)[:-1] + ', "alg": "none"}', json.dumps(kit.claims)),
    "a header that is a list": lambda kit: kit.signed("[]", json.dumps(kit.claims)),
    "a header that is text": lambda kit: kit.signed('"ES256"', json.dumps(kit.claims)),
    "a header of 3 KiB": lambda kit: kit.head(note="x" * 3000),
    "a deep header": lambda kit: kit.signed(json.dumps(kit.header)[:-1] + ', "x": ' + "[" * 500 + "]" * 500 + "}", json.dumps(kit.claims)),
    "a header that is not UTF-8": lambda kit: kit.signed(b'{"alg":"ES256","kid":"\xff"}', json.dumps(kit.claims)),
    "a header with a lone surrogate": lambda kit: kit.signed(json.dumps(kit.header)[:-1] + ', "x": "\\ud800"}', json.dumps(kit.claims)),
}
CLAIMS: dict[str, Maker] = {
    "expired": lambda kit: kit.claim(iat=now() - 7200, exp=now() - 3600),
    "expired now": lambda kit: kit.claim(iat=now() - 60, exp=now()),
    "from the future": lambda kit: kit.claim(iat=now() + 120, exp=now() + 3600),
    "lives for ever": lambda kit: kit.claim(exp=10**12),
    "lives for longer than a number can say": lambda kit: kit.claim(exp=10**40),
    "from before all time": lambda kit: kit.claim(iat=-(10**40)),
    **{
        f"{name} is {value!r:.20}": lambda kit, name=name, value=value: kit.claim(**{name: value})
        for name in ("exp", "iat", "epoch")
        for value in (..., None, "1", "9999999999", 1.5, True, [], {}, -1, float("1e18"))
    },
    "exp is infinite": lambda kit: kit.signed(json.dumps(kit.header), json.dumps(kit.claims | {"exp": 0}).replace('"exp": 0', '"exp": 1e999')),
    "exp is NaN": lambda kit: kit.claim(exp=float("nan")),
    "exp of 5000 digits": lambda kit: kit.signed(json.dumps(kit.header), json.dumps(kit.claims | {"exp": 0}).replace('"exp": 0', '"exp": ' + "9" * 5000)),
    "another epoch": lambda kit: kit.claim(epoch=kit.claims["epoch"] + 1),
    "the epoch before": lambda kit: kit.claim(epoch=kit.claims["epoch"] - 1),
    "an epoch beyond all numbers": lambda kit: kit.claim(epoch=10**40),
    **{
        f"iss is {value!r:.30}": lambda kit, value=value: kit.claim(iss=value)
        for value in (..., None, "", "https://other.example", 1, [], ["http://localhost"], {"a": 1})
    },
    "iss with a slash": lambda kit: kit.claim(iss=kit.claims["iss"] + "/"),
    "iss in upper case": lambda kit: kit.claim(iss=kit.claims["iss"].upper()),
    "iss in a list": lambda kit: kit.claim(iss=[kit.claims["iss"]]),
    **{
        f"{name} is {value!r:.30}": lambda kit, name=name, value=value: kit.claim(**{name: value})
        for name in ("organization_id", "sub", "credential_id", "jti")
        for value in (..., None, "", 1, [], {}, "x", "' OR 1=1 --", "\x00")
    },
    "a foreign organization": lambda kit: kit.claim(organization_id=kit.target.server.instance.operator_organization_id),
    "an unknown organization": lambda kit: kit.claim(organization_id=new_id(0)),
    "an organization in capitals": lambda kit: kit.claim(organization_id=kit.claims["organization_id"].upper()),
    "an unknown agent": lambda kit: kit.claim(sub=NOBODY, client_id=NOBODY),
    "another agent than the credential's": lambda kit: kit.claim(sub=kit.target.agent.agent_id, client_id=kit.target.agent.agent_id),
    "an unknown credential": lambda kit: kit.claim(credential_id=new_id(0)),
    "another agent's credential": lambda kit: kit.claim(credential_id=kit.target.ids["credentialId"]),
    "another client than the subject": lambda kit: kit.claim(client_id=kit.target.agent.agent_id),
    **{f"client_id is {value!r}": lambda kit, value=value: kit.claim(client_id=value) for value in (..., None, "", 1, [])},
    **{f"scope is {value!r}": lambda kit, value=value: kit.claim(scope=value) for value in (..., None, 1, ["openid"], {"openid": 1}, True)},
    **{f"aud is {value!r}": lambda kit, value=value: kit.claim(aud=value) for value in (..., None, 1, [], [1], {}, [None], True)},
    "a claim twice": lambda kit: kit.signed(json.dumps(kit.header), json.dumps(kit.claims)[:-1] + ', "sub": "' + new_id(0) + '"}'),
    "a claim twice, once escaped": lambda kit: kit.signed(json.dumps(kit.header), kit.escaped_claims()),
    "claims that are a list": lambda kit: kit.signed(json.dumps(kit.header), json.dumps([kit.claims])),
    "claims that are text": lambda kit: kit.signed(json.dumps(kit.header), json.dumps(json.dumps(kit.claims))),
    "claims with a byte order mark": lambda kit: kit.signed(json.dumps(kit.header), b"\xef\xbb\xbf" + json.dumps(kit.claims).encode()),
    "claims with garbage behind": lambda kit: kit.signed(json.dumps(kit.header), json.dumps(kit.claims) + "x"),
    "deep claims": lambda kit: kit.claim(x=json.loads("[" * 100 + "]" * 100)),
}
FORMS: dict[str, Maker] = {
    "two parts": lambda kit: kit.token.rpartition(".")[0],
    "four parts": lambda kit: f"{kit.token}.AAAA",
    "five parts": lambda kit: f"{kit.token}.AAAA.AAAA",
    "a trailing dot": lambda kit: f"{kit.token}.",
    "a leading dot": lambda kit: f".{kit.token}",
    "only dots": lambda _: "..",
    "no signature": lambda kit: kit.token.rpartition(".")[0] + ".",
    "no claims": lambda kit: "{0}..{2}".format(*kit.split()),
    "no header": lambda kit: ".{1}.{2}".format(*kit.split()),
    "JSON serialization": lambda kit: json.dumps(dict(zip(("protected", "payload", "signature"), kit.split(), strict=True)), separators=(",", ":")),
    "padding on the header": lambda kit: kit.token.replace(".", "=.", 1),
    "padding on the signature": lambda kit: kit.token + "==",
    "other bits in the last character": lambda kit: kit.token.rpartition(".")[0] + "." + other_last_character(kit.split()[2]),
    "another alphabet": lambda kit: kit.signed(b'{"alg":"ES256","x":"\xc3\xbf\xc3\xbf\xc3\xbf"}', json.dumps(kit.claims)).replace("_", "/").replace("-", "+"),
    "one character short": lambda kit: kit.token[:-1],
    "one character more": lambda kit: kit.token + "A",
    "a signature of zeros": lambda kit: kit.token.rpartition(".")[0] + "." + b64(bytes(64)),
    "a signature in ASN.1": lambda kit: kit.der(),
    "a signature with a zero in front": lambda kit: kit.token.rpartition(".")[0] + "." + b64(b"\x00" + unb64(kit.split()[2])),
    "the signature of other claims": lambda kit: ".".join([kit.split()[0], b64(json.dumps(kit.claims | {"scope": "admin:orgs"})), kit.split()[2]]),
    "a space inside": lambda kit: kit.token.replace(".", " .", 1),
    "a tab inside": lambda kit: kit.token.replace(".", "\t.", 1),
    "a comma behind": lambda kit: kit.token + ",",
    "twice": lambda kit: f"{kit.token} {kit.token}",
    "twice with a comma": lambda kit: f"{kit.token},{kit.token}",
    "in quotes": lambda kit: f'"{kit.token}"',
    "percent-encoded": lambda kit: kit.token.replace(".", "%2E"),
    "beyond ASCII": lambda kit: kit.token + "\xff",
    "digits beyond ASCII": lambda kit: kit.token[:-1] + "\xb2",
    "too long": lambda kit: kit.claim(note="x" * 9000),
    "20 KiB": lambda _: "a" * 20_000,
    "one word": lambda _: "x",
    "an id": lambda _: new_id(0),
    "the client secret": lambda kit: kit.target.agent.client_secret,
}
NEVER_IN_A_FORM = {"beyond ASCII", "digits beyond ASCII"}  # bytes that a form cannot carry
WRONG = ALGORITHMS | KEYS | HEADERS | CLAIMS | FORMS
CHALLENGE = 'Bearer error="invalid_token"'


def guarded_answer(target: Target, *authorization: str) -> tuple[wire.Answer, list[Any]]:
    """GET /agent-info with these headers; the answer and the audit events of the request."""
    request_id = fresh_request_id()
    lines = [*(f"Authorization: {value}" for value in authorization), f"X-Request-Id: {request_id}"]
    answer = wire.exchange(target.url, wire.head("GET", "/agent-info", *lines))
    return answer, target.events(request_id)


def assert_refused(target: Target, token: str, name: str) -> None:
    """401 with the challenge and an event on the guarded operation; inactive to introspection; without effect on revocation."""
    answer, events = guarded_answer(target, f"Bearer {token}")
    assert answer.status == 401, name
    assert answer.headers["www-authenticate"].startswith(CHALLENGE), name
    assert answer.json() == {"code": "UNAUTHORIZED", "message": "A valid Bearer token is required to access this resource."}, name
    assert [(event.action, event.outcome) for event in events] == [("auth.failed", "failure")], name


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * bool(number % 8)) for number, name in enumerate(WRONG)])
def test_a_wrong_token_is_refused_by_a_guarded_operation(target: Target, name: str) -> None:
    assert_refused(target, WRONG[name](Kit(target)), name)


@pytest.mark.slow
@pytest.mark.parametrize("family", [ALGORITHMS, KEYS, HEADERS, CLAIMS, FORMS], ids=["algorithms", "keys", "headers", "claims", "forms"])
def test_a_wrong_token_is_inactive_and_revoking_it_does_nothing(target: Target, family: dict[str, Maker]) -> None:
    kit = Kit(target)
    for name, make in family.items():
        if name in NEVER_IN_A_FORM:
            continue
        token = make(kit)
        seen = target.client.post("/api/v1/token/introspect", data={"token": token}, headers=target.bearer)
        assert (seen.status_code, seen.json()) == (200, {"active": False}), name
        request_id = fresh_request_id()
        if has_our_claims(target, token):
            continue  # a token that was ours once may be revoked once more: that is an effect, and no harm
        revoked = target.client.post("/api/v1/token/revoke", data={"token": token}, headers=target.bearer | {"X-Request-Id": request_id})
        assert (revoked.status_code, revoked.content) == (200, b""), name
        assert target.events(request_id) == [], name
    assert target.client.get("/agent-info", headers=target.bearer).status_code == 200, "the token that all of them were made of lives"


def has_our_claims(target: Target, token: str) -> bool:
    """Whether everything that is signed is right and only the database says no."""
    from agentidp.auth.jws import InvalidToken
    from agentidp.auth.jwt import verify_access_token

    instance = target.server.instance
    try:
        target.server.await_(verify_access_token(token, instance.keys, issuer=instance.settings.issuer, now=instance.clock()))
    except InvalidToken:
        return False
    return True


@pytest.mark.parametrize("operation", GUARDED, ids=str)
def test_no_guarded_operation_takes_a_forged_token(target: Target, operation: Operation) -> None:
    kit = Kit(target)
    id_token = target.agent.token_response().json()["id_token"]
    for name in (
        "alg none",
        "HS256 with our key in PEM",
        "a foreign key with our kid",
        "expired",
        "another epoch",
        "an embedded key",
        "an unknown organization",
    ):
        response = target.client.request(operation.method, operation.path(), headers={"Authorization": f"Bearer {WRONG[name](kit)}"})
        assert response.status_code == 401, name
        assert response.headers["www-authenticate"].startswith(CHALLENGE), name
    for header in ({"Authorization": f"Bearer {id_token}"}, {}, {"Authorization": f"Basic {target.token}"}):
        assert target.client.request(operation.method, operation.path(), headers=header).status_code == 401
    for hidden in (f"?access_token={target.token}", ""):
        response = target.client.request(
            operation.method, operation.path() + hidden, headers={"Cookie": f"access_token={target.token}", "X-Api-Key": target.token}
        )
        assert response.status_code == 401


def test_an_id_token_is_no_access_token(target: Target) -> None:
    assert_refused(target, target.agent.token_response("openid").json()["id_token"], "ID token")


def test_a_token_for_another_audience_is_refused_here_but_is_active(target: Target) -> None:
    for resource in ("https://other.example", target.url + "/api", target.url.replace("http", "https")):
        token = target.agent.token("agents:read", resource=resource)
        assert_refused(target, token, resource)
        seen = target.client.post("/api/v1/token/introspect", data={"token": token}, headers=target.bearer)
        assert (seen.json()["active"], seen.json()["aud"]) == (True, resource)


def test_a_token_for_several_audiences_of_which_we_are_one_is_good(target: Target) -> None:
    token = target.agent.token("openid", resource=["https://other.example", target.url])
    assert target.client.get("/agent-info", headers={"Authorization": f"Bearer {token}"}).status_code == 200


NO_BEARER = {
    "nothing": [],
    "no token": ["Bearer"],
    "blank": ["Bearer   "],
    "another scheme": ["Basic {token}"],
    "DPoP without a token": ["DPoP"],
    "bearer and DPoP": ["Bearer {token}", "DPoP {token}"],
    "another way to prove it": ["GNAP {token}"],
    "no scheme": ["{token}"],
    "a longer scheme": ["BearerX {token}"],
    "a tab behind the scheme": ["Bearer\t{token}"],
    "a colon": ["Bearer: {token}"],
    "twice": ["Bearer {token}", "Bearer {token}"],
    "twice, one empty": ["Bearer {token}", ""],
    "two schemes": ["Bearer {token}", "Basic YTpi"],
}


@pytest.mark.parametrize("name", NO_BEARER)
def test_without_exactly_one_bearer_token_the_challenge_names_no_error(target: Target, name: str) -> None:
    answer, events = guarded_answer(target, *(value.format(token=target.token) for value in NO_BEARER[name]))
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer resource_metadata="), name
    assert [(event.action, event.outcome) for event in events] == [("auth.failed", "failure")]


def test_the_scheme_is_written_in_any_case(target: Target) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        answer, events = guarded_answer(target, f"{scheme} {target.token}")
        assert (answer.status, events) == (200, [])


def test_nul_in_a_token_never_reaches_the_application(target: Target) -> None:
    answer, _ = guarded_answer(target, f"Bearer {target.token}\x00")
    assert answer.status == 400


def test_the_kit_makes_good_tokens_when_nothing_is_wrong(target: Target) -> None:
    """Otherwise every refusal above might be for the wrong reason."""
    kit = Kit(target)
    for token in (kit.claim(), kit.head(), forge(kit.key, json.dumps(kit.header, indent=1), kit.claims), kit.claim(unknown="x"), kit.head(cty="x")):
        answer, _ = guarded_answer(target, f"Bearer {token}")
        assert answer.status == 200
    signing_input = kit.token.rpartition(".")[0]
    assert guarded_answer(target, f"Bearer {signing_input}.{es256(kit.key, signing_input)}")[0].status == 200
    assert kit.jwk["kid"] == b64(
        hashlib.sha256(json.dumps({name: kit.jwk[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":")).encode()).digest()
    )
