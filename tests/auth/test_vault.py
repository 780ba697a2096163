"""Vault's Transit engine as the holder of the master key, against a fake of it: what is sent, what is refused, and that no token is shown."""

import datetime as dt
import ipaddress
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.fakes.fake_vault import FakeVault, serving_vault
from tests.serving import free_port

from agentidp.auth.master_keys import KeyWrapper, MasterKeys, WrappedKey
from agentidp.auth.vault import VaultKey
from agentidp.core import limits
from agentidp.core.config import VaultSettings
from agentidp.core.errors import WrongSettings
from agentidp.core.secrets import key_id_of, new_master_key

DATA_KEY = new_master_key()


@pytest.fixture
def vault() -> FakeVault:
    return FakeVault()


@pytest.fixture
def address(vault: FakeVault) -> Iterator[str]:
    with serving_vault(vault) as where:
        yield where


def key_at(address: str, **settings: Any) -> VaultKey:
    return VaultKey(VaultSettings(**({"address": address, "token": "hvs.fake-token"} | settings)))


def refusal(key: KeyWrapper) -> str:
    """What is said when it does not wrap: one line, without the token."""
    with pytest.raises(WrongSettings) as caught:
        key.wrap(DATA_KEY)
    text = str(caught.value)
    assert text.isprintable()
    assert "hvs." not in text
    assert caught.value.__cause__ is None, "a cause may hold the token and would be logged"
    return text


def test_what_is_wrapped_opens_again_and_says_by_which_version(vault: FakeVault, address: str) -> None:
    key = key_at(address)
    wrapped = key.wrap(DATA_KEY)
    assert (wrapped.key_id, wrapped.master_key) == (key_id_of(DATA_KEY), "Vault key transit/agentidp v1")
    assert wrapped.text.startswith("vault:v1:")
    assert key.unwrap(wrapped) == DATA_KEY
    vault.rotate()
    assert key.wrap(DATA_KEY).master_key == "Vault key transit/agentidp v2"
    assert key.unwrap(wrapped) == DATA_KEY
    assert key.holds(wrapped.master_key)
    for other in ("Vault key transit/agentidp2 v1", "Vault key kms/agentidp v1", "master key 1a2b3c4d", "Vault key transit/agentidp"):
        assert not key.holds(other)
    assert [path for path, _ in vault.requests[:2]] == ["/v1/transit/encrypt/agentidp", "/v1/transit/decrypt/agentidp"]


def test_mount_key_and_namespace_are_those_of_the_settings() -> None:
    vault = FakeVault(key="idp", mount="kms/eu", namespace="team-a")
    with serving_vault(vault) as address:
        key = key_at(address, key="idp", mount="kms/eu", namespace="team-a")
        assert key.unwrap(key.wrap(DATA_KEY)) == DATA_KEY
        assert vault.requests[0][0] == "/v1/kms/eu/encrypt/idp"
        assert "403" in refusal(key_at(address, key="idp", mount="kms/eu"))
        assert "403" in refusal(key_at(address, key="idp", mount="kms/eu", namespace="team-b"))


