"""The table of figures: what is compared with what, and how far it should reach. Figures are made of results; nothing is measured here."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.rounds import ratios

Results = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One row. `value` returns the figure and its lowest and highest round, or raises KeyError or IndexError when it was not measured."""

    title: str
    against: str
    reach: str
    reached: Callable[[float], bool] | None
    value: Callable[[Results], tuple[float, float, float]]
    unit: str = "×"
    by_cpu: Callable[[Results], tuple[float, float, float]] | None = None  # the same ratio of CPU per request
    needs: tuple[str, ...] = ()  # group and contestant, to find the reason when it is absent


def _ratio(group: str, numerator: str, denominator: str, measure: str = "rate") -> Callable[[Results], tuple[float, float, float]]:
    def value(results: Results) -> tuple[float, float, float]:
        contestants = results[group]["contestants"]
        found = ratios(contestants[numerator], contestants[denominator], measure)
        return statistics.median(found), min(found), max(found)

    return value


def _measure(group: str, name: str, measure: str) -> Callable[[Results], tuple[float, float, float]]:
    def value(results: Results) -> tuple[float, float, float]:
        found = [row[measure] for row in results[group]["contestants"][name]["rounds"]]
        return statistics.median(found), min(found), max(found)

    return value


def _fact(group: str, name: str) -> Callable[[Results], tuple[float, float, float]]:
    def value(results: Results) -> tuple[float, float, float]:
        fact = results[group]["facts"][name]
        found = fact if isinstance(fact, list) else [fact]
        return statistics.median(found), min(found), max(found)

    return value


def _growth(results: Results) -> tuple[float, float, float]:
    facts = results["memory"]["facts"]
    grown = facts["after_mb"] - facts["at_rest_mb"]
    return grown, grown, grown


def _at_least(bound: float) -> Callable[[float], bool]:
    return lambda value: value >= bound


def _at_most(bound: float) -> Callable[[float], bool]:
    return lambda value: value <= bound


def _tokens(title: str, numerator: str, against: str, denominator: str, bound: float | None, group: str = "tokens") -> Figure:
    reach, reached = (f"≥ {bound:g} ×", _at_least(bound)) if bound is not None else ("report", None)
    rate, cpu = _ratio(group, numerator, denominator), _ratio(group, denominator, numerator, "cpu_us")
    return Figure(title, against, reach, reached, rate, by_cpu=cpu, needs=(group, numerator, denominator))


FIGURES = (
    _tokens("tokens/s, SQLite, durable, audited, counted", "sqlite", "the same path with a no-op store", "ceiling", 0.70),
    _tokens("tokens/s, PostgreSQL, durable, audited, counted", "postgres", "the same path with a no-op store", "ceiling", 0.70),
    _tokens("tokens/s, SQLite", "sqlite", "node-oidc-provider, JWT, ES256, in memory", "node", 3),
    _tokens("tokens/s, PostgreSQL", "postgres", "node-oidc-provider, JWT, ES256, in memory", "node", 3),
    _tokens("tokens/s, SQLite", "sqlite", "Authlib's server (Flask, SQLAlchemy, gunicorn)", "authlib", 20),
    _tokens("tokens/s, SQLite", "sqlite", "the original design (Express, bcrypt, RS256, PostgreSQL)", "original", 300),
    _tokens("tokens/s, SQLite", "sqlite", "authgent-server", "authgent", None),
    _tokens("introspections/s of an active token", "introspection", "the token path", "sqlite", 1.5),
    _tokens("guarded calls/s (GET /agent-info)", "guarded", "the token path", "sqlite", None),
    _tokens("agent registrations/s, 32 at once", "registration", "node-oidc-provider's token rate", "node", 0.5),
    _tokens("tokens/s, RS256", "rs256", "the same with ES256", "sqlite", None),
    _tokens("tokens/s, RS256", "rs256", "RS256 with a no-op store", "rs256-ceiling", None),
    _tokens("tokens/s with a log line per request", "logged", "without", "sqlite", None),
    _tokens("tokens/s, two processes on PostgreSQL", "two", "one process", "postgres", None),
    _tokens("tokens/s, counted", "counted", "nothing counted", "uncounted", 0.95, group="limits"),
    _tokens("tokens/s, on a plan with limits", "limited", "plans not enforced", "counted", 0.95, group="limits"),
    _tokens("exchanges/s of another issuer's tokens, RS256", "exchange", "client credentials", "credentials", 0.4, group="exchange"),
    Figure(
        "tokens/s, one client on one connection",
        "the prototype's 1,817/s on another day",
        "≥ 1,454/s",
        _at_least(1453.6),
        _measure("tokens", "single", "rate"),
        "/s",
        needs=("tokens", "single"),
    ),
    Figure(
        "tokens/s, many agents in the database",
        "few",
        "≥ 0.9 ×",
        _at_least(0.9),
        _ratio("agents", "many", "few"),
        by_cpu=_ratio("agents", "few", "many", "cpu_us"),
        needs=("agents", "many"),
    ),
    Figure(
        "tokens/s, many audit events behind",
        "none",
        "≥ 0.9 ×",
        _at_least(0.9),
        _ratio("events", "many", "few"),
        by_cpu=_ratio("events", "few", "many", "cpu_us"),
        needs=("events", "many"),
    ),
    Figure(
        "time of a page in the middle of many agents",
        "the first page",
        "≤ 2 ×",
        _at_most(2),
        _ratio("pages", "middle", "first", "p50_ms"),
        needs=("pages", "middle"),
    ),
    Figure("p99 at 70 % of the highest rate, SQLite", "–", "≤ 20 ms", _at_most(20), _measure("latency", "sqlite", "p99_ms"), "ms", needs=("latency", "sqlite")),
    Figure(
        "p99 at 70 % of the highest rate, PostgreSQL",
        "–",
        "≤ 20 ms",
        _at_most(20),
        _measure("latency", "postgres", "p99_ms"),
        "ms",
        needs=("latency", "postgres"),
    ),
    Figure("events/s verified, SQLite", "hashing and encoding alone", "≥ 0.5 ×", _at_least(0.5), _fact("verification", "ratio"), "×", needs=("verification",)),
    Figure("events/s verified, SQLite", "–", "≥ 200,000/s", _at_least(200_000), _fact("verification", "rate"), "/s", needs=("verification",)),
    Figure(
        "memory of a verification, growth", "a tenth of the events", "≤ 20 MB", _at_most(20), _fact("verification", "growth_mb"), "MB", needs=("verification",)
    ),
    Figure("memory at rest", "–", "≤ 120 MB", _at_most(120), _fact("memory", "at_rest_mb"), "MB", needs=("memory",)),
    Figure("memory after many tokens, growth", "at rest", "≤ 20 MB", _at_most(20), _growth, "MB", needs=("memory",)),
    Figure(
        "cold start to the first token, set up before", "–", "≤ 1.5 s", _at_most(1500), _fact("cold_start", "set up before ms"), "ms", needs=("cold_start",)
    ),
    Figure("cold start to the first token, empty folder", "–", "≤ 1.5 s", _at_most(1500), _fact("cold_start", "empty folder ms"), "ms", needs=("cold_start",)),
)


