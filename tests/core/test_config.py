"""Settings: every one by environment and by file, which of the two wins, and one clear line for each that is wrong."""

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from agentidp.cli import main
from agentidp.core.config import Settings, load
from agentidp.core.errors import WrongSettings
from agentidp.core.plans import TIERS
from agentidp.core.secrets import new_master_key

KEY = new_master_key()
PRODUCTION = {"AGENTIDP_ENVIRONMENT": "production", "AGENTIDP_ISSUER": "https://id.example.com", "AGENTIDP_MASTER_KEY": KEY}

# name, as an environment variable, as TOML, what it becomes
EVERY_SETTING: list[tuple[str, str, str, Any]] = [
    ("data_dir", "/srv/agentidp", '"/srv/agentidp"', Path("/srv/agentidp")),
    ("database_url", "sqlite:///x.db", '"sqlite:///x.db"', SecretStr("sqlite:///x.db")),
    ("issuer", "http://id.test:8080", '"http://id.test:8080"', "http://id.test:8080"),
    ("nats_url", "nats://127.0.0.1:4222", '"nats://127.0.0.1:4222"', SecretStr("nats://127.0.0.1:4222")),
    ("nats.stream", "EVENTS", '"EVENTS"', "EVENTS"),
    ("nats.subject", "idp", '"idp"', "idp"),
    ("redis_url", "redis://127.0.0.1:6379/0", '"redis://127.0.0.1:6379/0"', SecretStr("redis://127.0.0.1:6379/0")),
    ("master_key", KEY, f'"{KEY}"', SecretStr(KEY)),
    ("master_key_previous", KEY, f'"{KEY}"', SecretStr(KEY)),
    ("environment", "development", '"development"', "development"),
    ("host", "::1", '"::1"', "::1"),
    ("port", "8080", "8080", 8080),
    ("log_level", "debug", '"debug"', "debug"),
    ("trusted_proxies", '["10.0.0.0/8"]', '["10.0.0.0/8"]', (ipaddress.ip_network("10.0.0.0/8"),)),
    ("tokens.algorithm", "RS256", '"RS256"', "RS256"),
    ("tokens.lifetime_seconds", "60", "60", 60),
    ("tokens.rotation_days", "0", "0", 0),
    ("tokens.default_audience", "https://api.example.com", '"https://api.example.com"', "https://api.example.com"),
    ("cors.origins", '["https://app.example.com"]', '["https://app.example.com"]', ("https://app.example.com",)),
    ("rate_limit.per_minute", "600", "600", 600),
    ("rate_limit.failed_logins_per_minute", "0", "0", 0),
    ("rate_limit.public_per_minute", "60", "60", 60),
    ("vault.address", "https://vault.test:8200", '"https://vault.test:8200"', "https://vault.test:8200"),
    ("oidc.github_issuer", "https://github.test/_services/token", '"https://github.test/_services/token"', "https://github.test/_services/token"),
    ("oidc.gitlab_issuer", "https://gitlab.test", '"https://gitlab.test"', "https://gitlab.test"),
    ("oidc.private_issuers", '["https://gitlab.test"]', '["https://gitlab.test"]', ("https://gitlab.test",)),
    ("vault.token", "s.token", '"s.token"', SecretStr("s.token")),
    ("vault.token_file", "/run/vault/token", '"/run/vault/token"', Path("/run/vault/token")),
    ("vault.key", "idp", '"idp"', "idp"),
    ("vault.mount", "kms/transit", '"kms/transit"', "kms/transit"),
    ("vault.namespace", "team-a/idp", '"team-a/idp"', "team-a/idp"),
    ("vault.ca_file", "/etc/ca.pem", '"/etc/ca.pem"', Path("/etc/ca.pem")),
    ("vault.retiring", "true", "true", True),
    ("stripe.webhook_secret", "whsec_one", '"whsec_one"', SecretStr("whsec_one")),
    ("stripe.webhook_secret_previous", "whsec_two", '"whsec_two"', SecretStr("whsec_two")),
    ("stripe.api_base", "http://127.0.0.1:12111", '"http://127.0.0.1:12111"', "http://127.0.0.1:12111"),
    ("stripe.prices.pro", "price_1", '"price_1"', "price_1"),
    ("stripe.prices.enterprise", "price_2", '"price_2"', "price_2"),
    ("stripe.meters.tokens", "tokens_issued", '"tokens_issued"', "tokens_issued"),
    ("stripe.meters.calls", "api_calls", '"api_calls"', "api_calls"),
    ("billing.allowed_origins", '["https://app.example.com"]', '["https://app.example.com"]', ("https://app.example.com",)),
    ("billing.grace_days", "3", "3", 3),
    ("features.billing", "false", "false", False),
    ("features.tier_enforcement", "false", "false", False),
    ("features.analytics", "false", "false", False),
    ("webhooks.allow_loopback", "true", "true", True),
    ("stripe.api_key", "sk_test_one", '"sk_test_one"', SecretStr("sk_test_one")),
    *(
        (f"plans.{tier}.{name}", str(value), str(value), value)
        for tier in TIERS
        for name, value in (("max_agents", 7), ("max_calls_per_day", 8), ("max_tokens_per_day", 9), ("requests_per_minute", 10), ("audit_kept_days", 11))
    ),
]
NAMES = [row[0] for row in EVERY_SETTING]


