"""The form of secrets, the states of credentials and who may manage whose, without a database."""

import re

import pytest

from agentidp.core.caller import Caller
from agentidp.core.errors import Conflict, Forbidden, NotFound
from agentidp.core.secrets import ALPHABET
from agentidp.credentials.rules import (
    ClientSecret,
    CredentialAlreadyRevoked,
    CredentialNotFound,
    TooManyCredentials,
    credential_status,
    new_client_secret,
    parse_client_secret,
    require_may_manage,
)

# made once with zlib.crc32 of everything before the last underscore, in base62
KNOWN = "aidp_sk_0123456789ABCDEF_0000000000000000000000000000000000000000000_2E3u92"


def test_a_new_secret_has_the_form_and_is_another_one_each_time() -> None:
    secrets = [new_client_secret() for _ in range(50)]
    assert len({secret.text for secret in secrets}) == len({secret.credential_key for secret in secrets}) == 50
    for secret in secrets:
        match = re.fullmatch(r"aidp_sk_([0-9A-Za-z]{16})_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}", secret.text)
        assert match
        assert match[1] == secret.credential_key
        assert parse_client_secret(secret.text) == secret


def test_a_secret_is_not_shown_by_accident() -> None:
    secret = new_client_secret()
    assert secret.hint == f"aidp_sk_{secret.credential_key}_…"
    for shown in (repr(secret), str(secret), secret.hint):
        assert secret.text.split("_")[3] not in shown


def test_every_single_typo_fails_the_checksum() -> None:
    text = new_client_secret().text
    for place, char in enumerate(text):
        other = ALPHABET[(ALPHABET.index(char) + 1) % 62] if char in ALPHABET else "x"
        assert parse_client_secret(text[:place] + other + text[place + 1 :]) is None
        assert parse_client_secret(text[:place] + text[place + 1 :]) is None


def test_every_swap_of_neighbours_fails_the_checksum() -> None:
    text = new_client_secret().text
    for place in range(len(text) - 1):
        swapped = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
        assert swapped == text or parse_client_secret(swapped) is None


@pytest.mark.parametrize("change", [str.upper, str.lower, lambda text: text + "\n", lambda text: " " + text, lambda _: "", lambda text: text * 2])
def test_only_the_exact_text_parses(change: object) -> None:
    assert callable(change)
    assert parse_client_secret(change(new_client_secret().text)) is None


def test_other_scripts_digits_do_not_parse() -> None:
    text = new_client_secret().text
    assert parse_client_secret(text[:9] + "٣" + text[10:]) is None


@pytest.mark.parametrize(
    ("revoked_at", "expires_at", "agent_status", "status"),
    [
        (None, None, "active", "active"),
        (None, 101, "active", "active"),
        (None, 100, "active", "expired"),
        (None, 99, "active", "expired"),
        (1, None, "active", "revoked"),
        (1, 99, "active", "revoked"),
        (None, None, "suspended", "active"),
        (None, None, "decommissioned", "revoked"),
        (None, 99, "decommissioned", "revoked"),
    ],
)
def test_credential_status(revoked_at: int | None, expires_at: int | None, agent_status: str, status: str) -> None:
    assert credential_status(revoked_at=revoked_at, expires_at=expires_at, agent_status=agent_status, now=100) == status


@pytest.mark.parametrize(
    ("caller", "scopes", "agent_scopes", "needed"),
    [
        ("me", "", "a b admin:orgs", "agents:write"),
        ("me", "", "", "agents:read"),
        ("you", "agents:write", "", "agents:write"),
        ("you", "agents:write a", "a", "agents:write"),
        ("you", "agents:write admin:orgs", "a b", "agents:write"),
        ("you", "agents:read", "a b admin:orgs", "agents:read"),
        (None, "agents:write", "", "agents:write"),
    ],
)
def test_may_manage(caller: str | None, scopes: str, agent_scopes: str, needed: str) -> None:
    require_may_manage(Caller("o", caller, frozenset(scopes.split())), "me", frozenset(agent_scopes.split()), needed)


@pytest.mark.parametrize(
    ("caller", "scopes", "agent_scopes", "needed", "told"),
    [
        ("you", "", "", "agents:write", "agents:write"),
        ("you", "agents:read", "", "agents:write", "agents:write"),
        ("you", "agents:write", "", "agents:read", "agents:read"),
        ("you", "admin:orgs", "", "agents:write", "agents:write"),
        ("you", "agents:write a", "a b", "agents:write", "a agents:write b"),
        ("you", "agents:write", "admin:orgs", "agents:write", "admin:orgs agents:write"),
        (None, "", "", "agents:read", "agents:read"),
    ],
)
def test_may_not_manage(caller: str | None, scopes: str, agent_scopes: str, needed: str, told: str) -> None:
    with pytest.raises(Forbidden) as refused:
        require_may_manage(Caller("o", caller, frozenset(scopes.split())), "me", frozenset(agent_scopes.split()), needed)
    (entry,) = refused.value.audit
    assert (entry.action, entry.outcome, entry.target_type, entry.target_id) == ("access.denied", "failure", "agent", "me")
    assert refused.value.scope == told


def test_errors() -> None:
    assert (CredentialNotFound.code, issubclass(CredentialNotFound, NotFound)) == ("CREDENTIAL_NOT_FOUND", True)
    assert (CredentialAlreadyRevoked.code, issubclass(CredentialAlreadyRevoked, Conflict)) == ("CREDENTIAL_ALREADY_REVOKED", True)
    assert (TooManyCredentials.code, issubclass(TooManyCredentials, Conflict)) == ("CONFLICT", True)


def test_known_secret() -> None:
    """The format is a promise to secret scanners: this secret must parse in every release."""
    assert parse_client_secret(KNOWN) == ClientSecret(KNOWN, "0123456789ABCDEF")
