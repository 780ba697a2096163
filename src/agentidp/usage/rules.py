"""What is counted in a day. Pure."""

from dataclasses import dataclass

from agentidp.ledger.entries import DAY_MS


@dataclass(frozen=True, slots=True)
class Usage:
    """What an organization used in one UTC day, by its number since the epoch: authenticated calls, and tokens issued."""

    day: int
    calls: int
    tokens: int

    @property
    def ends_at(self) -> int:
        """Midnight UTC, when counting begins again. Milliseconds."""
        return (self.day + 1) * DAY_MS
