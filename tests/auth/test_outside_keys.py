"""Other issuers' keys: fetched once for many, kept as long as HTTP and the bounds say, never another's, and nothing accepted while nobody can tell."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.auth.asking import Clock, fetches, run, unreachable
from tests.auth.forgery import b64
from tests.fakes.fake_issuers import DISCOVERY, KEYS, FakeIssuer, IssuerKey, serving_issuer

from agentidp.auth.outside_keys import NotAKeySet, OutsideKeys
from agentidp.core import limits
from agentidp.core.outgoing import Blocked, Unreachable


def test_many_who_wait_share_one_fetch(issuer: FakeIssuer, clock: Clock) -> None:
    async def work(keys: OutsideKeys) -> Any:
        return await asyncio.gather(*(keys.find(issuer.url, issuer.key.key_id, whose="acme") for _ in range(50)))

    found = run(clock, work)
    assert len({id(one) for one in found}) == 1
    assert found[0].algorithm == "RS256"
    assert issuer.requests == [DISCOVERY, KEYS]


def test_who_gives_up_waiting_stops_it_for_nobody(issuer: FakeIssuer, clock: Clock) -> None:
    async def work(keys: OutsideKeys) -> Any:
        first = asyncio.create_task(keys.find(issuer.url, issuer.key.key_id, whose="acme"))
        second = asyncio.create_task(keys.find(issuer.url, issuer.key.key_id, whose="acme"))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert run(clock, work) is not None
    assert fetches(issuer) == 1


DATE = {"Date": "Sun, 29 Nov 2026 08:00:00 GMT"}
SHORTEST, LONGEST = limits.OUTSIDE_KEYS_FRESH_SECONDS_MIN, limits.OUTSIDE_KEYS_FRESH_SECONDS_MAX
CACHING: list[tuple[dict[str, str], int]] = [
    ({"Cache-Control": "public, max-age=300"}, 300),
    ({"Cache-Control": 'MAX-AGE="300"'}, 300),
    ({"Cache-Control": "s-maxage=900,max-age=300, max-age=600"}, 300),
    ({"Cache-Control": "max-age=300", "Age": "100"}, 200),
    ({"Cache-Control": "max-age=300", "Age": "300"}, SHORTEST),
    ({"Cache-Control": "max-age=300", "Age": "-100"}, 300),
    ({"Cache-Control": "max-age=300, no-cache"}, SHORTEST),
    ({"Cache-Control": "no-store, max-age=300"}, SHORTEST),
    ({"Cache-Control": "x-max-age=300"}, SHORTEST),
    ({"Cache-Control": "max-age=0"}, SHORTEST),
    ({"Cache-Control": "max-age=100000000"}, LONGEST),
    ({"Cache-Control": "max-age=300", "Expires": "Sun, 29 Nov 2026 08:15:00 GMT"} | DATE, 300),
    ({"Expires": "Sun, 29 Nov 2026 08:15:00 GMT"} | DATE, 900),
    ({"Expires": "Sun, 29 Nov 2026 08:15:00 GMT", "Age": "300"} | DATE, 600),
    ({"Expires": "Sun, 29 Nov 2026 07:15:00 GMT"} | DATE, SHORTEST),
    ({"Expires": "0"} | DATE, SHORTEST),
    ({"Expires": "Sun, 29 Nov 2026 08:15:00"} | DATE, SHORTEST),
    ({"Expires": "Sun, 29 Nov 99999999 08:15:00 GMT"} | DATE, SHORTEST),
    ({}, SHORTEST),
]


@pytest.mark.parametrize(("caching", "fresh_seconds"), CACHING)
def test_a_set_is_kept_as_http_says_within_bounds(issuer: FakeIssuer, clock: Clock, caching: dict[str, str], fresh_seconds: int) -> None:
    issuer.caching = caching

    async def work(keys: OutsideKeys) -> None:
        await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        clock.pass_(fresh_seconds - 1)
        await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        assert fetches(issuer) == 1
        clock.pass_(1)
        await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        assert fetches(issuer) == 2

    run(clock, work)


def test_an_unknown_key_is_asked_for_once_a_minute(issuer: FakeIssuer, clock: Clock) -> None:
    async def work(keys: OutsideKeys) -> None:
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        issuer.rotate(keep=True)
        for name in (issuer.key.key_id, "unknown", "", None, 1, ["x"]):
            assert await keys.find(issuer.url, name, whose="acme") is None
        assert fetches(issuer) == 1, "it was asked less than a minute ago"
        clock.pass_(limits.OUTSIDE_UNKNOWN_KEY_SECONDS)
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        for number in range(20):
            assert await keys.find(issuer.url, f"unknown {number}", whose="acme") is None
        assert fetches(issuer) == 2

    run(clock, work)


def test_a_withdrawn_key_is_gone_with_the_next_look(issuer: FakeIssuer, clock: Clock) -> None:
    async def work(keys: OutsideKeys) -> None:
        old = issuer.key.key_id
        assert await keys.find(issuer.url, old, whose="acme")
        issuer.rotate()
        clock.pass_(300)
        assert await keys.find(issuer.url, old, whose="acme") is None
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")

    run(clock, work)


def test_keys_are_their_issuers_own(issuer: FakeIssuer, clock: Clock) -> None:
    """TH31: the key id of one is nothing at another."""
    with serving_issuer(FakeIssuer()) as other:

        async def work(keys: OutsideKeys) -> None:
            assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")
            assert await keys.find(other.url, issuer.key.key_id, whose="acme") is None
            other.published = [IssuerKey(issuer.key.key_id).jwk]
            clock.pass_(limits.OUTSIDE_UNKNOWN_KEY_SECONDS)
            found = [await keys.find(url, issuer.key.key_id, whose="acme") for url in (issuer.url, other.url)]
            assert found[0] != found[1]

        run(clock, work)


def document(**values: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(values).encode()


BROKEN: dict[str, Callable[[FakeIssuer], Any]] = {
    "down": lambda issuer: setattr(issuer, "is_down", True),
    "slow": lambda issuer: setattr(issuer, "drips", True),
    **{
        f"{place} {what}": lambda issuer, place=place, answer=answer: issuer.answers.update({place: answer})
        for place in (DISCOVERY, KEYS)
        for what, answer in {
            "is an error": (500, {}, b"{}"),
            "is not there": (404, {}, b"{}"),
            "redirects": (302, {"Location": "http://127.0.0.1:1/"}, b""),
            "is empty": (200, {}, b""),
            "is HTML": (200, {}, b"<html>"),
            "is a list": (200, {}, b"[]"),
            "has a name twice": (200, {}, b'{"keys": [], "keys": [], "issuer": "", "issuer": ""}'),
            "is enormous": (200, {}, b'{"keys": [], "x": "' + b"x" * 10_000_000 + b'"}'),
            "is nested": (200, {}, b"[" * 100_000),
            "is not UTF-8": (200, {}, b'{"keys": ["\xff"]}'),
        }.items()
    },
    "the issuer is another": lambda issuer: issuer.answers.update({DISCOVERY: document(issuer="https://example.com", jwks_uri=issuer.url + KEYS)}),
    "the issuer has a slash": lambda issuer: issuer.answers.update({DISCOVERY: document(issuer=issuer.url + "/", jwks_uri=issuer.url + KEYS)}),
    "the issuer is missing": lambda issuer: issuer.answers.update({DISCOVERY: document(jwks_uri=issuer.url + KEYS)}),
    "the keys are nowhere": lambda issuer: issuer.answers.update({DISCOVERY: document(issuer=issuer.url)}),
    "the keys' address is a list": lambda issuer: issuer.answers.update({DISCOVERY: document(issuer=issuer.url, jwks_uri=[issuer.url + KEYS])}),
    **{
        f"the keys are at {address}": lambda issuer, address=address: issuer.answers.update({DISCOVERY: document(issuer=issuer.url, jwks_uri=address)})
        for address in ("http://169.254.169.254/keys", "http://10.0.0.1/keys", "file:///etc/passwd", "http://keys.example.com/", "https://[fd00::1]/keys", "x")
    },
    **{
        f"good keys come with {status}": lambda issuer, status=status: issuer.answers.update({KEYS: (status, *document(keys=issuer.published)[1:])})
        for status in (201, 203, 206, 500)
    },
    "good keys come with too much behind": lambda issuer: issuer.answers.update({KEYS: (200, {}, document(keys=issuer.published)[2] + b" " * 100_000)}),
    "the keys are no list": lambda issuer: issuer.answers.update({KEYS: document(keys={})}),
    "there are too many keys": lambda issuer: issuer.answers.update({KEYS: document(keys=[{}] * (limits.OUTSIDE_KEYS_MAX + 1))}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_issuer_is_believed_on_what_it_said_before_for_a_while(issuer: FakeIssuer, clock: Clock, name: str) -> None:
    """503 or the keys that are known, never acceptance of anything else; and it is asked again, but seldom."""
    before = dict(issuer.answers)

    async def work(keys: OutsideKeys) -> None:
        known = await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        BROKEN[name](issuer)
        clock.pass_(300)
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme") == known, "stale, but known"
        asked = len(issuer.requests)
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme") == known
        assert len(issuer.requests) == asked, "it has only just failed"
        clock.pass_(limits.OUTSIDE_KEYS_STALE_SECONDS_MAX - 301)
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme") == known
        clock.pass_(1)
        assert await unreachable(keys, issuer)
        issuer.is_down, issuer.drips, issuer.answers = False, False, before
        assert await unreachable(keys, issuer), "not asked again at once"
        clock.pass_(limits.OUTSIDE_KEYS_RETRY_SECONDS)
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme") is not None

    run(clock, work)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_issuer_that_nobody_knows_is_unreachable(issuer: FakeIssuer, clock: Clock, name: str) -> None:
    BROKEN[name](issuer)

    async def work(keys: OutsideKeys) -> list[bool]:
        return list(await asyncio.gather(*(unreachable(keys, issuer) for _ in range(10))))

    assert run(clock, work) == [True] * 10


def weak(bits: int, exponent: int = 65537) -> dict[str, Any]:
    numbers = rsa.generate_private_key(public_exponent=exponent, key_size=bits).public_key().public_numbers()
    return {"kty": "RSA", "n": b64(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8)), "e": b64(numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8))}


IGNORED: dict[str, dict[str, Any]] = {
    "a symmetric key": {"kty": "oct", "k": b64(b"x" * 32), "alg": "HS256"},
    "a symmetric key that calls itself RSA": {"kty": "RSA", "k": b64(b"x" * 32), "alg": "RS256"},
    "a private key": IssuerKey().jwk | {"d": "AQAB"},
    "a key for encryption": IssuerKey().jwk | {"use": "enc"},
    "a key that does not verify": IssuerKey().jwk | {"key_ops": ["sign"]},
    "a key for another algorithm": IssuerKey().jwk | {"alg": "PS256"},
    "a key for HMAC": IssuerKey().jwk | {"alg": "HS256"},
    "a short key": weak(1024),
    "a key with a small exponent": weak(2048, 3),
    "a key without numbers": {"kty": "RSA"},
    "a key with padding": IssuerKey().jwk | {"e": "AQAB="},
    "a point beside the curve": {"kty": "EC", "crv": "P-256", "x": b64(bytes(32)), "y": b64(bytes(31) + b"\x01")},
    "another curve": {"kty": "EC", "crv": "secp256k1", "x": b64(bytes(32)), "y": b64(bytes(32))},
    "numbers that are lists": {"kty": "RSA", "n": [1], "e": {"a": 1}},
}


@pytest.mark.parametrize("name", IGNORED)
def test_what_is_no_public_key_for_signatures_is_ignored(issuer: FakeIssuer, clock: Clock, name: str) -> None:
    issuer.published = [IGNORED[name] | {"kid": "bad"}, issuer.key.jwk, "x", None, {"kid": 1}, {"kid": ""}]  # type: ignore[list-item]  # as others may write it

    async def work(keys: OutsideKeys) -> None:
        assert await keys.find(issuer.url, "bad", whose="acme") is None
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme") is not None

    run(clock, work)


@pytest.mark.parametrize("second", ["another key", "the same key", "no key at all"])
def test_a_key_id_that_is_there_twice_is_nobodys(issuer: FakeIssuer, clock: Clock, second: str) -> None:
    twin = {"another key": IssuerKey(issuer.key.key_id).jwk, "the same key": issuer.key.jwk, "no key at all": {"kid": issuer.key.key_id}}[second]
    issuer.published = [issuer.key.jwk, twin]
    assert run(clock, lambda keys: keys.find(issuer.url, issuer.key.key_id, whose="acme")) is None


def test_a_clock_that_is_set_back_makes_it_look_again(issuer: FakeIssuer, clock: Clock) -> None:
    async def work(keys: OutsideKeys) -> None:
        await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        clock.pass_(-3600)
        await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        assert fetches(issuer) == 2

    run(clock, work)


def test_what_is_published_at_one_address_is_not_what_is_published_at_another(issuer: FakeIssuer, clock: Clock) -> None:
    """One issuer, once by discovery, once where a partner has its keys: neither finds the other's."""
    other = IssuerKey()
    issuer.answers["/elsewhere"] = (200, {}, json.dumps({"keys": [other.jwk]}).encode())

    async def work(keys: OutsideKeys) -> None:
        elsewhere = f"{issuer.url}/elsewhere"
        await keys.require(issuer.url, elsewhere, whose="acme")
        assert await keys.find(issuer.url, other.key_id, jwks_uri=elsewhere, whose="acme")
        assert await keys.find(issuer.url, issuer.key.key_id, jwks_uri=elsewhere, whose="acme") is None
        assert await keys.find(issuer.url, issuer.key.key_id, whose="acme")
        assert await keys.find(issuer.url, other.key_id, whose="acme") is None
        assert await keys.find(f"{issuer.url}/", other.key_id, jwks_uri=elsewhere, whose="acme"), "asked anew, as another issuer"
        assert issuer.requests == ["/elsewhere", "/elsewhere", DISCOVERY, KEYS, "/elsewhere"], "what is required is not kept"

    run(clock, work)


def test_what_is_required_is_asked_for_at_once(issuer: FakeIssuer, clock: Clock) -> None:
    async def work(keys: OutsideKeys) -> None:
        address = f"{issuer.url}{KEYS}"
        for _ in range(2):
            await keys.require(issuer.url, address, whose="acme")
        assert fetches(issuer) == 2
        issuer.published = []
        for refused in (NotAKeySet, Unreachable):
            with pytest.raises(refused):
                await keys.require(issuer.url, address, whose="acme")
            issuer.is_down = True
        with pytest.raises(Blocked):
            await keys.require(issuer.url, "https://10.0.0.1/keys", whose="acme")

    run(clock, work)