def variable(name: str) -> str:
    return "AGENTIDP_" + name.upper().replace(".", "__")


def value_of(settings: Settings, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def set_all(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "agentidp.toml"


def refusal(config: Path | None = None) -> str:
    with pytest.raises(WrongSettings) as caught:
        load(config)
    text = str(caught.value)
    assert text
    assert "\n" not in text, "one line, for a person"
    return text


def test_the_table_above_has_every_setting() -> None:
    def names(model: type[BaseModel], prefix: str = "") -> list[str]:
        found: list[str] = []
        for name, info in model.model_fields.items():
            kind = info.annotation
            nested = isinstance(kind, type) and issubclass(kind, BaseModel)
            found += names(kind, f"{prefix}{name}.") if nested else [prefix + name]  # type: ignore[arg-type]
        return found

    assert sorted(names(Settings)) == sorted(NAMES)


def test_defaults_are_right_for_a_laptop() -> None:
    settings = load()
    assert (settings.issuer, settings.default_audience) == ("http://127.0.0.1:3000", "http://127.0.0.1:3000")
    assert (settings.host, settings.port, settings.environment) == ("127.0.0.1", 3000, "development")
    assert (settings.tokens.algorithm, settings.tokens.lifetime_seconds) == ("ES256", 3600)
    assert settings.master_key is None
    assert settings.trusted_proxies == settings.cors.origins == ()


@pytest.mark.parametrize(("name", "text", "toml_text", "value"), EVERY_SETTING, ids=NAMES)
def test_each_by_environment_and_by_file(name: str, text: str, toml_text: str, value: Any, toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section, _, key = name.rpartition(".")
    toml.write_text((f"[{section}]\n" if section else "") + f"{key} = {toml_text}\n")
    assert value_of(load(toml), name) == value
    monkeypatch.setenv(variable(name), text)
    assert value_of(load(), name) == value


def test_the_environment_wins_over_the_file_value_by_value(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml.write_text('port = 4000\nhost = "::1"\n[tokens]\nalgorithm = "RS256"\nlifetime_seconds = 120\n')
    set_all(monkeypatch, {"AGENTIDP_PORT": "5000", "AGENTIDP_TOKENS__LIFETIME_SECONDS": "240"})
    settings = load(toml)
    assert (settings.port, settings.host) == (5000, "::1")
    assert (settings.tokens.lifetime_seconds, settings.tokens.algorithm) == (240, "RS256")


def test_overrides_of_the_caller_win_over_both(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml.write_text("port = 4000\n[tokens]\nlifetime_seconds = 120\n")
    monkeypatch.setenv("AGENTIDP_PORT", "5000")
    settings = load(toml, port=6000)
    assert (settings.port, settings.issuer) == (6000, "http://127.0.0.1:6000")
    assert settings.tokens.lifetime_seconds == 120


@pytest.mark.parametrize(
    ("host", "issuer"),
    [("0.0.0.0", "http://localhost:3000"), ("::", "http://localhost:3000"), ("::1", "http://[::1]:3000"), ("10.1.2.3", "http://10.1.2.3:3000")],
)
def test_the_issuer_follows_the_host_when_it_is_not_set(host: str, issuer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTIDP_HOST", host)
    assert load().issuer == issuer


def test_names_for_the_command_line_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {f"AGENTIDP_{name}": "x" for name in ("CONFIG", "URL", "CLIENT_ID", "CLIENT_SECRET")})
    assert load() == Settings()


WRONG: list[tuple[str, str, str]] = [
    ("AGENTIDP_PROT", "8080", "AGENTIDP_PROT: there is no such setting"),
    ("AGENTIDP_TOKEN__ALGORITHM", "RS256", "AGENTIDP_TOKEN__ALGORITHM: there is no such setting"),
    ("AGENTIDP_TOKENS__ALGORITM", "RS256", "tokens.algoritm"),
    ("AGENTIDP_TOKENS__ALGORITHM", "none", "tokens.algorithm"),
    ("AGENTIDP_TOKENS__ALGORITHM", "HS256", "tokens.algorithm"),
    ("AGENTIDP_TOKENS__LIFETIME_SECONDS", "59", "tokens.lifetime_seconds"),
    ("AGENTIDP_TOKENS__LIFETIME_SECONDS", "86401", "tokens.lifetime_seconds"),
    ("AGENTIDP_TOKENS__LIFETIME_SECONDS", "1h", "tokens.lifetime_seconds"),
    ("AGENTIDP_TOKENS__ROTATION_DAYS", "-1", "tokens.rotation_days"),
    ("AGENTIDP_TOKENS__DEFAULT_AUDIENCE", "api", "tokens.default_audience: must be an absolute URI"),
    ("AGENTIDP_STRIPE__API_BASE", "http://stripe.example", "stripe.api_base: must be https, but on the machine itself"),
    ("AGENTIDP_STRIPE__API_BASE", "https://api.stripe.com/v1", "stripe.api_base: must be scheme://host[:port]"),
    ("AGENTIDP_STRIPE__PRICES__PRO", "not a price", "stripe.prices.pro"),
    ("AGENTIDP_STRIPE__PRICES__FREE", "price_0", "stripe.prices.free"),
    ("AGENTIDP_STRIPE__PRICES", '{"pro": "price_1", "enterprise": "price_1"}', "stripe.prices: one price cannot buy two plans"),
    ("AGENTIDP_BILLING__ALLOWED_ORIGINS", '["https://app.example.com/"]', "billing.allowed_origins: must be scheme://host[:port]"),
    ("AGENTIDP_BILLING__GRACE_DAYS", "-1", "billing.grace_days"),
    ("AGENTIDP_TOKENS", "{not json", "tokens"),
    ("AGENTIDP_TOKENS", '{"algorithm": "none"}', "tokens.algorithm"),
    ("AGENTIDP_TRUSTED_PROXIES", "10.0.0.0/8", "trusted_proxies"),
    ("AGENTIDP_TRUSTED_PROXIES", '["10.0.0.1/8"]', "trusted_proxies"),
    ("AGENTIDP_CORS__ORIGINS", "https://app.example.com", "cors"),
    ("AGENTIDP_PORT", "0", "port"),
    ("AGENTIDP_PORT", "65536", "port"),
    ("AGENTIDP_LOG_LEVEL", "loud", "log_level"),
    ("AGENTIDP_ENVIRONMENT", "staging", "environment"),
    ("AGENTIDP_ISSUER", "id.example.com", "issuer"),
    ("AGENTIDP_ISSUER", "https://id.example.com/", "issuer"),
    ("AGENTIDP_ISSUER", "https://id.example.com/tenant", "issuer"),
    ("AGENTIDP_ISSUER", "https://ID.example.com", "issuer"),
    ("AGENTIDP_ISSUER", "https://user@id.example.com", "issuer"),
    ("AGENTIDP_ISSUER", "https://id.example.com:99999", "issuer"),
    ("AGENTIDP_ISSUER", "https://id.example.com?x=1", "issuer"),
    ("AGENTIDP_ISSUER", "https://[::1", "issuer"),
    ("AGENTIDP_ISSUER", "ftp://id.example.com", "issuer"),
]


@pytest.mark.parametrize(("name", "text", "named"), WRONG, ids=[f"{name}={text}" for name, text, _ in WRONG])
def test_a_wrong_one_is_named_in_one_line_with_exit_code_2(
    name: str, text: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, text)
    message = refusal()
    assert named in message
    with pytest.raises(SystemExit) as left:
        main(["init"])
    assert left.value.code == 2
    assert capsys.readouterr().err == f"agentidp: {message}\n"
    assert list(tmp_path.iterdir()) == [], "nothing was set up"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"AGENTIDP_ISSUER": ""}, "issuer: must be set in production"),
        ({"AGENTIDP_ISSUER": "http://id.example.com"}, "issuer: must be https in production"),
        ({"AGENTIDP_MASTER_KEY": None}, "master_key: must be set in production"),
        ({"AGENTIDP_LOG_LEVEL": "debug"}, "log_level: debug is not allowed in production"),
        ({"AGENTIDP_WEBHOOKS__ALLOW_LOOPBACK": "true"}, "webhooks.allow_loopback: is not allowed in production"),
    ],
    ids=["no issuer", "http", "no master key", "debug", "loopback"],
)
def test_production_refuses_what_is_right_only_on_a_laptop(change: dict[str, str | None], named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, PRODUCTION)
    assert load().environment == "production"
    for name, value in change.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    assert named in refusal()


def test_in_production_vault_stands_in_for_a_master_key_unless_it_retires(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, PRODUCTION | {"AGENTIDP_VAULT__ADDRESS": "https://vault.test"})
    monkeypatch.delenv("AGENTIDP_MASTER_KEY")
    assert load().is_vault_current
    monkeypatch.setenv("AGENTIDP_VAULT__RETIRING", "true")
    assert "master_key: must be set in production" in refusal()


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("ADDRESS", "http://vault.internal:8200", "vault.address: must be https"),
        ("ADDRESS", "https://vault.internal/v1", "vault.address: must be scheme://host"),
        ("KEY", "../sys/seal", "vault.key"),
        ("KEY", "a/b", "vault.key"),
        ("MOUNT", "transit/../sys", "vault.mount"),
        ("MOUNT", "/transit", "vault.mount"),
        ("NAMESPACE", "a\nX-Other: b", "vault.namespace"),
    ],
)
def test_what_would_lead_past_the_transit_key_is_refused(name: str, value: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"AGENTIDP_VAULT__{name}", value)
    assert named in refusal()


