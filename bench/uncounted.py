"""The product on SQLite with a ledger that counts nothing: what counting costs. Settings as `agentidp serve` takes them."""

from agentidp.ledger import sqlite
from agentidp.start import Started
from bench.ceiling import run


def without_counting(_: Started) -> None:
    """From here on a batch adds to no counter of this process."""
    sqlite.counters = lambda *_: {}  # type: ignore[attr-defined]  # the whole point


if __name__ == "__main__":
    run(without_counting)
