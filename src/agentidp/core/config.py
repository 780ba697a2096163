"""Settings: environment variables `AGENTIDP_…` (nested with `__`) over an optional TOML file. Read once, then passed down.

A wrong setting raises WrongSettings with one line; nothing falls back silently, and an unknown name is a wrong setting.
"""

import os
import tomllib
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from agentidp.core import limits
from agentidp.core.errors import WrongSettings
from agentidp.core.plans import PlanSettings

PREFIX = "AGENTIDP_"
CLI_ONLY = frozenset({"AGENTIDP_CONFIG", "AGENTIDP_URL", "AGENTIDP_CLIENT_ID", "AGENTIDP_CLIENT_SECRET"})
MASTER_KEY_FILE = "master.key"
FIRST_CREDENTIAL_FILE = "first-credential.json"
DATABASE_FILE = "agentidp.db"

Network = IPv4Network | IPv6Network

_STRIPE_ID = r"^[A-Za-z0-9_.-]{1,100}$"
_NATS_NAME = r"^[A-Za-z0-9_-]+$"
_VAULT_NAME = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$"
_VAULT_PATH = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenSettings(_Section):
    """How access tokens are made."""

    algorithm: Literal["ES256", "RS256", "Ed25519"] = Field(
        "ES256", description="Signature algorithm of new keys; a change takes effect when the next key has been published long enough."
    )
    lifetime_seconds: int = Field(
        3600,
        ge=limits.TOKEN_LIFETIME_SECONDS_MIN,
        le=limits.TOKEN_LIFETIME_SECONDS_MAX,
        description="Life of an access token in seconds; never beyond the credential's or the agent's own expiry.",
    )
    rotation_days: int = Field(90, ge=0, le=3650, description="A server replaces its signing key by itself after this many days; 0: never.")
    default_audience: str | None = Field(
        None, description="`aud` of tokens asked for without `resource`; the issuer when absent.", examples=["https://api.example.com"]
    )


class RateLimitSettings(_Section):
    """How often requests may come. A limit's burst is one minute's worth."""

    per_minute: int | None = Field(
        None,
        ge=0,
        le=limits.ORGANIZATION_LIMIT_MAX,
        description="Requests a minute of one client, whatever its organization's plan says; 0: no limit.",
        examples=["600"],
    )
    failed_logins_per_minute: int = Field(
        10,
        ge=0,
        le=1_000_000,
        description="Failures a minute to prove who one is, of one client from one source address, before the answer is 429; "
        "all clients from one address together may fail ten times as often; 0: no limit.",
    )
    public_per_minute: int = Field(
        600,
        ge=0,
        le=limits.ORGANIZATION_LIMIT_MAX,
        description="Requests a minute of one source address that need no token; 0: no limit. Health, metrics, key set and discovery have none.",
    )


class CorsSettings(_Section):
    """Which web origins may call the API from a browser."""

    origins: tuple[str, ...] = Field((), description="Allowed origins, exactly as browsers send them.", examples=['["https://app.example.com"]'])


