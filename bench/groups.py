"""What is measured together: each group starts what it needs, runs, stops it, and returns its part of the results.

A part is `{"contestants": {name: …}, "absent": {name: reason}, "facts": {…}}`. What the figures are is in `figures`.
"""

import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from bench import exchange as exchanges
from bench import peers, products
from bench.databases import Postgres, add_agents, add_events, give_secrets, postgres, require_space
from bench.load import WRK, http
from bench.processes import ROOT, WORK, Absent, Server, free_port, stopping
from bench.products import Product
from bench.rounds import Contestant, attempt, rounded, run_rounds, say

_LAST_ID = "________f_-__________w"  # base64url of the largest UUIDv7: the cursor before the first row
_EXCHANGES_PER_SECOND_MAX = 3000  # tokens signed beforehand: more than are asked for
ENGINES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}
_BULK_CLIENTS = 1000  # that ask for tokens in the groups with big tables: more than fit into one batch


@dataclass
class Options:
    """How much of it."""

    rounds: int = 5
    seconds: float = 4
    quick: bool = False
    agents: int = 1_000_000
    page_agents: int = 10_000_000
    events: int = 10_000_000
    tokens: int = 1_000_000
    links: int = 1_000_000
    waiting: int = 100_000
    deliveries: int = 10_000


@dataclass
class Setting:
    """What a group has started, and what it could not."""

    stack: contextlib.ExitStack
    absent: dict[str, str] = field(default_factory=dict)
    contestants: list[Contestant] = field(default_factory=list)

    def product(self, name: str, **how: Any) -> Product:
        product = products.start(name, **how)
        self.stack.callback(product.server.stop)
        product.server.wait_ready()
        return product

    def enrolled(self, name: str, **how: Any) -> Product:
        product = self.product(name, **how)
        product.enrol()
        return product

    def add(self, name: str, label: str, work: Callable[[], tuple[Server, list[str]] | None], **more: Any) -> None:
        """A contestant, if what `work` starts can be had."""
        found = attempt(name, work, self.absent, Absent)
        if found is not None:
            self.contestants.append(Contestant(name, label, *found, **more))

    def peer(self, name: str, label: str, work: Callable[[], peers.Peer], **more: Any) -> None:
        peer = attempt(name, work, self.absent, Absent)
        if peer is not None:
            self.stack.callback(peer.server.stop)
            self.contestants.append(Contestant(name, label, peer.server, peer.requests, note=peer.note, **more))

    def part(self, **facts: Any) -> dict[str, Any]:
        return {"absent": self.absent, "facts": facts}


def generators(options: Options) -> dict[str, Any]:
    """How fast the load generators are, against a server that answers a constant."""
    port = free_port()
    found = {}
    target = Server("target", [sys.executable, "-m", "bench.target", str(port)], WORK / "target", port, cwd=ROOT)
    try:
        target.wait_ready()
        for generator in ("wrk", "own"):
            if generator == "own" or WRK:
                contestant = Contestant(generator, f"load generator: {generator}", target, [http("GET", "/", port)])
                found |= run_rounds([contestant], rounds=min(options.rounds, 3), seconds=min(options.seconds, 2), generator=generator)
    finally:
        target.stop()
    return {"contestants": found, "absent": {} if WRK else {"wrk": "not installed"}}


def tokens(options: Options) -> dict[str, Any]:
    """The token path on both engines, its ceiling, the peers, and what other endpoints cost beside it: all in one interleaved run."""
    with contextlib.ExitStack() as stack:
        setting = Setting(stack)
        ceiling = setting.enrolled("ceiling", variant="ceiling")
        sqlite = setting.enrolled("sqlite")
        server = attempt("postgres", lambda: stack.enter_context(postgres()), setting.absent, Absent)
        setting.add("ceiling", "AgentIdP, no-op store (the ceiling)", lambda: (ceiling.server, ceiling.requests))
        setting.add("sqlite", "AgentIdP, SQLite", lambda: (sqlite.server, sqlite.requests))
        if server is not None:
            on_postgres = setting.enrolled("postgres", database_url=server.new_database("tokens"))
            setting.add("postgres", "AgentIdP, PostgreSQL", lambda: (on_postgres.server, on_postgres.requests))
        setting.peer("node", "node-oidc-provider, in memory", peers.node_oidc_provider)
        if not options.quick:
            _more(setting, sqlite, server)
        at_rest = sqlite.server.rss_mb()
        say("tokens: " + ", ".join(contestant.name for contestant in setting.contestants))
        found = run_rounds(setting.contestants, rounds=options.rounds, seconds=options.seconds)
        asked = sum(sum(row["requests"] for row in found[name]["rounds"]) for name in ("sqlite", "introspection", "guarded", "registration") if name in found)
        facts = {"rss_before_mb": rounded(at_rest), "rss_after_mb": rounded(sqlite.server.rss_mb()), "requests_between": int(asked)}
        if server is not None:
            facts["postgresql"] = server.settings
        return {"contestants": found, **setting.part(**facts)}


