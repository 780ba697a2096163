"""Vectors that the tests make themselves, of the classes that Wycheproof has and of some more. Always run."""

import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from tests.auth.forgery import b64, other_last_character, unb64

from agentidp.auth.jws import Algorithm, InvalidToken, PrivateKey, parse_unverified, sign, verify_signature

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256, SEC 2 section 2.4.2
KEYS: dict[Algorithm, PrivateKey] = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}
OTHERS: dict[Algorithm, PrivateKey] = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}


def make(algorithm: Algorithm, key: PrivateKey | None = None) -> str:
    signing_input = f"{b64(json.dumps({'alg': algorithm}))}.{b64(json.dumps({'sub': 'x'}))}"
    return f"{signing_input}.{b64(sign(key or KEYS[algorithm], signing_input.encode()))}"


def accept(algorithm: str, key: PrivateKey, text: str) -> None:
    verify_signature(algorithm, key.public_key(), parse_unverified(text))


@pytest.mark.parametrize("algorithm", KEYS)
def test_what_is_right_is_accepted(algorithm: Algorithm) -> None:
    token = parse_unverified(make(algorithm))
    verify_signature(algorithm, KEYS[algorithm].public_key(), token)
    assert token.payload == {"sub": "x"}


def _with(change: Callable[[bytes], bytes]) -> Callable[[str], str]:
    return lambda text: f"{text.rpartition('.')[0]}.{b64(change(unb64(text.rpartition('.')[2])))}"


SPOILED: dict[str, Callable[[str], str]] = {
    "first bit of the signature": _with(lambda raw: bytes([raw[0] ^ 0x80]) + raw[1:]),
    "last bit of the signature": _with(lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])),
    "signature cut": _with(lambda raw: raw[:-1]),
    "signature longer": _with(lambda raw: raw + b"\x00"),
    "zero in front": _with(lambda raw: b"\x00" + raw),
    "signature of zeros": _with(lambda raw: bytes(len(raw))),
    "signature of ones": _with(lambda raw: b"\xff" * len(raw)),
    "signature twice": _with(lambda raw: raw + raw),
    "halves exchanged": _with(lambda raw: raw[len(raw) // 2 :] + raw[: len(raw) // 2]),
    "no signature": lambda text: text.rpartition(".")[0] + ".",
    "no signature and no dot": lambda text: text.rpartition(".")[0],
    "other unused bits": lambda text: text.rpartition(".")[0] + "." + other_last_character(text.rpartition(".")[2]),
    "other payload": lambda text: f"{text.split('.')[0]}.{b64(json.dumps({'sub': 'y'}))}.{text.split('.')[2]}",
    "other header": lambda text: f"{b64(json.dumps(json.loads(unb64(text.split('.')[0])) | {'x': 1}))}.{text.partition('.')[2]}",
    "padding": lambda text: text + "==",
    "line end": lambda text: text + "\n",
    "space": lambda text: " " + text,
}


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("name", SPOILED)
def test_what_is_spoiled_is_refused(algorithm: Algorithm, name: str) -> None:
    with pytest.raises(InvalidToken):
        accept(algorithm, KEYS[algorithm], SPOILED[name](make(algorithm)))


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("other", KEYS)
def test_a_key_takes_its_own_algorithm_only(algorithm: Algorithm, other: Algorithm) -> None:
    with pytest.raises(InvalidToken):
        accept(algorithm, OTHERS[algorithm], make(algorithm))
    if algorithm != other:
        for key, name in ((KEYS[algorithm], other), (KEYS[other], algorithm), (KEYS[algorithm], algorithm)):
            with pytest.raises(InvalidToken):
                accept(name, key, make(other) if name == algorithm else make(algorithm))
        with pytest.raises(InvalidToken, match="not accepted"):  # token and key store agree on a name that is not the key's kind
            accept(other, KEYS[algorithm], make(other))


@pytest.mark.parametrize("r", [0, 1, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1])
@pytest.mark.parametrize("s", [0, 1, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1])
def test_ecdsa_numbers_at_the_edges_are_refused(r: int, s: int) -> None:
    text = make("ES256").rpartition(".")[0] + "." + b64(r.to_bytes(32) + s.to_bytes(32))
    with pytest.raises(InvalidToken, match="signature is wrong"):
        accept("ES256", KEYS["ES256"], text)


def test_rsa_keys_that_are_too_short_are_refused() -> None:
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    with pytest.raises(InvalidToken, match="too short"):
        accept("RS256", short, make("RS256", short))