def test_the_token_of_a_file_is_read_each_time(vault: FakeVault, address: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    key = key_at(address, token=None, token_file=file)
    with pytest.raises(WrongSettings, match=r"vault\.token_file: .*No such file"):
        key.wrap(DATA_KEY)
    file.write_text("hvs.fake-token\n")
    assert key.wrap(DATA_KEY)
    vault.token = "hvs.renewed"
    assert "403" in refusal(key)
    file.write_text("hvs.renewed")
    assert key.wrap(DATA_KEY)


@pytest.mark.parametrize("given", [{"token": None}, {"token_file": Path("/run/token")}], ids=["none", "both"])
def test_exactly_one_token_must_be_given(given: dict[str, Any]) -> None:
    with pytest.raises(WrongSettings, match=r"set either the token or vault\.token_file"):
        key_at("https://vault.test", **given)


def test_says_why_it_was_denied(vault: FakeVault, address: str) -> None:
    assert "403" in (said := refusal(key_at(address, token="hvs.other")))
    assert "permission denied" in said
    assert "encryption key not found" in refusal(key_at(address, key="other"))
    assert "404" in refusal(key_at(address, mount="other"))
    vault.is_sealed = True
    assert "503: Vault is sealed" in refusal(key_at(address))


def test_says_when_nobody_is_there() -> None:
    port = free_port()
    said = refusal(key_at(f"http://127.0.0.1:{port}"))
    assert said.startswith(f"vault.address: no answer from http://127.0.0.1:{port}/v1/transit/encrypt/agentidp: ")
    assert "refused" in said


@pytest.mark.parametrize("token", ["hvs.line\nX-Other: 1", "hvs.\x00", "hvs.\xe9"])
def test_a_token_that_no_header_can_carry_is_refused_without_being_shown(token: str, vault: FakeVault, address: str) -> None:
    assert "no answer from" in refusal(key_at(address, token=token))
    assert vault.requests == []


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b'{"data": null}',
        b'{"data": {}}',
        b'{"data": {"ciphertext": 7}}',
        b'{"data": {"ciphertext": "plain"}}',
        b'{"data": {"ciphertext": "vault:v1"}}',
        b"[" * 60_000,
        b'{"data": {"ciphertext": "vault:v1:' + b"A" * limits.VAULT_ANSWER_BYTES_MAX + b'"}}',
    ],
    ids=range(11),
)
def test_what_is_no_answer_of_transit_is_refused(answer: bytes, vault: FakeVault, address: str) -> None:
    vault.answer = answer
    assert "Transit engine" in refusal(key_at(address))


@pytest.mark.parametrize("answer", [b'{"errors": "text"}', b'{"errors": [null, 7, "\\u001b[31mred\\nline"]}', b'{"errors": ["' + b"x" * 5000 + b'"]}'])
def test_reasons_are_shown_cut_and_in_one_line(answer: bytes, vault: FakeVault, address: str) -> None:
    vault.is_sealed, vault.answer = True, answer
    assert len(refusal(key_at(address))) < limits.VAULT_ERROR_CHARACTERS_MAX + 150


@pytest.mark.parametrize("plaintext", ["!", "w6k=", "", "c2hvcnQ="], ids=["no base64", "no ASCII", "empty", "short"])
def test_what_opens_to_no_data_key_is_refused(plaintext: str, vault: FakeVault, address: str) -> None:
    keys = MasterKeys(key_at(address))
    wrapped = keys.current.wrap(DATA_KEY)
    vault.answer = b'{"data": {"plaintext": "%s"}}' % plaintext.encode()
    with pytest.raises(WrongSettings):
        keys.unwrap(wrapped)


def test_another_data_key_than_the_row_names_is_refused(address: str) -> None:
    keys = MasterKeys(key_at(address))
    one, other = keys.current.wrap(DATA_KEY), keys.current.wrap(new_master_key())
    with pytest.raises(WrongSettings, match=f"data key {one.key_id} was changed or moved"):
        keys.unwrap(WrappedKey(one.key_id, one.master_key, other.text))


def test_a_version_that_vault_no_longer_opens_is_refused(vault: FakeVault, address: str) -> None:
    wrapped = key_at(address).wrap(DATA_KEY)
    vault.rotate()
    vault.min_decryption_version = 2
    with pytest.raises(WrongSettings, match="too old"):
        key_at(address).unwrap(wrapped)


@pytest.mark.slow
def test_an_answer_that_drips_is_given_up(vault: FakeVault, address: str) -> None:
    vault.drips = True
    started = time.monotonic()
    assert "ReadTimeout" in refusal(key_at(address))
    assert time.monotonic() - started >= limits.VAULT_SECONDS_MAX


def test_an_unknown_certificate_is_refused_and_that_of_the_named_authority_is_not(vault: FakeVault, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with serving_vault(vault, tls) as address:
        assert "certificate verify failed" in refusal(key_at(address))
        assert key_at(address, ca_file=certificate).wrap(DATA_KEY)
        assert "certificate" in refusal(key_at(address.replace("127.0.0.1", "localhost"), ca_file=certificate)), "it is not that host's"
    with pytest.raises(WrongSettings, match=r"vault\.ca_file: .*No such file"):
        key_at("https://vault.test", ca_file=tmp_path / "none")


def make_certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody knows, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake vault")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / "vault.pem"
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file
