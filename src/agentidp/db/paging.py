"""Pages of a list, newest first: by cursor without limit, by number up to 10,000 rows; counting stops there too."""

import base64
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from agentidp.core import limits
from agentidp.core.errors import InvalidFields
from agentidp.db.unit import Tx


@dataclass(frozen=True, slots=True)
class PageRequest:
    """`page` or `after` (the id of the last row seen), not both."""

    limit: int
    page: int | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True)
class RowPage:
    """The rows of one page with what the next one needs."""

    rows: list[sa.Row[Any]]
    page: int | None
    limit: int
    total: int | None
    next_cursor: str | None


def page_request(limit: int, page: int | None, cursor: str | None) -> PageRequest:
    """Raises InvalidFields when both are given, the cursor is not one of ours, or the page lies beyond 10,000 rows."""
    if cursor is not None:
        if page is not None:
            raise InvalidFields([("cursor", "cannot be combined with page")])
        try:
            return PageRequest(limit, after=str(UUID(bytes=base64.urlsafe_b64decode(cursor + "=="))))
        except ValueError as error:
            raise InvalidFields([("cursor", "is not a nextCursor of this list")]) from error
    if (page or 1) * limit > limits.OFFSET_ROWS_MAX:
        raise InvalidFields([("page", f"page × limit ends at {limits.OFFSET_ROWS_MAX}; use cursor to go further")])
    return PageRequest(limit, page=page or 1)


def fetch_page(tx: Tx, query: sa.Select[Any], key: sa.Column[str], request: PageRequest) -> RowPage:
    """Run the query for one page. `key` is the UUIDv7 column that orders the list and must be among the selected columns."""
    ordered = query.order_by(key.desc()).limit(request.limit + 1)
    total = None
    if request.page is None:
        rows = tx.all(ordered.where(key < request.after))
    else:
        rows = tx.all(ordered.offset((request.page - 1) * request.limit))
        counted = query.with_only_columns(key).limit(limits.OFFSET_ROWS_MAX).subquery()
        total = tx.connection.scalar(sa.select(sa.func.count()).select_from(counted))
    more, rows = len(rows) > request.limit, rows[: request.limit]
    next_cursor = None
    if more:
        next_cursor = base64.urlsafe_b64encode(UUID(getattr(rows[-1], key.name)).bytes).rstrip(b"=").decode()
    return RowPage(rows, request.page, request.limit, total, next_cursor)
