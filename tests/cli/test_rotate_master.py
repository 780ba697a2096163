"""`agentidp keys rotate-master`: from settings, in the file, to Vault and back; what it says and what it leaves."""

import asyncio
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.auth.first_release import make_old_at
from tests.cli.conftest import Command
from tests.fakes.fake_vault import FakeVault, serving_vault

from agentidp.core.secrets import key_id_of, new_master_key

A, B = new_master_key(), new_master_key()
TOKEN = "hvs.fake-token"


@pytest.fixture
def under_a(database_url: str, data: Path, agentidp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance under master key A of the settings, on each engine."""
    monkeypatch.setenv("AGENTIDP_DATABASE_URL", database_url)
    monkeypatch.setenv("AGENTIDP_MASTER_KEY", A)
    assert agentidp("init")[0] == 0


@pytest.fixture
def vault() -> FakeVault:
    return FakeVault()


@pytest.fixture
def address(vault: FakeVault) -> Iterator[str]:
    with serving_vault(vault) as where:
        yield where


def rotate(agentidp: Command, *options: str) -> dict[str, Any]:
    code, out, err = agentidp("keys", "rotate-master", "--json", *options)
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def master_keys(agentidp: Command) -> set[str]:
    """What `keys list` shows."""
    code, out, _ = agentidp("keys", "list", "--json")
    assert code == 0
    return {key["masterKey"] for key in json.loads(out)}


def test_from_one_key_of_the_settings_to_the_next(under_a: None, agentidp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (f"master key {key_id_of(key)}" for key in (A, B))
    assert master_keys(agentidp) == {old}
    monkeypatch.setenv("AGENTIDP_MASTER_KEY", B)
    code, out, err = agentidp("keys", "rotate-master")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"master_key: the database is sealed under {old}, this one is {new}" in err

    monkeypatch.setenv("AGENTIDP_MASTER_KEY_PREVIOUS", A)
    status = rotate(agentidp, "--status")
    assert (status["masterKey"], status["done"]) == (new, False)
    assert {row["masterKey"] for row in status["held"]} == {old}
    assert {row["column"] for row in status["held"]} == {"data_keys.wrapped_key", "server_secrets.sealed_value", "signing_keys.sealed_private_key"}
    assert "keep the master key before it" in agentidp("keys", "rotate-master", "--status")[1]

    done = rotate(agentidp)
    assert (done["done"], done["resealed"]) == (True, 0)
    assert {row["masterKey"] for row in done["held"]} == {new}
    assert rotate(agentidp)["done"], "again, to no effect"
    monkeypatch.delenv("AGENTIDP_MASTER_KEY_PREVIOUS")
    assert master_keys(agentidp) == {new}
    assert f"under {new}" in agentidp("keys", "list")[1]
    assert f"Everything is under {new}" in agentidp("keys", "rotate-master", "--status")[1]
    monkeypatch.setenv("AGENTIDP_MASTER_KEY", A)
    assert agentidp("keys", "list")[0] == 2


def test_a_leaked_key_gets_a_new_data_key_and_every_value_is_sealed_anew(under_a: None, agentidp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {row["dataKey"] for row in rotate(agentidp, "--status")["held"]}
    monkeypatch.setenv("AGENTIDP_MASTER_KEY", B)
    monkeypatch.setenv("AGENTIDP_MASTER_KEY_PREVIOUS", A)
    done = rotate(agentidp, "--new-data-key")
    sealed = {row["dataKey"] for row in done["held"] if row["column"] != "data_keys.wrapped_key"}
    assert (len(before), len(sealed), before & sealed) == (1, 1, set())
    assert done["resealed"] >= 3
    monkeypatch.delenv("AGENTIDP_MASTER_KEY_PREVIOUS")
    assert len(master_keys(agentidp)) == 1


def test_what_the_first_release_left_follows(under_a: None, database_url: str, agentidp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(make_old_at(database_url, A))
    assert master_keys(agentidp) == {f"master key {key_id_of(A)}"}
    held = rotate(agentidp, "--status")["held"]
    assert {row["dataKey"] for row in held if row["column"] == "signing_keys.sealed_private_key"} == {None}
    monkeypatch.setenv("AGENTIDP_MASTER_KEY", B)
    monkeypatch.setenv("AGENTIDP_MASTER_KEY_PREVIOUS", A)
    assert rotate(agentidp)["resealed"] >= 3
    monkeypatch.delenv("AGENTIDP_MASTER_KEY_PREVIOUS")
    assert master_keys(agentidp) == {f"master key {key_id_of(B)}"}


def test_the_key_of_the_file_is_replaced(instance: dict[str, str], data: Path, agentidp: Command) -> None:
    file = data / "master.key"
    before = file.read_text()
    assert rotate(agentidp)["done"]
    after = file.read_text()
    assert (len(after.splitlines()), after != before) == (1, True)
    kept = file.with_name(f"master.key.{key_id_of(before)}")
    assert kept.read_text() == before
    assert {stat.S_IMODE(path.stat().st_mode) for path in (file, kept)} == {0o600}
    assert not list(data.glob("*.partial"))
    assert master_keys(agentidp) == {f"master key {key_id_of(after)}"}
    assert rotate(agentidp, "--status")["done"]
    assert file.read_text() == after, "--status only looks"


def test_a_backup_from_before_opens_under_the_key_that_was_kept(file: Path, agentidp: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backup = tmp_path / "backup.db"
    assert agentidp("db", "backup", str(backup))[0] == 0
    out = agentidp("keys", "rotate-master")[1]
    [kept] = file.parent.glob("master.key.*")
    assert f"kept for them: {kept}\n" in out
    assert agentidp("db", "restore", "--force", str(backup))[0] == 2
    monkeypatch.setenv("AGENTIDP_MASTER_KEY_PREVIOUS", kept.read_text().strip())
    assert agentidp("db", "restore", "--force", str(backup))[0] == 0


def test_a_file_with_two_keys_is_in_the_middle_of_a_rotation_that_goes_on(instance: dict[str, str], data: Path, agentidp: Command) -> None:
    file = data / "master.key"
    old = file.read_text()
    file.write_text(f"{A}\n{old}")
    file.with_name(f"master.key.{key_id_of(old)}").write_text(old)  # as far as that it was interrupted
    assert master_keys(agentidp) == {f"master key {key_id_of(old)}"}
    assert not rotate(agentidp, "--status")["done"]
    assert rotate(agentidp)["masterKey"] == f"master key {key_id_of(A)}"
    assert file.read_text() == f"{A}\n"
    assert master_keys(agentidp) == {f"master key {key_id_of(A)}"}


def test_to_vault_and_back(under_a: None, agentidp: Command, vault: FakeVault, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTIDP_VAULT__ADDRESS", address)
    monkeypatch.setenv("AGENTIDP_VAULT__TOKEN", TOKEN)
    status = rotate(agentidp, "--status")
    assert (status["masterKey"], status["done"]) == ("Vault key transit/agentidp", False)
    assert rotate(agentidp)["done"]
    monkeypatch.delenv("AGENTIDP_MASTER_KEY")
    assert master_keys(agentidp) == {"Vault key transit/agentidp v1"}
    vault.rotate()
    assert rotate(agentidp)["done"]
    assert master_keys(agentidp) == {"Vault key transit/agentidp v2"}

    monkeypatch.setenv("AGENTIDP_MASTER_KEY", B)
    monkeypatch.setenv("AGENTIDP_VAULT__RETIRING", "true")
    assert rotate(agentidp)["done"]
    for name in ("ADDRESS", "TOKEN", "RETIRING"):
        monkeypatch.delenv(f"AGENTIDP_VAULT__{name}")
    assert master_keys(agentidp) == {f"master key {key_id_of(B)}"}


def test_with_vault_from_the_beginning_there_is_no_key_file(
    database_url: str, data: Path, agentidp: Command, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    monkeypatch.setenv("AGENTIDP_DATABASE_URL", database_url)
    monkeypatch.setenv("AGENTIDP_VAULT__ADDRESS", address)
    monkeypatch.setenv("AGENTIDP_VAULT__TOKEN_FILE", str(tmp_path / "token"))
    assert agentidp("init")[0] == 0
    assert not (data / "master.key").exists()
    assert master_keys(agentidp) == {"Vault key transit/agentidp v1"}


@pytest.mark.parametrize("wrong", ["nobody there", "sealed", "denied", "no token"])
def test_a_start_that_vault_refuses_says_so_in_one_line(
    wrong: str, data: Path, agentidp: Command, vault: FakeVault, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTIDP_VAULT__ADDRESS", address)
    monkeypatch.setenv("AGENTIDP_VAULT__TOKEN", TOKEN)
    assert agentidp("init")[0] == 0
    vault.is_sealed = wrong == "sealed"
    if wrong == "nobody there":
        monkeypatch.setenv("AGENTIDP_VAULT__ADDRESS", "http://127.0.0.1:1")
    elif wrong == "denied":
        monkeypatch.setenv("AGENTIDP_VAULT__TOKEN", "hvs.another-token")
    elif wrong == "no token":
        monkeypatch.delenv("AGENTIDP_VAULT__TOKEN")
    code, out, err = agentidp("keys", "list")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("agentidp: vault")
    assert "hvs." not in err
