"""From settings to a running instance: master key, schema, server secrets, signing keys, first credential. Each step may be repeated."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from agentidp.auth.instance import Instance
from agentidp.auth.keys import KeyStore, ensure_keys
from agentidp.auth.server_secrets import CLIENT_SECRET_KEY, ensure_server_secret
from agentidp.bootstrap import AlreadySetUp, FirstCredential, find_operator_organization, set_up_instance
from agentidp.core.caller import SYSTEM
from agentidp.core.clock import Clock, system_clock
from agentidp.core.config import FIRST_CREDENTIAL_FILE, MASTER_KEY_FILE, Settings
from agentidp.core.errors import WrongSettings
from agentidp.core.metrics import Metrics
from agentidp.core.secrets import Sealer, new_master_key
from agentidp.db.engine import database_url, open_database
from agentidp.db.migrate import in_transaction, upgrade
from agentidp.ledger.ledger import Ledger
from agentidp.ledger.writers import LedgerWriters


@dataclass(frozen=True, slots=True)
class Started:
    """`first` is there only when this start set the instance up."""

    instance: Instance
    first: FirstCredential | None


async def start(settings: Settings, clock: Clock = system_clock) -> Started:
    """Bring the database up to date and open it. Raises WrongSettings."""
    sealer = load_sealer(settings)
    url = database_url(settings)
    await in_transaction(url, upgrade)
    metrics = Metrics()
    database = open_database(url, clock, LedgerWriters(), metrics.observe_database)
    instance = Instance(settings, database, KeyStore(database, sealer, clock), Ledger(database), sealer, clock, metrics)
    try:
        instance.secret_key = await database.write(ensure_server_secret, SYSTEM, sealer, CLIENT_SECRET_KEY)
        await database.write(ensure_keys, SYSTEM, sealer, settings.tokens.algorithm)
        await instance.keys.reload()
        first = await _set_up_once(instance)
        organization_id = await database.read(find_operator_organization, SYSTEM)
    except BaseException:
        await database.close()
        raise
    instance.operator_organization_id = organization_id or ""
    return Started(instance, first)


def load_sealer(settings: Settings) -> Sealer:
    """The sealer under the master key of the settings, or of the 0600 file in the data folder, made on first use. Raises WrongSettings."""
    if settings.master_key is not None:
        return Sealer(settings.master_key.get_secret_value())
    path = settings.data_dir / MASTER_KEY_FILE
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with private_file(path) as file:
                file.write(new_master_key() + "\n")
        except FileExistsError:
            if path.stat().st_mode & 0o077:
                raise WrongSettings(f"{path}: others may read the master key; run chmod 600 on it") from None
        return Sealer(path.read_text("ascii"))
    except (OSError, UnicodeError) as error:
        raise WrongSettings(f"data_dir: {error}") from error


@contextlib.contextmanager
def private_file(path: Path) -> Iterator[TextIO]:
    """A new file that only its owner may read: there, whole and durable, once the block has ended well. Raises FileExistsError."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)  # unlike a rename, it refuses to replace
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # else the file may be without a name after a power loss, and what is sealed with it is lost
        finally:
            os.close(folder)
    finally:
        partial.unlink()


def first_credential_document(issuer: str, first: FirstCredential) -> dict[str, str]:
    """What `init --json` prints and `first-credential.json` holds."""
    return {
        "issuer": issuer,
        "organizationId": first.organization_id,
        "agentId": first.agent_id,
        "clientId": first.agent_id,
        "clientSecret": first.client_secret,
    }


async def _set_up_once(instance: Instance) -> FirstCredential | None:
    path = instance.settings.data_dir / FIRST_CREDENTIAL_FILE
    there = path.exists()  # asked first: another process that is setting this database up may write it any moment
    if await instance.database.read(find_operator_organization, SYSTEM) is not None:
        return None
    if there:
        raise WrongSettings(f"{path}: belongs to another database; move it away before an empty one is set up")
    try:
        instance.settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with private_file(path) as file:  # opened first: where it cannot be, there must be no secret that nobody has
            first = await instance.database.write(set_up_instance, SYSTEM, instance.secret_key)
            file.write(json.dumps(first_credential_document(instance.settings.issuer, first), indent=2) + "\n")
    except AlreadySetUp:
        return None
    except OSError as error:
        raise WrongSettings(f"data_dir: {error}") from error
    return first
