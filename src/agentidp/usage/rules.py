"""What is counted in a day. Pure."""

from dataclasses import dataclass

from agentidp.ledger.entries import DAY_MS


@dataclass(frozen=True, slots=True)
class Usage:
    """What an organization used in one UTC day, by its number since the epoch: authenticated calls, tokens issued, agents and credentials made."""

    day: int
    calls: int = 0
    tokens: int = 0
    agents: int = 0
    credentials: int = 0

    @property
    def ends_at(self) -> int:
        """Midnight UTC, when counting begins again. Milliseconds."""
        return (self.day + 1) * DAY_MS