def _more(setting: Setting, sqlite: Product, server: Postgres | None) -> None:
    """The contestants that bench-quick leaves out."""
    setting.add("introspection", "AgentIdP, SQLite: introspection of an active token", lambda: (sqlite.server, sqlite.introspections()))
    setting.add("guarded", "AgentIdP, SQLite: guarded call (GET /agent-info)", lambda: (sqlite.server, sqlite.guarded_calls()))
    setting.add("registration", "AgentIdP, SQLite: POST /agents", lambda: (sqlite.server, sqlite.registrations()), connections=32)
    rsa_ceiling = setting.enrolled("rs256-ceiling", variant="ceiling", TOKENS__ALGORITHM="RS256")
    setting.add("rs256-ceiling", "AgentIdP, no-op store, RS256", lambda: (rsa_ceiling.server, rsa_ceiling.requests))
    rsa = setting.enrolled("rs256", TOKENS__ALGORITHM="RS256")
    setting.add("rs256", "AgentIdP, SQLite, RS256", lambda: (rsa.server, rsa.requests))
    logged = setting.enrolled("logged", LOG_LEVEL="info")
    setting.add("logged", "AgentIdP, SQLite, a log line per request", lambda: (logged.server, logged.requests))
    setting.add("single", "AgentIdP, SQLite, one connection", lambda: (sqlite.server, sqlite.requests), connections=1)
    if server is not None:
        two = setting.enrolled("two", database_url=server.new_database("two"), workers=2)
        setting.add("two", "AgentIdP, PostgreSQL, two processes", lambda: (two.server, two.requests))
    setting.peer("authlib", "Authlib's server", peers.authlib)
    setting.peer("authgent", "authgent-server", peers.authgent, connections=1)
    if server is not None:
        setting.peer("original", "the original design", lambda: peers.original(server.new_database("original")))
    else:
        setting.absent["original"] = setting.absent["postgres"]


def limits(options: Options) -> dict[str, Any]:
    """What counting costs on the token path, and what the limits of a plan cost beside it."""
    huge = {"PLANS__ENTERPRISE__MAX_TOKENS_PER_DAY": "1000000000", "PLANS__ENTERPRISE__MAX_CALLS_PER_DAY": "1000000000"}
    with contextlib.ExitStack() as stack:
        setting = Setting(stack)
        uncounted, counted = setting.enrolled("uncounted", variant="uncounted"), setting.enrolled("counted", FEATURES__TIER_ENFORCEMENT="false")
        limited = setting.enrolled("limited", **huge)
        setting.add("uncounted", "AgentIdP, SQLite, nothing counted", lambda: (uncounted.server, uncounted.requests))
        setting.add("counted", "AgentIdP, SQLite, plans not enforced", lambda: (counted.server, counted.requests))
        setting.add("limited", "AgentIdP, SQLite, on a plan with limits", lambda: (limited.server, limited.requests))
        return {"contestants": run_rounds(setting.contestants, rounds=options.rounds, seconds=options.seconds), **setting.part()}


def agents(options: Options) -> dict[str, Any]:
    """Tokens with many agents in the database against few."""
    require_space(WORK, options.agents * 2.5e-6)
    return _few_against_many(options, "agents", 1000, options.agents, "agents in the database")


def events(options: Options) -> dict[str, Any]:
    """Tokens with a long audit trail behind against none."""
    require_space(WORK, options.events * 2.2e-6)
    return _few_against_many(options, "events", 0, options.events, "audit events behind")


