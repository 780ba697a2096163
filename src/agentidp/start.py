"""From settings to a running instance: master key, schema, data key, server secrets, signing keys, first credential. Each step may be repeated."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from agentidp.auth.data_keys import open_sealer, refresh_sealer
from agentidp.auth.dpop import NONCE_KEY
from agentidp.auth.instance import Instance
from agentidp.auth.keys import KeyStore, ensure_keys
from agentidp.auth.master_keys import load_master_keys
from agentidp.auth.outside_keys import OutsideKeys
from agentidp.auth.rates import RateLimits
from agentidp.auth.server_secrets import CLIENT_SECRET_KEY, ensure_server_secret
from agentidp.billing.stripe import open_stripe
from agentidp.bootstrap import AlreadySetUp, FirstCredential, find_operator_organization, set_up_instance
from agentidp.core.caller import SYSTEM
from agentidp.core.clock import Clock, system_clock
from agentidp.core.config import FIRST_CREDENTIAL_FILE, Settings
from agentidp.core.errors import WrongSettings
from agentidp.core.metrics import Metrics
from agentidp.core.outgoing import Outgoing
from agentidp.core.plans import PlanTier, plans_in_force
from agentidp.core.private_files import private_file, put_in_place
from agentidp.db.engine import database_url, open_database
from agentidp.db.migrate import in_transaction, upgrade
from agentidp.db.unit import Tx
from agentidp.events.nats import open_nats
from agentidp.ledger.checkpoint import AUDIT_KEY
from agentidp.ledger.heads import AuditKey
from agentidp.ledger.ledger import Ledger
from agentidp.ledger.nudge import Nudge
from agentidp.ledger.writers import LedgerWriters
from agentidp.policies.known import KnownPolicies


@dataclass(frozen=True, slots=True)
class Started:
    """`first` is there only when this start set the instance up."""

    instance: Instance
    first: FirstCredential | None


async def start(settings: Settings, clock: Clock = system_clock) -> Started:
    """Bring the database up to date and open it. Raises WrongSettings."""
    master_keys = load_master_keys(settings)
    url, stripe = database_url(settings), open_stripe(settings)
    await in_transaction(url, functools.partial(upgrade, clock=clock))
    metrics, nudge = Metrics(), Nudge()
    plans, rates = plans_in_force(settings.plans, enforced=settings.features.tier_enforcement), RateLimits(settings, clock, metrics)
    outgoing = Outgoing(allow_loopback=settings.webhooks.allow_loopback, on_blocked=metrics.outgoing_blocked.inc)
    database = open_database(url, clock, LedgerWriters(nudge), metrics.observe_database)
    try:
        sealer = await open_sealer(database, master_keys)
        refresh = functools.partial(refresh_sealer, database, functools.partial(load_master_keys, settings), sealer)
        keys, ledger = KeyStore(database, sealer, clock, refresh), Ledger(database, plans)
        outside = OutsideKeys(outgoing, clock, settings.oidc.private_issuers)
        instance = Instance(settings, database, keys, ledger, sealer, clock, metrics, plans, rates, outgoing, outside, nudge=nudge)
        instance.policies = KnownPolicies(database)
        instance.secret_key = await database.write(ensure_server_secret, SYSTEM, sealer, CLIENT_SECRET_KEY)
        instance.nonce_key = await database.write(ensure_server_secret, SYSTEM, sealer, NONCE_KEY)
        instance.audit_key = AuditKey(settings.issuer, await database.write(ensure_server_secret, SYSTEM, sealer, AUDIT_KEY))
        await database.write(ensure_keys, SYSTEM, sealer, settings.tokens.algorithm)
        instance.stripe, instance.nats = stripe, open_nats(instance)
        await instance.keys.reload()
        first = await _set_up_once(instance)
        organization_id = await database.read(find_operator_organization, SYSTEM)
    except BaseException:
        await database.close()
        raise
    instance.operator_organization_id = organization_id or ""
    return Started(instance, first)


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
    """The first secret is nowhere else, and must outlive a kill at any moment: it is durable in a file before the transaction commits.

    That file waits under a name with its organization's id, and gets its own after the commit; a start that finds it waiting ends what was
    begun. What a transaction that never committed has left waits for an organization that there will never be: it is a secret of nothing.
    """
    path = instance.settings.data_dir / FIRST_CREDENTIAL_FILE
    there = path.exists()  # asked first: another process that is setting this database up may write it any moment
    organization_id = await instance.database.read(find_operator_organization, SYSTEM)
    if there and organization_id is None:
        raise WrongSettings(f"{path}: belongs to another database; move it away before an empty one is set up")
    first = None
    try:
        if organization_id is None:
            instance.settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            first = await instance.database.write(_set_up, SYSTEM, instance, path)
            organization_id = first.organization_id
        waiting = _waiting(path, organization_id)
        try:
            put_in_place(waiting, path)
        except FileExistsError as error:
            raise WrongSettings(f"{path}: belongs to another database; move it away, the one of this database is {waiting}") from error
    except AlreadySetUp:
        return None
    except OSError as error:
        raise WrongSettings(f"data_dir: {error}") from error
    return first


def _set_up(tx: Tx, instance: Instance, path: Path) -> FirstCredential:
    """Called again it makes another organization, and so another file: nothing is written over."""
    plan_tier: PlanTier = "free" if instance.settings.stripe.api_key else "enterprise"  # limits are for those who sell
    first = set_up_instance(tx, instance.secret_key, plan_tier=plan_tier, plans=instance.plans)
    try:
        with private_file(_waiting(path, first.organization_id)) as file:
            file.write(json.dumps(first_credential_document(instance.settings.issuer, first), indent=2) + "\n")
    except OSError as error:  # where it cannot be, there must be no secret that nobody has
        raise WrongSettings(f"data_dir: {error}") from error
    return first


def _waiting(path: Path, organization_id: str) -> Path:
    return path.with_name(f"{path.name}.{organization_id}")
