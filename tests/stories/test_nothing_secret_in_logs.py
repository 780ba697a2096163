"""A whole session against a server that logs all it can: no secret, token, hash or key of it is in what the process wrote."""

import base64
import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.processes import ServerProcess, serving, wait_until
from tests.stalls import SqliteStall
from tests.tenants import registration

pytestmark = pytest.mark.slow
GUESS = "aidp_sk_0000000000000000_a-secret-that-somebody-guessed"


class Session:
    """Requests of every kind; whatever must stay secret is collected on the way."""

    def __init__(self, server: ServerProcess) -> None:
        self.server, self.first, self.secrets = server, server.first, {server.first["clientSecret"], GUESS}
        self.client = server.client()

    def token(self, secret: str, client_id: str | None = None, **form: str) -> dict[str, Any]:
        body = {"grant_type": "client_credentials", "client_id": client_id or self.first["clientId"], "client_secret": secret, **form}
        answer: dict[str, Any] = self.client.post("/api/v1/token", data=body).json()
        self.secrets |= {answer[name] for name in ("access_token", "id_token") if name in answer}
        return answer

    def tokens_and_failures(self) -> None:
        first = self.first
        self.token(first["clientSecret"])
        self.token(GUESS)
        self.token(first["clientSecret"][:-1] + ("x" if first["clientSecret"][-1] != "x" else "y"))
        self.secrets.add(first["clientSecret"][:-1])
        basic = (first["clientId"], first["clientSecret"])
        form = {"grant_type": "client_credentials"}
        answer = self.client.post("/api/v1/token", data=form, auth=basic)
        assert answer.status_code == 200
        self.secrets |= {answer.json()["access_token"], answer.request.headers["Authorization"].split()[1]}
        refused = [
            self.client.post("/api/v1/token", params={"client_secret": first["clientSecret"]}, data=form),
            self.client.post("/api/v1/token", data=form, headers={"Authorization": f"Basic {GUESS}"}),
            self.client.post("/api/v1/token", content=f"client_secret={GUESS}&client_secret={GUESS}", headers={"Content-Type": "text/plain"}),
            self.client.post("/api/v1/token", content=f"client_secret={GUESS}&client_secret=%ff".encode()),
            self.client.get("/api/v1/agents", params={"access_token": GUESS}),
            self.client.get(f"/api/v1/agents/{GUESS}", headers={"Authorization": f"Bearer {GUESS}"}),
            self.client.get(f"/{GUESS}"),
            self.client.request(f"X{GUESS[:7]}", "/health"),
        ]
        assert {response.status_code for response in refused} <= {400, 401, 404, 405, 415}

    def credentials(self) -> None:
        bearer = {"Authorization": f"Bearer {self.token(self.first['clientSecret'])['access_token']}"}
        agent = self.client.post("/api/v1/agents", json=registration(), headers=bearer).json()
        path = f"/api/v1/agents/{agent['agentId']}/credentials"
        created = self.client.post(path, json={}, headers=bearer).json()
        rotated = self.client.post(f"{path}/{created['credentialId']}/rotate", json={"overlapSeconds": 60}, headers=bearer).json()
        self.secrets |= {created["clientSecret"], rotated["clientSecret"]}
        tokens = [self.token(one["clientSecret"], agent["agentId"])["access_token"] for one in (created, rotated)]
        self.client.post("/api/v1/token/introspect", data={"token": tokens[0]}, headers=bearer)
        self.client.post("/api/v1/token/revoke", data={"token": tokens[1]}, headers=bearer)
        assert self.client.get("/agent-info", headers={"Authorization": f"Bearer {tokens[1]}"}).status_code == 401
        assert self.client.delete(f"{path}/{created['credentialId']}", headers=bearer).status_code == 204
        wrong = [
            self.client.post(path, json={"clientSecret": GUESS}, headers=bearer),
            self.client.post(path, content=b'{"clientSecret": "' + GUESS.encode(), headers=bearer | {"Content-Type": "application/json"}),
            self.client.post("/api/v1/agents", json=registration(email=GUESS), headers=bearer),
            self.client.get("/api/v1/agents", params={GUESS: GUESS}, headers=bearer),
        ]
        assert {response.status_code for response in wrong} == {400}

    def with_the_database_stalled(self, database: Path) -> None:
        """Failures inside the database are logged with their exceptions."""
        bearer = {"Authorization": f"Bearer {self.token(self.first['clientSecret'])['access_token']}"}
        with SqliteStall(f"sqlite:///{database}").stalled():
            answers = [
                self.client.post("/api/v1/agents", json=registration(), headers=bearer),
                self.client.get("/api/v1/agents", headers={"Authorization": f"Bearer {GUESS}"}),
            ]
        assert [answer.status_code for answer in answers] == [503, 503]


