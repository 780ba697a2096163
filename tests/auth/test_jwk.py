"""Keys as JWK, against the vectors of RFC 7638 section 3.1 and RFC 8037 appendix A."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.auth.forgery import b64, unb64

from agentidp.auth import jwk
from agentidp.auth.jws import Algorithm, parse_unverified, sign, verify_signature

RFC7638 = {
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e": "AQAB",
    "alg": "RS256",
    "kid": "2011-04-29",
}
RFC8037_PRIVATE = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"
RFC8037_PUBLIC = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
FIELD = 2**255 - 19
ORDER_8 = int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little")  # as libsodium's list has it
ALGORITHMS: list[Algorithm] = ["ES256", "RS256", "Ed25519"]


def test_rfc7638_thumbprint() -> None:
    assert jwk.thumbprint(RFC7638) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_rfc8037_public_key_and_thumbprint() -> None:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(unb64(RFC8037_PRIVATE))
    public = jwk.public_jwk(key, "Ed25519")
    assert (public["kty"], public["crv"], public["x"]) == ("OKP", "Ed25519", RFC8037_PUBLIC)
    assert public["kid"] == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_rfc8037_signature() -> None:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(unb64(RFC8037_PRIVATE))
    signing_input = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    assert b64(sign(key, signing_input)) == "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_generated_key_survives_storage_and_signs(algorithm: Algorithm) -> None:
    key = jwk.generate(algorithm)
    again = jwk.from_bytes(jwk.to_bytes(key))
    public = jwk.public_jwk(again, algorithm)
    assert public == jwk.public_jwk(key, algorithm)
    assert (public["use"], public["alg"], public["kid"]) == ("sig", algorithm, jwk.thumbprint(public))
    assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & public.keys(), "nothing private"
    signing_input = f"{b64(json.dumps({'alg': algorithm}))}.{b64('{}')}"
    verify_signature(algorithm, key.public_key(), parse_unverified(f"{signing_input}.{b64(sign(again, signing_input.encode()))}"))


def test_coordinates_keep_their_leading_zeros() -> None:
    """RFC 7518 section 6.2.1.2: as long as the field, whatever the number."""
    keys = (ec.derive_private_key(number, ec.SECP256R1()) for number in range(1, 2000))
    small = next(key for key in keys if key.public_key().public_numbers().x < 2**248)
    assert len(unb64(jwk.public_jwk(small, "ES256")["x"])) == 32


def test_the_kinds_of_keys_are_as_strong_as_promised() -> None:
    key = jwk.generate("RS256")
    assert isinstance(key, rsa.RSAPrivateKey)
    assert (key.key_size, key.public_key().public_numbers().e) == (2048, 65537)
    curve = jwk.generate("ES256")
    assert isinstance(curve, ec.EllipticCurvePrivateKey)
    assert curve.curve.name == "secp256r1"


def test_a_key_of_another_kind_is_not_loaded() -> None:
    raw = x25519.X25519PrivateKey.generate().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(TypeError, match="X25519"):
        jwk.from_bytes(raw)


def members(algorithm: Algorithm, bits: int = 2048) -> dict[str, str]:
    """What another program would send."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits) if algorithm == "RS256" else jwk.generate(algorithm)
    return {name: value for name, value in jwk.public_jwk(key, algorithm).items() if name not in {"kid", "use", "alg"}}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_somebody_elses_key_is_read(algorithm: Algorithm) -> None:
    sent = members(algorithm)
    for more in ({}, {"use": "sig", "alg": algorithm, "key_ops": ["verify"], "kid": "mine", "x5t": "?", "made-up": [1]}):
        read = jwk.parse_public(sent | more)
        assert (read.algorithm, read.members, read.thumbprint) == (algorithm, sent, jwk.thumbprint(sent))
        again = jwk.parse_public(json.loads(json.dumps(sent)))
        assert again.public_key is read.public_key, "parsed once"


EC, RSA, OKP = (members(algorithm) for algorithm in ALGORITHMS)
OTHER_CURVE = ec.generate_private_key(ec.SECP384R1()).public_key().public_numbers()
WRONG_KEYS: dict[str, tuple[dict[str, object], str]] = {
    "nothing": ({}, "must be a key for"),
    "kty of another type": ({"kty": ["EC"]}, "must be a key for"),
    "a symmetric key": ({"kty": "oct", "k": "c2VjcmV0"}, "private key"),
    "the private half, EC": (EC | {"d": "AA"}, "private key"),
    "the private half, RSA": (RSA | {"d": "AA", "p": "AA", "q": "AA"}, "private key"),
    "a private member of the wrong type": (OKP | {"d": None}, "private key"),
    "more primes than two, and nothing else": (RSA | {"oth": []}, "private key"),
    "half a point": ({name: value for name, value in EC.items() if name != "y"}, "must be a key for"),
    "a point off the curve": (EC | {"y": EC["x"]}, "numbers are wrong"),
    "a number as a number": (EC | {"x": 5}, "must be a key for"),
    "a short coordinate": (EC | {"x": EC["x"][:-3]}, "wrong length"),
    "a padded coordinate": (EC | {"x": EC["x"] + "="}, "numbers are wrong"),
    "another curve": ({"kty": "EC", "crv": "P-384", "x": b64(OTHER_CURVE.x.to_bytes(48)), "y": b64(OTHER_CURVE.y.to_bytes(48))}, "must be a key for"),
    "a curve of the other kind": (OKP | {"crv": "P-256"}, "must be a key for"),
    "an X25519 key": (OKP | {"crv": "X25519"}, "must be a key for"),
    **{
        f"an Ed25519 key of small order, {name}": (OKP | {"x": b64((y | sign << 255).to_bytes(32, "little"))}, "anybody could sign")
        for name, y in {
            "0": 0,
            "1": 1,
            "-1": FIELD - 1,
            "of order 8": ORDER_8,
            "of order 8 below": FIELD - ORDER_8,
            "0 once more": FIELD,
            "1 once more": FIELD + 1,
        }.items()
        for sign in (0, 1)
    },
    "a short Ed25519 key": (OKP | {"x": "AAAA"}, "numbers are wrong"),
    "a short RSA key": (members("RS256", 1024), "2048 to 4096 bits"),
    "a long RSA key": (RSA | {"n": b64(b"\xff" * 513)}, "2048 to 4096 bits"),
    "an even modulus": (RSA | {"n": b64(b"\xff" * 255 + b"\xfe")}, "odd modulus"),
    "a modulus with a leading zero": (RSA | {"n": b64(b"\x00" + unb64(RSA["n"]))}, "wrong length"),
    "an exponent of one": (RSA | {"e": "AQ"}, "exponent 65537"),
    "an exponent spelled otherwise": (RSA | {"e": "AAEAAQ"}, "exponent 65537"),
    "for encryption": (EC | {"use": "enc"}, "use, alg and key_ops"),
    "for another algorithm": (EC | {"alg": "ES384"}, "use, alg and key_ops"),
    "under the name that RFC 9864 deprecates": (OKP | {"alg": "EdDSA"}, "use, alg and key_ops"),
    "to sign with": (EC | {"key_ops": ["sign", "verify"]}, "use, alg and key_ops"),
    "for no operation": (EC | {"key_ops": "verify"}, "use, alg and key_ops"),
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_what_is_no_public_key_of_ours_is_refused_with_a_sentence(name: str) -> None:
    document, sentence = WRONG_KEYS[name]
    with pytest.raises(jwk.InvalidKey, match=sentence):
        jwk.parse_public(document)
