"""Sealing, hashing, base62."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentidp.core.errors import WrongSettings
from agentidp.core.secrets import ALPHABET, Sealer, base62, key_id_of, keyed_hash, new_master_key, random_base62

PLACE = ("signing_keys", "sealed_private_key", "row 1")
SEALER = Sealer(new_master_key())


@given(st.binary(max_size=4096))
def test_unseals_what_it_sealed(value: bytes) -> None:
    sealed = SEALER.seal(value, *PLACE)
    assert SEALER.unseal(sealed, *PLACE) == value
    assert sealed.startswith(f"v1.{SEALER.key_id}.")
    assert len(value) < 8 or base64.urlsafe_b64encode(value).rstrip(b"=") not in sealed.encode()


def test_the_same_value_never_looks_the_same() -> None:
    assert len({SEALER.seal(b"value", *PLACE) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "place",
    [
        ("signing_keys", "sealed_private_key", "row 2"),
        ("server_secrets", "sealed_private_key", "row 1"),
        ("signing_keys", "sealed_private_key"),
        ("signing_keys", "sealed_private_key", "row 1", ""),
        ("signing_keyssealed_private_keyrow 1",),
        (),
    ],
)
def test_a_value_moved_to_another_place_does_not_open(place: tuple[str, ...]) -> None:
    sealed = SEALER.seal(b"value", *PLACE)
    with pytest.raises(WrongSettings, match="was changed or moved"):
        SEALER.unseal(sealed, *place)


def test_a_value_with_any_byte_changed_does_not_open() -> None:
    version, key_id, box = SEALER.seal(b"value", *PLACE).split(".")
    raw = base64.urlsafe_b64decode(box)
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1
        with pytest.raises(WrongSettings, match="was changed or moved"):
            SEALER.unseal(f"{version}.{key_id}.{base64.urlsafe_b64encode(changed).decode()}", *PLACE)


@pytest.mark.parametrize("length", [0, 1, 11, 12, 27])
def test_a_value_cut_short_does_not_open(length: int) -> None:
    version, key_id, box = SEALER.seal(b"value", *PLACE).split(".")
    cut = base64.urlsafe_b64encode(base64.urlsafe_b64decode(box)[:length]).decode()
    with pytest.raises(WrongSettings, match="was changed or moved"):
        SEALER.unseal(f"{version}.{key_id}.{cut}", *PLACE)


@pytest.mark.parametrize("sealed", ["", "v1", "v1.x", "plain text", "v1.{key}.not base64!", "v1.{key}.A", "v1.{key}.\xe9"])
def test_what_was_never_sealed_does_not_open(sealed: str) -> None:
    with pytest.raises(WrongSettings):
        SEALER.unseal(sealed.replace("{key}", SEALER.key_id), *PLACE)


def test_another_key_does_not_open_it_and_says_which_would() -> None:
    other = Sealer(new_master_key())
    sealed = SEALER.seal(b"value", *PLACE)
    with pytest.raises(WrongSettings, match=f"is under key {SEALER.key_id}; known are {other.key_id}"):
        other.unseal(sealed, *PLACE)
    with pytest.raises(WrongSettings, match="was changed or moved"):  # the key id is only a name
        other.unseal(sealed.replace(SEALER.key_id, other.key_id), *PLACE)


def test_opens_what_any_of_its_keys_sealed_and_seals_under_the_first_until_told_otherwise() -> None:
    first, second, third = (new_master_key() for _ in range(3))
    sealer = Sealer(first, second)
    assert sealer.unseal(Sealer(second).seal(b"old", *PLACE), *PLACE) == b"old"
    assert sealer.seal(b"new", *PLACE).startswith(f"v1.{key_id_of(first)}.")
    assert (sealer.has(key_id_of(second)), sealer.has(key_id_of(third))) == (True, False)
    sealer.add(third)
    assert sealer.seal(b"new", *PLACE).startswith(f"v1.{key_id_of(first)}.")
    sealer.key_id = key_id_of(third)
    sealed = sealer.seal(b"newest", *PLACE)
    assert Sealer(third).unseal(sealed, *PLACE) == sealer.unseal(sealed, *PLACE) == b"newest"
    with pytest.raises(WrongSettings):
        Sealer(first, second).unseal(sealed, *PLACE)


def test_a_value_does_not_open_under_another_of_its_keys() -> None:
    first, second = new_master_key(), new_master_key()
    sealed = Sealer(first).seal(b"value", *PLACE).replace(key_id_of(first), key_id_of(second))
    with pytest.raises(WrongSettings, match="was changed or moved"):
        Sealer(first, second).unseal(sealed, *PLACE)


def test_the_key_id_tells_nothing_but_which_key() -> None:
    key = new_master_key()
    assert Sealer(key).key_id == Sealer(key + "\n").key_id == Sealer(key + "=").key_id
    assert len(Sealer(key).key_id) == 8
    assert len({Sealer(new_master_key()).key_id for _ in range(50)}) == 50


@pytest.mark.parametrize("key", ["", "A" * 43, "short", "*" * 43, "A" * 44, "qrvM3e7_ABEiM0RVZneImaq7zN3u_wARIjNEVWZ3iJ"[:42], "AB" * 21 + "A", "\xe9" * 43])
def test_what_is_no_master_key_is_refused(key: str) -> None:
    with pytest.raises(WrongSettings, match="32 random bytes in base64url"):
        Sealer(key)


def test_a_keyed_hash_is_hmac_sha_256() -> None:
    assert keyed_hash(b"key", "text") == hmac.new(b"key", b"text", hashlib.sha256).digest()
    assert keyed_hash(b"key", "text") != keyed_hash(b"other", "text")


@given(st.integers(0, 62**10 - 1))
def test_base62_is_a_number_in_ten_digits(number: int) -> None:
    text = base62(number, 10)
    assert len(text) == 10
    value = 0
    for digit in text:
        value = value * 62 + ALPHABET.index(digit)
    assert value == number


def test_random_text_is_of_the_alphabet_and_never_the_same() -> None:
    found = {random_base62(43) for _ in range(200)}
    assert len(found) == 200
    assert {len(text) for text in found} == {43}
    assert set("".join(found)) == set(ALPHABET)
