"""Pages of a list on both engines: newest first, complete, bounded."""

import pytest
import sqlalchemy as sa
from tests.db.opened import NOBODY, insert_organization, with_database

from agentidp.core import limits
from agentidp.core.errors import InvalidFields
from agentidp.core.ids import new_id
from agentidp.db.paging import PageRequest, RowPage, fetch_page, page_request
from agentidp.db.schema import organizations
from agentidp.db.unit import Database, Tx

COLUMN = organizations.c.organization_id


def fill(tx: Tx, ids: list[str]) -> None:
    for one in ids:
        insert_organization(tx, one, one)


def fetch(tx: Tx, request: PageRequest) -> RowPage:
    return fetch_page(tx, sa.select(organizations), COLUMN, request)


def ids_of(page: RowPage) -> list[str]:
    return [row.organization_id for row in page.rows]


def test_by_cursor_every_row_comes_once_newest_first_whatever_is_added_meanwhile(database_url: str) -> None:
    ids = [new_id(0) for _ in range(23)]

    async def work(database: Database) -> list[str]:
        await database.write(fill, NOBODY, ids)
        seen: list[str] = []
        request = page_request(5, 1, None)
        while True:
            page = await database.read(fetch, NOBODY, request)
            assert (page.total is None) == (request.page is None)
            seen += ids_of(page)
            if page.next_cursor is None:
                return seen
            await database.write(fill, NOBODY, [new_id(0)])  # a newer row: not on any later page
            request = page_request(5, None, page.next_cursor)

    assert with_database(database_url, work) == ids[::-1]


def test_by_number_with_the_total_of_what_the_filter_lets_through(database_url: str) -> None:
    ids = [new_id(0) for _ in range(7)]

    async def work(database: Database) -> None:
        await database.write(fill, NOBODY, ids)
        pages = [await database.read(fetch, NOBODY, page_request(3, number, None)) for number in (1, 2, 3, 4)]
        assert [ids_of(page) for page in pages] == [ids[6:3:-1], ids[3:0:-1], ids[:1], []]
        assert [(page.page, page.limit, page.total) for page in pages] == [(number, 3, 7) for number in (1, 2, 3, 4)]
        assert [page.next_cursor is None for page in pages] == [False, False, True, True]
        filtered = sa.select(organizations).where(COLUMN.in_(ids[:2]))
        page = await database.read(fetch_page, NOBODY, filtered, COLUMN, page_request(2, None, None))
        assert (ids_of(page), page.total, page.next_cursor) == ([ids[1], ids[0]], 2, None)

    with_database(database_url, work)


def test_an_empty_list_is_one_empty_page(database_url: str) -> None:
    async def work(database: Database) -> RowPage:
        return await database.read(fetch, NOBODY, page_request(20, None, None))

    assert with_database(database_url, work) == RowPage([], 1, 20, 0, None)


def test_the_cursor_of_a_row_that_is_gone_still_shows_the_way(database_url: str) -> None:
    ids = [new_id(0) for _ in range(3)]

    async def work(database: Database) -> list[str]:
        await database.write(fill, NOBODY, ids)
        page = await database.read(fetch, NOBODY, page_request(2, None, None))
        await database.write(lambda tx: tx.run(sa.delete(organizations).where(ids[1] == COLUMN)), NOBODY)
        return ids_of(await database.read(fetch, NOBODY, page_request(2, None, page.next_cursor)))

    assert with_database(database_url, work) == [ids[0]]


@pytest.mark.parametrize("cursor", ["", "A", "not a cursor", "A" * 21, "A" * 23, "\xe9" * 22, "!" * 22])
def test_a_cursor_that_is_none_of_ours_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidFields, match="cursor: is not a nextCursor of this list"):
        page_request(20, None, cursor)


def test_a_cursor_and_a_page_number_exclude_each_other() -> None:
    with pytest.raises(InvalidFields, match="cursor: cannot be combined with page"):
        page_request(20, 1, "A" * 22)


@pytest.mark.parametrize(
    ("limit", "page", "allowed"), [(100, 100, True), (100, 101, False), (1, limits.OFFSET_ROWS_MAX, True), (1, limits.OFFSET_ROWS_MAX + 1, False)]
)
def test_numbered_pages_end_at_ten_thousand_rows(limit: int, page: int, *, allowed: bool) -> None:
    if allowed:
        assert page_request(limit, page, None) == PageRequest(limit, page)
    else:
        with pytest.raises(InvalidFields, match="use cursor to go further"):
            page_request(limit, page, None)


def test_counting_stops_there_too(database_url: str) -> None:
    row = {"name": "x", "plan_tier": "free", "status": "active", "revision": 1, "created_at": 0, "updated_at": 0}

    def fill_beyond(tx: Tx) -> None:
        rows = [row | {"organization_id": one, "slug": one} for one in (new_id(0) for _ in range(limits.OFFSET_ROWS_MAX + 5))]
        tx.connection.execute(sa.insert(organizations), rows)

    async def work(database: Database) -> int | None:
        await database.write(fill_beyond, NOBODY)
        return (await database.read(fetch, NOBODY, page_request(1, 1, None))).total

    assert with_database(database_url, work) == limits.OFFSET_ROWS_MAX