class VaultSettings(_Section):
    """Where Vault or OpenBao wraps the data keys with a key of its Transit engine; off without an address."""

    address: str | None = Field(
        None, description="Where Vault or OpenBao is; its Transit engine then holds the master key.", examples=["https://vault.internal:8200"]
    )
    token: SecretStr | None = Field(None, description="Token that may `update` the key's `encrypt` and `decrypt` paths.")
    token_file: Path | None = Field(None, description="File with that token, read anew each time it is needed.", examples=["/run/vault/token"])
    key: str = Field("agentidp", pattern=_VAULT_NAME, max_length=64, description="Name of the Transit key.")
    mount: str = Field("transit", pattern=_VAULT_PATH, max_length=64, description="Path of the Transit engine.")
    namespace: str | None = Field(None, pattern=_VAULT_PATH, max_length=256, description="Namespace of the engine, where there are any.", examples=["team-a"])
    ca_file: Path | None = Field(None, description="PEM file of the authority that Vault's certificate comes from; the system's authorities when absent.")
    retiring: bool = Field(False, description="Vault only opens what it has wrapped, and the local master key wraps: for the way back from Vault.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.address is not None:
            _require_private_origin(self.address, "vault.address")
        return self


class NatsSettings(_Section):
    """Where in NATS events are published, with `nats_url`."""

    stream: str = Field("AGENTIDP", pattern=_NATS_NAME, max_length=64, description="Name of the JetStream stream; made when it is missing, else left as it is.")
    subject: str = Field("agentidp", pattern=_NATS_NAME, max_length=64, description="First word of the subjects: `agentidp.<organizationId>.<type>`.")


class StripePrices(_Section):
    """Which price at Stripe buys which plan; a plan without one is not for sale."""

    pro: str | None = Field(None, pattern=_STRIPE_ID, description="Id of the recurring price of the plan `pro`.", examples=["price_1ABC"])
    enterprise: str | None = Field(None, pattern=_STRIPE_ID, description="Id of the recurring price of the plan `enterprise`.", examples=["price_1DEF"])

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.pro is not None and self.pro == self.enterprise:
            raise ValueError("one price cannot buy two plans")
        return self


class StripeMeters(_Section):
    """What is reported to Stripe day by day for metered prices; nothing without a name."""

    tokens: str | None = Field(None, pattern=_STRIPE_ID, description="Event name of the meter that takes the tokens issued.", examples=["tokens_issued"])
    calls: str | None = Field(None, pattern=_STRIPE_ID, description="Event name of the meter that takes the API calls.", examples=["api_calls"])


class StripeSettings(_Section):
    """How this instance sells its plans; it sells nothing without a key."""

    api_key: SecretStr | None = Field(
        None,
        description="Secret key of the Stripe account that plans are paid to. With it the instance's first organization starts on the free plan. "
        "Without it there is no checkout, no portal and no webhook.",
    )
    webhook_secret: SecretStr | None = Field(None, description="Signing secret (`whsec_…`) of the webhook endpoint; needed with a key.")
    webhook_secret_previous: SecretStr | None = Field(None, description="The signing secret before this one, while Stripe signs with both.")
    api_base: str = Field("https://api.stripe.com", description="Where Stripe's API is; https, but on the machine itself.")
    prices: StripePrices = StripePrices()
    meters: StripeMeters = StripeMeters()


class BillingSettings(_Section):
    """What selling plans needs beside Stripe."""

    allowed_origins: tuple[str, ...] = Field(
        (), description="Origins that a checkout may lead back to, beside the issuer's own.", examples=['["https://app.example.com"]']
    )
    grace_days: int = Field(7, ge=0, le=90, description="Days that a plan goes on after its first failed payment.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for allowed in self.allowed_origins:
            _require_origin(allowed, "billing.allowed_origins")
        return self


class WebhookSettings(_Section):
    """What may be called for a tenant."""

    allow_loopback: bool = Field(
        False,
        description="Let tenants name http addresses of the machine itself, at any port: for development, and refused in production. "
        "It holds for every address that a tenant gives: of webhooks, of the issuers of trust policies, of partners and of agents' key sets.",
    )


class OidcSettings(_Section):
    """Which issuers the trust policies for GitHub and GitLab mean, and which may be in a network of your own."""

    github_issuer: str = Field(
        "https://token.actions.githubusercontent.com",
        description="Issuer of GitHub Actions' tokens.",
        examples=["https://github.example.com/_services/token"],
    )
    gitlab_issuer: str = Field(
        "https://gitlab.com", description="Issuer of GitLab CI's tokens where a policy names none.", examples=["https://gitlab.example.com"]
    )
    private_issuers: tuple[str, ...] = Field(
        (),
        description="Issuers, letter by letter, that are asked for their keys at whatever address they have, and trusted on where the keys are: a GitLab, a GitHub "
        "Enterprise Server or a cluster that the internet does not reach. Name only what you run yourself; all others must be public.",
        examples=['["https://gitlab.example.com", "https://kubernetes.default.svc.cluster.local"]'],
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, issuer in (("github_issuer", self.github_issuer), ("gitlab_issuer", self.gitlab_issuer)):
            parts = urlsplit(issuer)
            if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or issuer.endswith("/"):
                raise ValueError(f"oidc.{name}: must be an address without query and without trailing slash")
        for issuer in self.private_issuers:
            parts = urlsplit(issuer)
            if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment:
                raise ValueError("oidc.private_issuers: must be addresses with https, without query")
        return self


class FeatureSettings(_Section):
    """What this server offers and does. A group of operations that is off is not there: 404, and not in the OpenAPI document."""

    analytics: bool = Field(True, description="Serve `/analytics`. What it shows is counted either way.")
    billing: bool = Field(True, description="Serve checkout, customer portal and Stripe's webhook, where there is a Stripe key. Usage is shown either way.")
    tier_enforcement: bool = Field(
        True, description="Plans limit agents, calls and tokens, and how long history is kept. Off: only what is set on an organization itself limits it."
    )


class Settings(BaseSettings):
    """All settings. Every field has a default that is right for a laptop; `environment=production` refuses what is not right there."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, nested_model_default_partial_update=True)

    data_dir: Path = Field(Path("data"), description="Folder of the SQLite database, the master key file and the first credential.")
    database_url: SecretStr | None = Field(
        None,
        description="`sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/DATABASE`; an SQLite file in `data_dir` when absent.",
        examples=["postgresql://agentidp:secret@127.0.0.1:5432/agentidp"],
    )
    redis_url: SecretStr | None = Field(
        None,
        description="Redis or Valkey through which several processes share their rate limits; each counts for itself when absent.",
        examples=["redis://:secret@127.0.0.1:6379/0"],
    )
    nats_url: SecretStr | None = Field(
        None,
        description="NATS server, or several separated by commas, to whose JetStream every event is published; nothing is published when absent.",
        examples=["nats://agentidp:secret@127.0.0.1:4222"],
    )
    issuer: str = Field(
        "",
        description="The issuer identifier: scheme, host and port under which clients reach this server; `http://HOST:PORT` when absent.",
        examples=["https://id.example.com"],
    )
    master_key: SecretStr | None = Field(
        None,
        description="32 random bytes in base64url that seal every secret in the database; `agentidp keys master` prints a fresh one. "
        "A 0600 file in `data_dir` when absent (not in production).",
    )
    master_key_previous: SecretStr | None = Field(
        None, description="The master key before this one: only opens what is still under it, until `agentidp keys rotate-master` has run."
    )
    environment: Literal["development", "production"] = Field(
        "development", description="`production` refuses an http issuer, a master key file and debug output."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(3000, ge=1, le=65535, description="Port to listen on.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level that is logged.")
    trusted_proxies: tuple[Network, ...] = Field(
        (), description="Networks whose `X-Forwarded-For` is believed (right-most foreign hop).", examples=['["10.0.0.0/8"]']
    )
    tokens: TokenSettings = TokenSettings()
    cors: CorsSettings = CorsSettings()
    rate_limit: RateLimitSettings = RateLimitSettings()
    vault: VaultSettings = VaultSettings()
    features: FeatureSettings = FeatureSettings()
    plans: PlanSettings = PlanSettings()
    nats: NatsSettings = NatsSettings()
    stripe: StripeSettings = StripeSettings()
    billing: BillingSettings = BillingSettings()
    webhooks: WebhookSettings = WebhookSettings()
    oidc: OidcSettings = OidcSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.issuer:
            if self.environment == "production":
                raise ValueError("issuer: must be set in production")
            host = "localhost" if self.host in {"0.0.0.0", "::"} else f"[{self.host}]" if ":" in self.host else self.host  # noqa: S104
            object.__setattr__(self, "issuer", f"http://{host}:{self.port}")
        _require_origin(self.issuer, "issuer")
        _require_private_origin(self.stripe.api_base, "stripe.api_base")
        if self.redis_url is not None and not self.redis_url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("redis_url: must begin with redis://, rediss:// or unix://")
        if self.nats_url is not None:
            _require_nats(self.nats_url.get_secret_value())
        if self.tokens.default_audience is not None and not urlsplit(self.tokens.default_audience).scheme:
            raise ValueError("tokens.default_audience: must be an absolute URI")
        if self.environment == "production":
            if not self.issuer.startswith("https://"):
                raise ValueError("issuer: must be https in production")
            if self.master_key is None and not self.is_vault_current:
                raise ValueError("master_key: must be set in production; a generated key file is for development only")
            if self.log_level == "debug":
                raise ValueError("log_level: debug is not allowed in production")
            if self.webhooks.allow_loopback:
                raise ValueError("webhooks.allow_loopback: is not allowed in production")
        return self

    @property
    def default_audience(self) -> str:
        return self.tokens.default_audience or self.issuer

    @property
    def is_vault_current(self) -> bool:
        """Whether Vault holds the master key, not this program."""
        return self.vault.address is not None and not self.vault.retiring

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file (which arrives as keyword arguments)."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings


class _Given(Settings):
    """Settings that take nothing more from the environment."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_others: Any, **_other: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls
        return (init_settings,)


def load(config_file: Path | None = None, **overrides: Any) -> Settings:
    """Settings from `overrides`, the environment and the TOML file, in this order. Raises WrongSettings."""
    known = {name.upper() for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in CLI_ONLY and name.removeprefix(PREFIX).split("__")[0].upper() not in known:
            raise WrongSettings(f"{name}: there is no such setting")
    from_file: dict[str, Any] = {}
    if config_file is not None:
        try:
            from_file = tomllib.loads(config_file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise WrongSettings(f"{config_file}: {error}") from error
    try:
        settings = Settings(**from_file)
        if overrides:
            settings = _Given.model_validate(settings.model_dump(exclude_unset=True) | overrides)
    except ValidationError as error:
        raise WrongSettings(_one_line(error)) from error
    except SettingsError as error:  # it names the field, but not what is wrong
        raise WrongSettings(f"{error}: lists and whole sections must be JSON") from error
    return settings


def _require_origin(url: str, name: str) -> None:
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # no port number, no IPv6 address
        has_host = False
    if not has_host or parts.scheme not in {"http", "https"} or url != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc or url != url.lower():
        raise ValueError(f"{name}: must be scheme://host[:port] in lower case, without path or trailing slash")


def _require_private_origin(url: str, name: str) -> None:
    """What secrets are sent to."""
    _require_origin(url, name)
    if not url.startswith("https://") and urlsplit(url).hostname not in {"127.0.0.1", "::1", "localhost"}:
        raise ValueError(f"{name}: must be https, but on the machine itself")


def _require_nats(urls: str) -> None:
    for url in urls.split(","):
        try:
            parts = urlsplit(url)
            is_right = parts.scheme in {"nats", "tls"} and bool(parts.hostname) and parts.port != 0 and parts.path in {"", "/"}
        except ValueError:
            is_right = False
        if not is_right:
            raise ValueError("nats_url: must be nats://[USER:PASSWORD@]HOST[:PORT] or tls://…; several are separated by commas")


def _one_line(error: ValidationError) -> str:
    lines = []
    for row in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in row["loc"])
        message = row["msg"].removeprefix("Value error, ")
        lines.append(f"{place}: {message}" if place else message)
    return "; ".join(lines)
