"""Server-side secrets by name, made once and sealed under the master key."""

import os

import sqlalchemy as sa

from agentidp.core.secrets import Sealer
from agentidp.db.schema import server_secrets
from agentidp.db.unit import Tx

CLIENT_SECRET_KEY = "client_secret_hmac"  # noqa: S105 - a name
_BYTES = 32


def ensure_server_secret(tx: Tx, sealer: Sealer, name: str) -> bytes:
    """The 32 bytes of that name, made on first use. Raises WrongSettings when the master key is not the database's."""
    row = tx.one(sa.select(server_secrets.c.sealed_value).where(server_secrets.c.name == name))
    if row is not None:
        return sealer.unseal(row.sealed_value, "server_secrets", "sealed_value", name)
    value = os.urandom(_BYTES)
    sealed = sealer.seal(value, "server_secrets", "sealed_value", name)
    tx.run(sa.insert(server_secrets).values(name=name, sealed_value=sealed, created_at=tx.now))
    return value
