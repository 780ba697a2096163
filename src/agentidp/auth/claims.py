"""What tokens that others make have in common: their types, instants, and ids that are used once (RFC 7515 section 4.1.9, RFC 7519 section 4.1). Pure."""

from collections.abc import Mapping
from typing import Any

from agentidp.auth.jws import InvalidToken
from agentidp.core import limits

LEEWAY_MS = limits.ISSUED_AT_LEEWAY_SECONDS * 1000


def media_type(header: Mapping[str, Any]) -> str | None:
    """`typ` in lower case and without the `application/` that may stand in front, None when absent. Raises InvalidToken."""
    if "typ" not in header:
        return None
    value = header["typ"]
    if not isinstance(value, str):
        raise InvalidToken("typ is not text")
    return value.lower().removeprefix("application/")


def instant(claims: Mapping[str, Any], name: str) -> int | None:
    """A NumericDate in milliseconds, None when absent. Raises InvalidToken."""
    if name not in claims:
        return None
    value = claims[name]
    if type(value) not in {int, float} or not 0 <= value * 1000 <= limits.TIMESTAMP_MS_MAX:
        raise InvalidToken(f"{name} is not a time")
    return int(value * 1000)


def past_instant(claims: Mapping[str, Any], name: str, now: int) -> int | None:
    """The same, not in the future by more than clocks may differ."""
    found = instant(claims, name)
    if found is not None and found > now + LEEWAY_MS:
        raise InvalidToken(f"{name} is in the future")
    return found


def token_id(claims: Mapping[str, Any]) -> str:
    """The `jti`. Raises InvalidToken."""
    value = claims.get("jti")
    if not isinstance(value, str) or not 0 < len(value) <= limits.JTI_CHARACTERS_MAX:
        raise InvalidToken("jti is missing or too long")
    return value