FIGURES += tuple(
    figure
    for engine, name in (("SQLite", "sqlite"), ("PostgreSQL", "postgres"))
    for figure in (
        Figure(
            f"webhook deliveries/s, {engine}, one process",
            "–",
            "≥ 1,000/s",
            _at_least(1000),
            _measure("webhooks", name, "rate"),
            "/s",
            needs=("webhooks", name),
        ),
        Figure(f"CPU of a webhook delivery, {engine}", "–", "report", None, _measure("webhooks", name, "cpu_us"), "µs", needs=("webhooks", name)),
        *(
            Figure(
                f"p99 of webhooks from act to answer, {engine}, beside a dead receiver that is {kind}",
                "without it",
                "≤ 1.2 ×",
                _at_most(1.2),
                _ratio("webhooks", f"{name}-{kind}", f"{name}-alone", "p99_ms"),
                needs=("webhooks", f"{name}-{kind}"),
            )
            for kind in ("refusing", "hanging")
        ),
    )
)


def _detail(figure: Figure, results: Results) -> str:
    """How many are many."""
    facts = results.get(figure.needs[0], {}).get("facts", {}) if figure.needs else {}
    if "many" in facts:
        return f" ({facts['many']:,} against {facts['few']:,})"
    if "agents" in facts:
        return f" ({facts['agents']:,})"
    if "waiting" in facts and figure.against == "without it":
        return f" ({facts['waiting']:,} waiting)"
    return f" ({facts['tokens']:,} tokens)" if "after_mb" in facts and figure.against == "at rest" else ""


FIGURES += tuple(
    _tokens(f"once more, fewer servers beside: {title}", numerator, against, denominator, bound, "repeat")
    for title, numerator, against, denominator, bound in (
        ("SQLite", "sqlite", "no-op store", "ceiling", 0.70),
        ("PostgreSQL", "postgres", "no-op store", "ceiling", 0.70),
        ("SQLite", "sqlite", "node-oidc-provider", "node", 3),
        ("PostgreSQL", "postgres", "node-oidc-provider", "node", 3),
    )
)


@dataclass(frozen=True)
class Found:
    """A figure with its value, or with the reason why there is none."""

    figure: Figure
    value: float | None
    low: float = 0
    high: float = 0
    reason: str = ""
    detail: str = ""
    by_cpu: float | None = None

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "absent"
        if self.figure.reached is None:
            return "–"
        return "reached" if self.figure.reached(self.value) else "not reached"


def find(results: Results) -> list[Found]:
    """Every figure of the table, measured or not."""
    found = []
    for figure in FIGURES:
        try:
            by_cpu = figure.by_cpu(results)[0] if figure.by_cpu else None
            found.append(Found(figure, *figure.value(results), detail=_detail(figure, results), by_cpu=by_cpu))
        except (KeyError, statistics.StatisticsError):
            found.append(Found(figure, None, reason=_reason(figure, results)))
    return found


def _reason(figure: Figure, results: Results) -> str:
    group = results.get(figure.needs[0])
    if group is None:
        return "not measured"
    for name in figure.needs[1:]:
        if name in group.get("absent", {}):
            return str(group["absent"][name])
        if refused := group.get("contestants", {}).get(name, {}).get("refused"):
            return str(refused)
    return next(iter(group.get("absent", {}).values()), "not measured")


def text_of(found: Found) -> str:
    """The value as a person reads it."""
    if found.value is None:
        return "absent"
    value = f"{found.value:,.0f}" if abs(found.value) >= 100 or found.figure.unit == "MB" else f"{found.value:.2f}"
    return f"{value} {found.figure.unit}".replace(" /s", "/s")