def _few_against_many(options: Options, what: str, few: int, many: int, label: str) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        setting = Setting(stack)
        for name, count in (("few", few), ("many", many)):
            product, took = _filled(f"{what}-{name}", agents=count if what == "agents" else 1000, events=count if what == "events" else 0)
            stack.callback(shutil.rmtree, product.folder, ignore_errors=True)
            stack.callback(product.server.stop)
            product.server.wait_ready()
            size = rounded(product.database.stat().st_size / 1e6)
            note = f"{count:,} {label}, {size:,.0f} MB, filled in {took:.0f} s"
            setting.contestants.append(Contestant(name, f"AgentIdP, SQLite, {count:,} {label}", product.server, product.requests, note=note))
        say(f"{what}: {' against '.join(contestant.note for contestant in setting.contestants)}")
        found = run_rounds(setting.contestants, rounds=options.rounds, seconds=options.seconds)
        return {"contestants": found, **setting.part(few=few, many=many)}


def _filled(name: str, *, agents: int, events: int = 0) -> tuple[Product, float]:
    """An instance with that many agents (a thousand of them, evenly spread, ask for tokens) and audit events; how long filling took."""
    empty = products.start(name)
    try:
        empty.server.wait_ready()
        empty.enrol(1)
        products.call(f"{empty.url}/api/v1/token", products.GRANT, products.basic(*empty.clients[0]))
    finally:
        empty.server.stop()
    started = time.monotonic()
    add_agents(empty.database, agents)
    if events:
        add_events(empty.database, events)
    clients = give_secrets(empty.folder, agents, min(_BULK_CLIENTS, agents))
    product = products.start(name, folder=empty.folder)
    product.clients, product.requests = clients, products.token_requests(product.port, clients)
    return product, time.monotonic() - started