def stored_secrets(database: Path) -> set[str]:
    """Everything in the database that its thief could use or attack, in the forms in which a log might show it."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        hashes = [row[0] for row in connection.execute("SELECT secret_hash FROM credential_secrets")]
        sealed = [row[0] for row in connection.execute("SELECT sealed_private_key FROM signing_keys UNION ALL SELECT sealed_value FROM server_secrets")]
    assert len(hashes) >= 3
    assert len(sealed) >= 3
    forms = {form for value in hashes for form in (value.hex(), base64.b64encode(value).decode(), repr(value)[2:-1])}
    return forms | {value.rpartition(".")[2] for value in sealed}


def test_a_session_leaves_no_secret_in_the_logs(tmp_path: Path) -> None:
    with serving(tmp_path, LOG_LEVEL="debug") as server:
        session = Session(server)
        with session.client:
            session.tokens_and_failures()
            session.credentials()
            session.with_the_database_stalled(server.data / "agentidp.db")
            wait_until(lambda: session.client.get("/health").status_code == 200)
        stdout = server.stdout
    assert server.stop() == 0
    secrets = session.secrets | stored_secrets(server.data / "agentidp.db") | {(server.data / "master.key").read_text().strip()}
    secrets |= {secret.rpartition(".")[2] for secret in secrets if secret.count(".") == 2}  # a token's signature alone is one, too
    secrets |= {secret.split("_")[3] for secret in secrets if secret.startswith("aidp_sk_")}
    secrets = {secret for secret in secrets if len(secret) >= 16}
    assert len(secrets) > 20
    shown_once = server.first["clientSecret"]
    logged = server.stderr + stdout.replace(shown_once, "")
    assert [secret for secret in secrets if secret in logged] == []

    lines = [json.loads(line) for line in server.stderr.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    requests = [line for line in lines if line["logger"] == "agentidp.access"]
    assert len(requests) > 20
    assert any("exception" in line for line in lines), "the stall should have been logged with its exception"


def test_a_failing_statement_is_logged_without_its_parameters(engine: str, database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What an engine says about a statement that failed names the statement, never the values."""
    import asyncio

    import sqlalchemy as sa
    from tests.serving import settings_for

    from agentidp.core.caller import Caller
    from agentidp.core.clock import system_clock
    from agentidp.core.errors import Unavailable
    from agentidp.db.engine import database_url as url_of
    from agentidp.db.engine import open_database
    from agentidp.db.unit import Tx

    def broken(tx: Tx) -> None:
        tx.run(sa.text("SELECT no_such_function(:value)").bindparams(value=GUESS))

    async def work() -> None:
        database = open_database(url_of(settings_for(tmp_path, database_url)), system_clock, lambda _: None)
        try:
            with pytest.raises(Unavailable):
                await database.read(broken, Caller(""))
            with pytest.raises(Unavailable):
                await database.write(broken, Caller(""))
        finally:
            await database.close()

    asyncio.run(work())
    assert "no_such_function" in caplog.text
    assert GUESS not in caplog.text
