"""The forms that every resource shares: camelCase, no unknown fields, RFC 3339 instants, pages. JSON Schema says exactly what is accepted."""

import re
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel

from agentidp.core import limits
from agentidp.core.clock import from_rfc3339, to_rfc3339
from agentidp.core.ids import UUID_PATTERN

T = TypeVar("T")
_DIGITS = re.compile(r"[0-9]{1,9}", re.ASCII)


class Resource(BaseModel):
    """What we answer."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="forbid", from_attributes=True)


class RequestBody(BaseModel):
    """What we are sent: unknown fields are refused, and nothing is coerced from another type."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True)


class QueryParameters(BaseModel):
    """Parameters after the question mark."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class Page(Resource, Generic[T]):
    """One page of a list, newest first. `nextCursor` is null on the last page; `page` and `total` are null when paging by cursor."""

    data: list[T]
    page: int | None = Field(description="The number of this page, from 1; null when paging by cursor.")
    limit: int
    total: int | None = Field(description=f"How many there are, counted up to {limits.OFFSET_ROWS_MAX}; null when paging by cursor.")
    next_cursor: str | None = Field(description="Pass it as `cursor` to get the next page; null on the last one.")


def _parse_instant(value: Any) -> int:
    if not isinstance(value, str):
        raise ValueError("must be a string: an RFC 3339 date and time")  # noqa: TRY004 - pydantic reports ValueError
    return from_rfc3339(value)


def parse_number(value: Any) -> int:
    """Query numbers are plain ASCII digits: no sign, no white space, no other script's digits."""
    if isinstance(value, int):
        return value
    if not isinstance(value, str) or not _DIGITS.fullmatch(value):
        raise ValueError("must be a number in plain digits")
    return int(value)


def _whole(value: Any) -> Any:
    """JSON Schema's integers include 3.0 (draft 2020-12, section 6.1.1)."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber = BeforeValidator(_whole)  # after the bounds, so that JSON Schema shows them

_INSTANT_SCHEMA = {"type": "string", "format": "date-time", "examples": ["2027-01-31T12:00:00.000Z"]}
InstantIn = Annotated[int, BeforeValidator(_parse_instant), WithJsonSchema(_INSTANT_SCHEMA)]
InstantOut = Annotated[int, PlainSerializer(to_rfc3339, return_type=str), WithJsonSchema(_INSTANT_SCHEMA)]

# A line of text for people: at least one visible character, no control characters.
LINE = r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$"
Line128 = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=LINE)]
_EMAIL = r"^[A-Za-z0-9_%+-]+(\.[A-Za-z0-9_%+-]+)*@([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]([A-Za-z0-9-]*[A-Za-z0-9])?$"
Email = Annotated[str, StringConstraints(min_length=6, max_length=254, pattern=_EMAIL), Field(examples=["screener-001@acme.example"])]
Filter = Annotated[str, StringConstraints(min_length=1, max_length=254, pattern=r"^[^\x00-\x1f\x7f]*$")]
Uuid = Annotated[str, StringConstraints(pattern=UUID_PATTERN), Field(json_schema_extra={"format": "uuid"})]


def absent() -> Any:
    return None


ABSENT: Any = Field(default_factory=absent)  # optional without being nullable; `exclude_unset` tells it apart


def _unique(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("must not hold anything twice")
    return values


Unique = AfterValidator(_unique)
UNIQUE_SCHEMA: dict[str, Any] = {"uniqueItems": True}


class PageParameters(QueryParameters):
    """Where in a list to read. `page` is for people and ends at 10,000 rows; `cursor` has no end."""

    limit: Annotated[int, Field(ge=1, le=limits.PAGE_LIMIT_MAX, description="Rows on a page."), BeforeValidator(parse_number)] = limits.PAGE_LIMIT_DEFAULT
    page: Annotated[int, Field(ge=1, le=100, description="Page number; `page` × `limit` at most 10,000."), BeforeValidator(parse_number)] | None = None
    cursor: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{22}$"), Field(description="`nextCursor` of the page before.")] | None = None


class ErrorResponse(BaseModel):
    """What every refusal looks like, the OAuth endpoints' excepted."""

    code: str = Field(examples=["VALIDATION_ERROR"])
    message: str
    details: dict[str, Any] = Field(default_factory=dict)


class OAuthErrorResponse(BaseModel):
    """A refusal in the form of RFC 6749 section 5.2."""

    error: str = Field(examples=["invalid_request"])
    error_description: str
    code: str = Field("", description="Which reason, where the error has many: our own code for it.")
