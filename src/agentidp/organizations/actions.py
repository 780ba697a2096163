"""Creating organizations."""

import sqlalchemy as sa

from agentidp.db.schema import organizations
from agentidp.db.unit import Tx


def create_organization(tx: Tx, organization_id: str, *, name: str, slug: str, plan_tier: str) -> None:
    """A new active organization. Whoever calls has checked name and slug."""
    tx.run(
        sa.insert(organizations).values(
            organization_id=organization_id, name=name, slug=slug, plan_tier=plan_tier, status="active", revision=1, created_at=tx.now, updated_at=tx.now
        )
    )
    tx.record("org.created", "organization", organization_id, organization_id=organization_id, slug=slug)
