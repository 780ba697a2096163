"""What one running server is made of. `app` builds it once; requests carry it, so that no module holds a global."""

from dataclasses import dataclass, field

from starlette.requests import Request

from agentidp.auth.keys import KeyStore
from agentidp.auth.outside_keys import OutsideKeys, PublishedKeys
from agentidp.auth.rates import RateLimits
from agentidp.core import limits
from agentidp.core.clock import Clock
from agentidp.core.config import Settings
from agentidp.core.metrics import Metrics
from agentidp.core.outgoing import Outgoing
from agentidp.core.plans import Plans
from agentidp.core.secrets import Sealer
from agentidp.core.seldom import Seldom
from agentidp.core.turns import Turns
from agentidp.db.unit import Database
from agentidp.ledger.heads import AuditKey
from agentidp.ledger.ledger import Ledger
from agentidp.ledger.nudge import Nudge


@dataclass(slots=True)
class Instance:
    """The parts that endpoints use. `secret_key` is the key of the HMAC under which client secrets are stored, `nonce_key` that of DPoP's nonces.

    `audit_key` signs checkpoints.
    """

    settings: Settings
    database: Database
    keys: KeyStore
    ledger: Ledger
    sealer: Sealer
    clock: Clock
    metrics: Metrics
    plans: Plans
    rates: RateLimits
    outgoing: Outgoing
    outside_keys: OutsideKeys
    published_keys: PublishedKeys  # of clients
    secret_key: bytes = b""
    nonce_key: bytes = b""
    operator_organization_id: str = ""
    audit_key: AuditKey = field(default_factory=AuditKey)
    nudge: Nudge = field(default_factory=Nudge)  # to the sealer
    policies: object | None = None  # the `policies.known.KnownPolicies`, which stand above this floor
    stripe: object | None = None  # a `billing.stripe.Stripe`, which stands above this floor; None where nothing is sold
    limits_noted: Seldom = field(default_factory=lambda: Seldom(limits.LIMIT_NOTE_MS, limits.LIMIT_NOTES_MAX))  # by organization and limit of its plan
    audit_verifications: Turns = field(default_factory=lambda: Turns(limits.AUDIT_VERIFICATIONS_MAX, limits.AUDIT_VERIFICATIONS_EACH_MAX))
    audit_exports: Turns = field(default_factory=lambda: Turns(limits.AUDIT_EXPORTS_MAX, limits.AUDIT_EXPORTS_EACH_MAX))


def instance_of(request: Request) -> Instance:
    instance = request.scope["agentidp.instance"]
    assert isinstance(instance, Instance)
    return instance
