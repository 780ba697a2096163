"""One JSON object a line on standard error. Values are escaped by JSON, so no input can split a record; secrets are never passed in."""

import json
import logging
import sys

from agentidp.core.clock import to_rfc3339

_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """`{time, level, logger, message, …}`; what a call passes in `extra` becomes fields of its own."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": to_rfc3339(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _OWN_FIELDS}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def configure(level: str) -> None:
    """Send everything from `level` on to standard error. SQL statements stay quiet: their parameters may hold hashes."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("sqlalchemy.engine", "asyncio", "alembic", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # why a start failed is told once, by the command that tried
    logging.getLogger("uvicorn.error").addFilter(lambda record: not record.getMessage().startswith("Application startup failed"))