@pytest.mark.parametrize(
    "key", ["", "short", "A" * 43, "!" * 43, KEY[:-2], KEY + "AAAA"], ids=["empty", "short", "zeros", "no base64url", "too short", "too long"]
)
def test_a_master_key_that_is_none_is_refused_without_being_shown(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_all(monkeypatch, {"AGENTIDP_MASTER_KEY": key, "AGENTIDP_DATA_DIR": str(tmp_path)})
    with pytest.raises(SystemExit) as left:
        main(["init"])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("agentidp: master_key: ")
    assert error.count("\n") == 1
    assert len(key) < 10 or key not in error


@pytest.mark.parametrize(
    "text", ["port = ", "prot = 8080", "[tokens]\nalgoritm = 'RS256'", "port = 'many'", "\xff"], ids=["no TOML", "unknown", "nested", "type", "Latin-1"]
)
def test_a_wrong_file_is_named(text: str, toml: Path) -> None:
    toml.write_bytes(text.encode("latin-1"))
    message = refusal(toml)
    assert any(word in message for word in (str(toml), "prot", "algoritm", "port"))


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "absent.toml" in refusal(tmp_path / "absent.toml")
    with pytest.raises(SystemExit) as left:
        main(["init", "--config", str(tmp_path / "absent.toml")])
    assert left.value.code == 2
    assert "absent.toml" in capsys.readouterr().err


def test_all_wrong_settings_are_told_at_once_and_secrets_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(
        monkeypatch, {"AGENTIDP_PORT": "many", "AGENTIDP_LOG_LEVEL": "loud", "AGENTIDP_MASTER_KEY": KEY, "AGENTIDP_DATABASE_URL": "postgresql://u:hidden@h/d"}
    )
    message = refusal()
    assert "port" in message
    assert "log_level" in message
    assert KEY not in message
    assert "hidden" not in message


def test_settings_do_not_show_their_secrets_when_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {"AGENTIDP_MASTER_KEY": KEY, "AGENTIDP_DATABASE_URL": "postgresql://u:hidden@h/d"})
    shown = repr(load()) + str(load()) + load().model_dump_json()
    assert KEY not in shown
    assert "hidden" not in shown


@pytest.mark.parametrize("url", ["mysql://h/d", "sqlite://", "sqlite:///:memory:", "postgresql://h", "not a url", "postgresql+psycopg://h/d"])
def test_a_database_that_we_do_not_serve_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    set_all(monkeypatch, {"AGENTIDP_DATABASE_URL": url, "AGENTIDP_DATA_DIR": str(tmp_path)})
    with pytest.raises(SystemExit) as left:
        main(["init"])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("agentidp: database_url: ")


def test_settings_cannot_be_changed_after_they_were_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().port = 1
