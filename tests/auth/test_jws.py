"""The pre-parser of tokens and the signatures. RFC 7515 appendix A.3 for ES256."""

import json
import re
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.auth.forgery import b64, unb64

from agentidp.auth.jws import (
    RSA_BITS,
    InvalidToken,
    PrivateKey,
    UnverifiedToken,
    decode_base64url,
    encode_base64url,
    parse_unverified,
    sign,
    verify_signature,
)
from agentidp.core import limits

RFC7515_A3 = (
    "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
)
RFC7515_A3_KEY = ec.EllipticCurvePublicNumbers(
    int.from_bytes(unb64("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU")),
    int.from_bytes(unb64("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0")),
    ec.SECP256R1(),
).public_key()


def compact(header: object, payload: object = None, signature: bytes = b"x") -> str:
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, {} if payload is None else payload)]
    return ".".join([*(b64(part) for part in parts), b64(signature)])


def test_rfc7515_a3() -> None:
    token = parse_unverified(RFC7515_A3)
    assert token.header == {"alg": "ES256"}
    assert token.payload == {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}
    verify_signature("ES256", RFC7515_A3_KEY, token)
    with pytest.raises(InvalidToken, match="signature is wrong"):
        verify_signature("ES256", RFC7515_A3_KEY, parse_unverified(RFC7515_A3.replace("eyJpc3MiOiJqb2Ui", "eyJpc3MiOiJqb2Yi")))


def test_the_parts_of_a_token() -> None:
    token = parse_unverified(compact({"alg": "ES256", "kid": "k"}, {"a": 1}, b"\x01\x02"))
    assert token == UnverifiedToken(
        {"alg": "ES256", "kid": "k"}, {"a": 1}, f"{b64(json.dumps({'alg': 'ES256', 'kid': 'k'}))}.{b64(json.dumps({'a': 1}))}".encode(), b"\x01\x02"
    )


REFUSED: dict[str, tuple[str, str]] = {
    "empty": ("", "three"),
    "two parts": ("YQ.YQ", "three"),
    "four parts": ("e30.e30.YQ.YQ", "three"),
    "empty part": ("e30..YQ", "three"),
    "line end": (compact({"alg": "ES256"}) + "\n", "three"),
    "padding": (compact({"alg": "ES256"}) + "==", "three"),
    "another alphabet": ("e30.e30.+/", "three"),
    "letters beyond ASCII": ("e30.e30.é", "three"),
    "impossible length": ("e30.e30.A", "not base64url"),
    "unused bits": ("e30.e30.YR", "canonical"),
    "too long": ("A" * (limits.TOKEN_CHARACTERS_MAX + 1), "too long"),
    "long header": (compact({"alg": "ES256", "x": "x" * limits.TOKEN_HEADER_BYTES_MAX}), "header too long"),
    "header no JSON": (compact(b"{"), "header is not valid JSON"),
    "header no object": (compact([]), "header is not an object"),
    "payload no JSON": (compact({"alg": "ES256"}, b"{"), "payload is not valid JSON"),
    "payload no object": (compact({"alg": "ES256"}, b'"x"'), "payload is not an object"),
    "payload with a name twice": (compact({"alg": "ES256"}, b'{"a":1,"a":2}'), "payload has a name twice"),
    "no alg": (compact({}), "must be strings"),
    "alg no text": (compact({"alg": 1}), "must be strings"),
    "kid no text": (compact({"alg": "ES256", "kid": 1}), "must be strings"),
    **{
        name: (compact({"alg": "ES256", name: "x"}), f"{name} is not accepted")
        for name in ("crit", "b64", "jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256", "zip", "enc")
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    text, reason = REFUSED[name]
    with pytest.raises(InvalidToken, match=re.escape(reason)):
        parse_unverified(text)


@pytest.mark.parametrize(
    ("algorithm", "make"),
    [
        ("ES256", lambda: ec.generate_private_key(ec.SECP256R1())),
        ("RS256", lambda: rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)),
        ("Ed25519", ed25519.Ed25519PrivateKey.generate),
    ],
)
def test_signs_and_verifies(algorithm: str, make: Callable[[], PrivateKey]) -> None:
    key = make()
    signing_input = compact({"alg": algorithm}).rpartition(".")[0]
    signature = sign(key, signing_input.encode())
    token = parse_unverified(f"{signing_input}.{b64(signature)}")
    verify_signature(algorithm, key.public_key(), token)
    for wrong in ("none", "HS256", "EdDSA", "", algorithm.lower()):
        with pytest.raises(InvalidToken, match="not the key's"):
            verify_signature(wrong, key.public_key(), token)
    for changed in (signature[:-1] + bytes([signature[-1] ^ 1]), signature + b"\x00", signature[1:], b""):
        with pytest.raises(InvalidToken, match="signature"):
            verify_signature(algorithm, key.public_key(), UnverifiedToken(token.header, {}, token.signing_input, changed))


def test_a_name_that_no_key_has_is_not_accepted() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    for name in ("none", "HS256", "ES384", "RS256"):
        with pytest.raises(InvalidToken, match="algorithm is not accepted"):
            verify_signature(name, key.public_key(), parse_unverified(compact({"alg": name})))


def test_a_short_rsa_key_verifies_nothing() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    signing_input = compact({"alg": "RS256"}).rpartition(".")[0]
    token = parse_unverified(f"{signing_input}.{b64(sign(key, signing_input.encode()))}")
    with pytest.raises(InvalidToken, match="too short"):
        verify_signature("RS256", key.public_key(), token)


@given(st.binary(max_size=100))
@settings(derandomize=True)
def test_base64url_of_any_bytes_comes_back(raw: bytes) -> None:
    assert decode_base64url(encode_base64url(raw)) == raw


@given(st.text("ABYZabz059-_=+/ \n.", max_size=12))
@settings(derandomize=True, max_examples=300)
def test_one_text_only_decodes_to_given_bytes(text: str) -> None:
    try:
        raw = decode_base64url(text)
    except InvalidToken:
        return
    assert encode_base64url(raw) == text


@given(st.text(max_size=60) | st.text("eyJ.-_30=", max_size=60))
@settings(derandomize=True, max_examples=200)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        token = parse_unverified(text)
    except InvalidToken:
        return
    assert isinstance(token.header["alg"], str)
