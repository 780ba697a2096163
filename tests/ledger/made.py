"""An organization with an agent and a credential, made through the product's actions, and what the ledger reads of them."""

import uuid
from dataclasses import dataclass

import sqlalchemy as sa

from agentidp.agents.actions import register_agent
from agentidp.agents.rules import NewAgent
from agentidp.auth.scopes import SCOPES
from agentidp.core.caller import SYSTEM, Caller
from agentidp.core.plans import PlanSettings, plans_in_force
from agentidp.credentials.actions import generate_credential
from agentidp.db.schema import credential_secrets
from agentidp.db.unit import Database, Tx
from agentidp.ledger.entries import Snapshot
from agentidp.ledger.snapshots import read_snapshot
from agentidp.organizations.actions import create_organization

NOBODY = SYSTEM  # no tenant's
SECRET_KEY = b"k" * 32
PLANS = plans_in_force(PlanSettings(), enforced=True)


@dataclass
class Known:
    """`key` is the credential's key in the directory of secrets."""

    organization_id: str
    agent_id: str
    credential_id: str
    key: str
    snapshot: Snapshot

    @property
    def caller(self) -> Caller:
        return Caller(self.organization_id, self.agent_id, frozenset(SCOPES))


async def make_known(database: Database) -> Known:
    """One more organization with an agent and a credential."""
    return await database.write(_make, Caller(str(uuid.uuid4()), scopes=frozenset(SCOPES)))


def _make(tx: Tx) -> Known:
    organization_id = tx.caller.organization_id
    create_organization(tx, organization_id, name="Known", slug=f"k-{uuid.uuid4().hex[:12]}", plan_tier="enterprise")
    agent = register_agent(
        tx,
        NewAgent(
            email=f"agent-{uuid.uuid4().hex}@acme.example",
            agent_type="custom",
            version="1.0.0",
            capabilities=("a:b",),
            owner="tests",
            deployment_env="development",
            scopes=frozenset({"agents:read", "tokens:read"}),
        ),
        plans=PLANS,
    )
    generate_credential(tx, agent.agent_id, SECRET_KEY)
    secret = credential_secrets
    row = tx.one(sa.select(secret.c.credential_key, secret.c.credential_id).where(secret.c.organization_id == organization_id))
    assert row is not None
    snapshot = read_snapshot(tx, organization_id, row.credential_id, PLANS)
    assert snapshot is not None
    return Known(organization_id, agent.agent_id, row.credential_id, row.credential_key, snapshot)
