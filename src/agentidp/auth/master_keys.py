"""Master keys: what wraps the data keys, under which every secret in the database is sealed. Kept here, in settings or a file, or in Vault.

Knows no database: `data_keys` stores what is wrapped.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agentidp.core.config import MASTER_KEY_FILE, Settings
from agentidp.core.errors import WrongSettings
from agentidp.core.private_files import private_file, replace_private_file
from agentidp.core.secrets import Sealer, key_id_of, new_master_key


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as the database holds it. `master_key` names what opens it, for people, too: `master key 1a2b3c4d`."""

    key_id: str
    master_key: str
    text: str


class KeyWrapper(Protocol):
    """A master key, wherever it is kept. Calls may take as long as a network does; each raises WrongSettings when it cannot be done."""

    name: str

    def holds(self, master_key: str) -> bool:
        """Whether a key wrapped by the `master_key` of that name opens here."""
        ...

    def wrap(self, key: str) -> WrappedKey: ...

    def unwrap(self, wrapped: WrappedKey) -> str: ...


class LocalKey:
    """A master key in this process's memory."""

    def __init__(self, key: str) -> None:
        self.key, self._sealer = key, Sealer(key)
        self.name = f"master key {self._sealer.key_id}"

    def holds(self, master_key: str) -> bool:
        return master_key == self.name

    def wrap(self, key: str) -> WrappedKey:
        key_id = key_id_of(key)
        return WrappedKey(key_id, self.name, self._sealer.seal(key.encode(), "data_keys", "wrapped_key", key_id))

    def unwrap(self, wrapped: WrappedKey) -> str:
        return self._sealer.unseal(wrapped.text, "data_keys", "wrapped_key", wrapped.key_id).decode()


@dataclass(frozen=True, slots=True)
class MasterKeys:
    """`current` wraps; the others only open what they have wrapped."""

    current: KeyWrapper
    others: tuple[KeyWrapper, ...] = ()

    def unwrap(self, wrapped: WrappedKey) -> str:
        """The data key. Raises WrongSettings when none of these master keys opens it."""
        for wrapper in (self.current, *self.others):
            if wrapper.holds(wrapped.master_key):
                key = wrapper.unwrap(wrapped)
                if key_id_of(key) != wrapped.key_id:
                    raise WrongSettings(f"data key {wrapped.key_id} was changed or moved")
                return key
        raise WrongSettings(f"master_key: the database is sealed under {wrapped.master_key}, this one is {self.current.name}")

    def local(self) -> list[str]:
        """Those that are here as such: before there were data keys, values were sealed under them directly."""
        return [wrapper.key for wrapper in (self.current, *self.others) if isinstance(wrapper, LocalKey)]


def load_master_keys(settings: Settings) -> MasterKeys:
    """The master key that the settings name, and those that they keep for what is not under it yet. Raises WrongSettings."""
    previous = settings.master_key_previous
    local = [*_own_keys(settings), *([previous.get_secret_value()] if previous else [])]
    keys: list[KeyWrapper] = [LocalKey(key) for key in local]
    if settings.vault.address is not None:
        from agentidp.auth.vault import VaultKey  # noqa: PLC0415 - the HTTP client is loaded only where it is used: cold start

        keys.insert(len(keys) if settings.vault.retiring else 0, VaultKey(settings.vault))
    return MasterKeys(keys[0], tuple(keys[1:]))


def _own_keys(settings: Settings) -> list[str]:
    """The master key of the settings, or what the 0600 file in the data folder holds, which is made where nothing else wraps."""
    if settings.master_key is not None:
        return [settings.master_key.get_secret_value()]
    path = settings.data_dir / MASTER_KEY_FILE
    try:
        if settings.is_vault_current and not path.exists():
            return []
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with private_file(path) as file:
                file.write(new_master_key() + "\n")
        except FileExistsError:
            if path.stat().st_mode & 0o077:
                raise WrongSettings(f"{path}: others may read the master key; run chmod 600 on it") from None
        return _keys_in(path)
    except (OSError, UnicodeError) as error:
        raise WrongSettings(f"data_dir: {error}") from error


def begin_file_rotation(settings: Settings) -> None:
    """Where the master key is a file's: put a fresh key before the one in it. A file that holds two is in the middle of a rotation already."""
    if path := _rotating_file(settings):
        keys = _keys_in(path)
        if len(keys) == 1:
            replace_private_file(path, f"{new_master_key()}\n{keys[0]}\n")


def end_file_rotation(settings: Settings) -> Path | None:
    """Take the earlier key out of the file: nothing is under it any more, except in backups. Returns where it is kept for those, None where there was none."""
    if (path := _rotating_file(settings)) is None:
        return None
    current, *earlier = _keys_in(path)
    kept = None
    for key in earlier:
        kept = path.with_name(f"{path.name}.{key_id_of(key)}")
        with contextlib.suppress(FileExistsError), private_file(kept) as file:  # else it was interrupted right after this
            file.write(key + "\n")
    replace_private_file(path, current + "\n")
    return kept


def _rotating_file(settings: Settings) -> Path | None:
    is_file = settings.master_key is None and not settings.is_vault_current
    return settings.data_dir / MASTER_KEY_FILE if is_file else None


def _keys_in(path: Path) -> list[str]:
    """One key a line, the current one first; while a rotation is under way there are two."""
    return path.read_text("ascii").splitlines() or [""]
