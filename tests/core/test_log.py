"""One JSON object a line, whatever is logged."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from agentidp.core.log import JsonFormatter, configure

HOSTILE = [
    'a"b\\c',
    "line\nbreak\r\n2026-11-22 fake entry",
    '"}\n{"level": "critical", "message": "forged"}',
    "nul\x00 escape\x1b[31m bell\x07",
    "bidi \u202e override, separators \u2028 \u2029 \x85",
    "lone surrogate \ud800",
    "a" * 100_000,
]


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("sqlalchemy.engine", "asyncio", "alembic", "uvicorn.error")}
    filters = logging.getLogger("uvicorn.error").filters[:]
    yield
    root.handlers[:], level = before
    root.setLevel(level)
    for name, one in levels.items():
        logging.getLogger(name).setLevel(one)
    logging.getLogger("uvicorn.error").filters[:] = filters


def formatted(message: str, *args: object, **fields: Any) -> dict[str, Any]:
    record = logging.makeLogRecord({"name": "agentidp.test", "levelname": "WARNING", "msg": message, "args": args, "created": 1_795_375_231.042} | fields)
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert line.isprintable(), "no control character leaves unescaped"
    document: dict[str, Any] = json.loads(line)
    return document


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_input_splits_a_record_or_forges_a_field(text: str) -> None:
    document = formatted("request from %s", text, user_agent=text)
    assert document["message"] == f"request from {text}"
    assert document["user_agent"] == text
    assert document["level"] == "warning"
    assert formatted(text)["message"] == text


def test_has_time_level_logger_and_the_fields_of_the_call() -> None:
    assert formatted("hello", status=200, nothing=None) == {
        "time": "2026-11-22T19:20:31.042Z",
        "level": "warning",
        "logger": "agentidp.test",
        "message": "hello",
        "status": 200,
        "nothing": None,
    }


def test_an_exception_stays_on_the_line_of_its_record() -> None:
    try:
        raise RuntimeError("first\nsecond")
    except RuntimeError as error:
        document = formatted("failed", exc_info=(RuntimeError, error, error.__traceback__))
    assert "RuntimeError: first\nsecond" in document["exception"]


def test_values_that_json_does_not_know_are_written_as_text() -> None:
    assert formatted("x", folder=object)["folder"] == str(object)


@pytest.mark.usefixtures("logging_restored")
def test_writes_to_standard_error_from_the_level_on(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info")
    logging.getLogger("agentidp.test").debug("quiet")
    logging.getLogger("agentidp.test").info("loud", extra={"status": 200})
    logging.getLogger("sqlalchemy.engine").info("INSERT INTO credential_secrets ... %r", [b"hash"])
    logging.getLogger("uvicorn.error").error("Application startup failed. Exiting.")  # told once, by the command itself
    out, err = capsys.readouterr()
    assert out == ""
    lines = [json.loads(line) for line in err.splitlines()]
    assert [(line["message"], line["status"]) for line in lines] == [("loud", 200)]


@pytest.mark.usefixtures("logging_restored")
def test_statements_and_their_parameters_are_not_logged_even_for_debugging(capsys: pytest.CaptureFixture[str]) -> None:
    configure("debug")
    logging.getLogger("sqlalchemy.engine.Engine").info("INSERT INTO credential_secrets ... %r", [b"hash"])
    logging.getLogger("agentidp.test").debug("loud")
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["loud"]
