"""Project Wycheproof's JSON Web Signature vectors, where they lie beside the repository. The key of a vector decides the algorithm, as in the product."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from tests.auth.forgery import unb64

from agentidp.auth.jws import InvalidToken, PublicKey, UnverifiedToken, decode_base64url, parse_unverified, verify_signature

FOLDER = Path(__file__).parents[2].parent / "shared" / "vectors" / "wycheproof"
FILE = FOLDER / "json_web_signature_test.json"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the Wycheproof vectors are not beside the repository")
GROUPS: list[dict[str, Any]] = json.loads(FILE.read_text("utf-8"))["testGroups"] if FILE.exists() else []
CASES = [(group, case) for group in GROUPS for case in group["tests"]]
SUPPORTED = ("ES256", "RS256", "Ed25519")
# Refused by the vectors for what their key is for. Ours come from the key store, where every key is for signatures.
ABOUT_THE_KEY = {"rejectWrongUse", "rejectWrongKeyOps"}


def number(text: str) -> int:
    return int.from_bytes(unb64(text))


def key_of(jwk: dict[str, Any]) -> tuple[str, PublicKey] | None:
    """The public key with its algorithm; None where we have no such kind of key."""
    if jwk.get("kty") == "EC" and jwk["crv"] == "P-256":
        return "ES256", ec.EllipticCurvePublicNumbers(number(jwk["x"]), number(jwk["y"]), ec.SECP256R1()).public_key()
    if jwk.get("kty") == "RSA":
        return jwk.get("alg", "RS256"), rsa.RSAPublicNumbers(number(jwk["e"]), number(jwk["n"])).public_key()
    return None


def accept(jwk: dict[str, Any], text: object) -> None:
    """All that the product does with a token before it looks at claims. Raises InvalidToken."""
    if not isinstance(text, str):
        raise InvalidToken("not text")
    token = parse_unverified(text)
    key = key_of(jwk)
    if key is None:
        raise InvalidToken("no such key can be in the key store")
    verify_signature(*key, token)


def verify_without_profile(jwk: dict[str, Any], text: str) -> None:
    """The same, for vectors whose payload is no JSON object: the decoder, the algorithm and the signature alone. Raises InvalidToken."""
    if text.count(".") != 2:
        raise InvalidToken("not three parts")
    header, payload, signature = (decode_base64url(part) for part in text.split("."))
    key = key_of(jwk)
    if key is None:
        raise InvalidToken("no such key can be in the key store")
    parsed = json.loads(header)
    if "jwk" in parsed:
        raise InvalidToken("embedded key")
    assert isinstance(payload, bytes)
    verify_signature(*key, UnverifiedToken(parsed, {}, text.rpartition(".")[0].encode(), signature))


@pytest.mark.parametrize(("group", "case"), CASES, ids=[f"{case['tcId']} {case['comment']}" for _, case in CASES])
def test_vector(group: dict[str, Any], case: dict[str, Any]) -> None:
    jwk = group.get("public", {})
    if case["result"] != "valid":
        with pytest.raises(InvalidToken):
            accept(jwk, case["jws"])
        if isinstance(case["jws"], str) and case["comment"] not in ABOUT_THE_KEY:
            with pytest.raises((InvalidToken, ValueError)):
                verify_without_profile(jwk, case["jws"])
        return
    with pytest.raises(InvalidToken):  # no vector's payload is a JSON object, which is what a token of ours is
        accept(jwk, case["jws"])
    if jwk.get("alg") in SUPPORTED:
        verify_without_profile(jwk, case["jws"])
    else:
        with pytest.raises((InvalidToken, ValueError)):
            verify_without_profile(jwk, case["jws"])


def test_the_vectors_hold_what_these_tests_are_about() -> None:
    good = [case for group, case in CASES if case["result"] == "valid" and group.get("public", {}).get("alg") in SUPPORTED]
    assert len(good) >= 9
    assert len(CASES) > 400


def test_an_oracle_agrees_on_the_good_es256_vector() -> None:
    group, case = next((group, case) for group, case in CASES if group["comment"] == "es256" and case["result"] == "valid")
    key = key_of(group["public"])
    assert key is not None
    assert isinstance(key[1], ec.EllipticCurvePublicKey)
    signature = unb64(case["jws"].rpartition(".")[2])
    der = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
    from cryptography.hazmat.primitives.hashes import SHA256

    key[1].verify(der, case["jws"].rpartition(".")[0].encode(), ec.ECDSA(SHA256()))
    with pytest.raises(InvalidSignature):
        key[1].verify(der, b"x", ec.ECDSA(SHA256()))