def pages(options: Options) -> dict[str, Any]:
    """A page in the middle of many agents against the first one, both by cursor, one after the other on one connection."""
    require_space(WORK, options.page_agents * 1.2e-6)
    with contextlib.ExitStack() as stack:
        setting = Setting(stack)
        empty = products.start("pages")
        stack.callback(shutil.rmtree, empty.folder, ignore_errors=True)
        try:
            empty.server.wait_ready()
            empty.enrol(1)
        finally:
            empty.server.stop()
        add_agents(empty.database, options.page_agents, with_credentials=False)
        product = setting.product("pages", folder=empty.folder)
        bearer = {"Authorization": f"Bearer {product.operator_token('agents:read')}"}
        middle = products.cursor_at(options.page_agents // 2)
        for name, label, cursor in (("first", "the first page", _LAST_ID), ("middle", f"a page in the middle of {options.page_agents:,} agents", middle)):
            page = products.call(f"{product.url}/api/v1/agents?limit=20&cursor={cursor}", None, bearer)
            if len(page["data"]) != 20 or not page["nextCursor"]:
                raise Absent(f"{label} has {len(page['data'])} rows")
            request = http("GET", f"/api/v1/agents?limit=20&cursor={cursor}", product.port, bearer)
            setting.contestants.append(Contestant(name, label, product.server, [request], connections=1))
        say("pages")
        return {"contestants": run_rounds(setting.contestants, rounds=options.rounds, seconds=options.seconds), **setting.part(agents=options.page_agents)}


def exchange(options: Options) -> dict[str, Any]:
    """Exchanges of another issuer's tokens, its keys being known, against client credentials."""
    with contextlib.ExitStack() as stack:
        setting, issuer = Setting(stack), stack.enter_context(exchanges.serving())
        product = setting.enrolled("exchange", WEBHOOKS__ALLOW_LOOPBACK="true")
        count = round(_EXCHANGES_PER_SECOND_MAX * (1 + options.rounds * options.seconds))
        say(f"exchange: signing {count:,} tokens")
        setting.add("credentials", "AgentIdP, SQLite, client credentials", lambda: (product.server, product.requests))
        setting.add("exchange", "AgentIdP, SQLite, exchange (RFC 7523)", lambda: (product.server, exchanges.exchanges(product, issuer, count)))
        return {"contestants": run_rounds(setting.contestants, rounds=options.rounds, seconds=options.seconds), **setting.part()}


def latency(options: Options) -> dict[str, Any]:
    """Times at 70 % of the highest rate, in an open loop: the rate is measured first, then kept to."""
    with contextlib.ExitStack() as stack:
        setting = Setting(stack)
        setting.add("sqlite", "AgentIdP, SQLite, at 70 % of its highest rate", lambda: _server_and_requests(setting.enrolled("latency-sqlite")))
        server = attempt("postgres", lambda: stack.enter_context(postgres()), setting.absent, Absent)
        if server is not None:
            url = server.new_database("latency")
            setting.add(
                "postgres", "AgentIdP, PostgreSQL, at 70 % of its highest rate", lambda: _server_and_requests(setting.enrolled("latency-pg", database_url=url))
            )
        say("latency: the highest rates, by the generator that keeps the rate afterwards")
        highest = run_rounds(setting.contestants, rounds=3, seconds=options.seconds, generator="own")
        for contestant in setting.contestants:
            contestant.rate, contestant.connections = 0.7 * highest[contestant.name]["rate"], 128
        found = run_rounds(setting.contestants, rounds=options.rounds, seconds=options.seconds)
        return {"contestants": found, **setting.part(highest={name: summary["rate"] for name, summary in highest.items()})}


def memory(options: Options) -> dict[str, Any]:
    """The server's resident memory when it is ready, and after so many tokens."""
    with contextlib.ExitStack() as stack:
        setting = Setting(stack)
        product = setting.product("memory")
        product.first()
        time.sleep(2)
        at_rest = product.server.rss_mb()
        product.enrol()
        contestant = Contestant("tokens", "AgentIdP, SQLite", product.server, product.requests)
        course = [at_rest]
        issued = 0
        say(f"memory: {at_rest:.0f} MB at rest; {options.tokens:,} tokens")
        while issued < options.tokens:
            found = run_rounds([contestant], rounds=1, seconds=max(options.seconds, 20))
            issued = contestant.number
            course.append(product.server.rss_mb())
            say(f"  {course[-1]:.0f} MB after {issued:,}")
        facts = {"at_rest_mb": rounded(at_rest), "after_mb": rounded(course[-1]), "tokens": issued, "course_mb": [rounded(mb) for mb in course]}
        return {"contestants": found, **setting.part(**facts)}


def cold_start(options: Options) -> dict[str, Any]:
    """From starting the process to the first token: on an empty folder (keys, schema, first agent), and on one that is set up."""
    times: dict[str, list[float]] = {"empty folder": [], "set up before": []}
    say("cold start")
    for number in range(options.rounds):
        for kind, taken in times.items():
            folder = WORK / f"cold-{number}"
            if kind == "empty folder":
                shutil.rmtree(folder, ignore_errors=True)
            started = time.perf_counter()
            product = products.start(f"cold-{number}", folder=folder)
            try:
                product.server.wait_ready()
                product.operator_token("agents:read")
                taken.append((time.perf_counter() - started) * 1000)
            finally:
                product.server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    say("  " + ", ".join(f"{kind}: {statistics.median(taken):.0f} ms" for kind, taken in times.items()))
    return {"absent": {}, "facts": {f"{kind} ms": [rounded(value) for value in taken] for kind, taken in times.items()}}


def verification(options: Options) -> dict[str, Any]:
    """A sealed history verified, against hashing and encoding its documents alone; memory at a tenth of it and at all of it."""
    require_space(WORK, options.links * 1.5e-6)
    facts: dict[str, Any] = {"links": options.links}
    say(f"verification of {options.links:,} events")
    for name, count in (("tenth", options.links // 10), ("all", options.links)):
        empty = products.start(f"verification-{name}")
        try:
            empty.server.wait_ready()
            empty.operator_token("agents:read")
        finally:
            empty.server.stop()
        command = [sys.executable, "-m", "bench.verification", str(empty.folder / "data"), str(count), str(options.rounds)]
        found = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        shutil.rmtree(empty.folder, ignore_errors=True)
        say(f"  {count:,}: {statistics.median(found['verification']):,.0f}/s of {statistics.median(found['ceiling']):,.0f}/s, {found['rss_mb'][-1]:.0f} MB")
        facts[name] = {measure: [rounded(value) for value in values] for measure, values in found.items()}
    facts["ratio"] = [rounded(mine / other) for mine, other in zip(facts["all"]["verification"], facts["all"]["ceiling"], strict=True)]
    facts["rate"] = facts["all"]["verification"]
    facts["growth_mb"] = rounded(facts["all"]["rss_mb"][-1] - facts["tenth"]["rss_mb"][-1])
    return {"absent": {}, "facts": facts}


def webhooks(options: Options) -> dict[str, Any]:
    """What one process delivers to receivers on loopback, and how late beside a dead receiver for which much waits. Receivers are processes of their own."""
    with contextlib.ExitStack() as stack:
        setting = Setting(stack)
        hanging = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # takes connections, and never reads
        dead = {"alone": 0, "refusing": free_port(), "hanging": hanging.getsockname()[1]}
        ports = [free_port() for _ in range(2)]
        for port in ports:
            receiver = Server(f"receiver-{port}", [sys.executable, "-m", "bench.target", str(port)], WORK / "receivers", port, cwd=ROOT)
            stack.enter_context(stopping(receiver))
        urls = {"sqlite": lambda name: f"sqlite:///{WORK / 'webhooks' / name}.db"}
        server = attempt("postgres", lambda: stack.enter_context(postgres()), setting.absent, Absent)
        if server is not None:
            urls["postgres"] = server.new_database
        stack.callback(shutil.rmtree, WORK / "webhooks", ignore_errors=True)
        works: dict[str, tuple[str, list[str]]] = {}
        for engine, url in urls.items():
            for kind, port in dead.items():
                place = [str(WORK / "webhooks" / f"{engine}-{kind}"), url(f"webhooks_{kind}")]
                _delivering("prepare", *place, ",".join(map(str, ports)), str(port), str(options.waiting))
                beside = "" if kind == "alone" else f", beside one that is {kind} with {options.waiting:,} waiting"
                works[f"{engine}-{kind}"] = f"webhooks, {ENGINES[engine]}: act to answer{beside}", ["delay", *place, str(options.seconds)]
            place = [str(WORK / "webhooks" / f"{engine}-all"), url("webhooks_all")]
            _delivering("prepare", *place, ",".join(map(str, ports)), "0", "0")
            works[engine] = f"webhooks, {ENGINES[engine]}: {options.deliveries:,} at once", ["throughput", *place, str(options.deliveries)]
        return {"contestants": _rounds_of(works, options.rounds), **setting.part(waiting=options.waiting)}


def _rounds_of(works: dict[str, tuple[str, list[str]]], rounds: int) -> dict[str, Any]:
    """As `run_rounds`, of work that is a process of its own each time."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in works}
    for number in range(rounds):
        for name, (label, arguments) in works.items():
            row = {measure: rounded(value) for measure, value in json.loads(_delivering(*arguments)).items()}
            found[name].append(row)
            say(f"  round {number + 1}  {label:<80} {row['rate']:9,.1f}/s  p50 {row['p50_ms']:7.2f} ms  p99 {row['p99_ms']:7.2f} ms")
    medians = {name: {measure: rounded(statistics.median(row[measure] for row in rows)) for measure in rows[0]} for name, rows in found.items()}
    return {name: {"label": label, "connections": 20, **medians[name], "rounds": found[name]} for name, (label, _) in works.items()}


def _delivering(*arguments: str) -> str:
    return subprocess.run([sys.executable, "-m", "bench.delivering", *arguments], cwd=ROOT, check=True, capture_output=True, text=True, timeout=600).stdout


def repeat(options: Options) -> dict[str, Any]:
    """The first ratios once more, with fewer servers beside them, an hour or so later: how much they move."""
    return tokens(replace(options, quick=True, rounds=options.rounds + 2))


def _server_and_requests(product: Product) -> tuple[Server, list[str]]:
    return product.server, product.requests


GROUPS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "generators": generators,
    "tokens": tokens,
    "limits": limits,
    "exchange": exchange,
    "latency": latency,
    "cold_start": cold_start,
    "agents": agents,
    "events": events,
    "pages": pages,
    "memory": memory,
    "verification": verification,
    "webhooks": webhooks,
    "repeat": repeat,
}
