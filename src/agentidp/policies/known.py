"""The trust policies that this process has read, by organization. They may be out of date: the revision of a policy's credential tells, and the ledger confirms it."""

from agentidp.auth.instance import Instance
from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.db.unit import Database
from agentidp.policies.queries import all_policies
from agentidp.policies.rules import Policy


class KnownPolicies:
    """The oldest organizations go when there are too many; those without a policy are not kept."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, tuple[Policy, ...]] = {}

    def cached(self, organization_id: str) -> tuple[Policy, ...]:
        return self._known.get(organization_id, ())

    async def of(self, organization_id: str, *, fresh: bool = False) -> tuple[Policy, ...]:
        """All of the organization's, oldest first; from the database when `fresh`."""
        found = () if fresh else self.cached(organization_id)
        if not found:
            found = await self._database.read(all_policies, Caller(organization_id))
            self._known.pop(organization_id, None)
            if len(self._known) >= limits.POLICIES_CACHED_MAX:
                del self._known[next(iter(self._known))]
            if found:
                self._known[organization_id] = found
        return found


def policies_of(instance: Instance) -> KnownPolicies:
    """The instance's own, which stand above the floor that it is defined on."""
    assert isinstance(instance.policies, KnownPolicies)
    return instance.policies
