"""What the process counts about itself. No label ever holds a tenant, an agent or anything else that a client chose."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The instruments of one server; each server has its own registry, so that tests can run several."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.tokens_issued = Counter("agentidp_tokens_issued", "Access tokens issued", registry=registry)
        self.agents_registered = Counter("agentidp_agents_registered", "Agents registered", registry=registry)
        self.limit_rejections = Counter("agentidp_billing_limit_rejections", "Requests refused at a limit of a plan", ["limit"], registry=registry)
        for limit in ("agents", "calls", "tokens"):
            self.limit_rejections.labels(limit)
        self.requests = Counter("agentidp_http_requests", "Requests answered", ["method", "route", "status_code"], registry=registry)
        self.request_seconds = Histogram("agentidp_http_request_duration_seconds", "Time to answer", ["method", "route"], buckets=_SECONDS, registry=registry)
        self.database_seconds = Histogram(
            "agentidp_db_query_duration_seconds", "Time of one unit of work, waiting included", ["kind"], buckets=_SECONDS, registry=registry
        )
        self.pool_active = Gauge("agentidp_db_pool_active_connections", "Database connections in use", registry=registry)
        self.pool_waiting = Gauge("agentidp_db_pool_waiting_requests", "Units of work waiting for the database", registry=registry)
        self.credentials_expiring = Gauge("agentidp_credentials_expiring_soon", "Active credentials that expire within 7 days", registry=registry)
        self.billing_events_parked = Gauge("agentidp_billing_events_parked", "Events of Stripe that were given up after too many attempts", registry=registry)
        self.webhook_deliveries = Counter("agentidp_webhook_deliveries", "Attempts to deliver to a webhook, by what came of it", ["outcome"], registry=registry)
        for outcome in ("delivered", "failed", "dead_letter"):
            self.webhook_deliveries.labels(outcome)
        self.webhook_dead_letters = Gauge(
            "agentidp_webhook_dead_letters", "Deliveries to webhooks that were given up, as long as they are kept", registry=registry
        )
        self.webhook_lag_seconds = Gauge(
            "agentidp_webhook_lag_seconds",
            "How long the oldest delivery that is due waits for this server, those to receivers that fail left out",
            registry=registry,
        )
        self.outgoing_blocked = Counter(
            "agentidp_outgoing_blocked", "Requests to addresses of tenants that were refused before a byte was sent", registry=registry
        )
        self.rate_limit_hits = Counter(
            "agentidp_rate_limit_hits", "Requests refused for their rate, by whose: client, login, source", ["kind"], registry=registry
        )
        for kind in ("client", "login", "source"):
            self.rate_limit_hits.labels(kind)
        self.rate_limit_degraded = Gauge("agentidp_rate_limit_degraded", "1: Redis does not answer, each process counts requests for itself", registry=registry)
        self.rate_limit_store_failures = Counter("agentidp_rate_limit_store_failures", "How often Redis was given up for a while", registry=registry)
        self.chain_integrity = Gauge(
            "agentidp_audit_chain_integrity", "1: the last event of every chain that grew is as it was sealed, and every chain grows", registry=registry
        )
        self.chain_integrity.set(1)
        self.unsealed_seconds = Gauge("agentidp_audit_unsealed_seconds", "Age of the oldest event that the last look found unsealed", registry=registry)
        self.event_streams = Gauge("agentidp_event_streams", "Streams of events that are open", registry=registry)
        self.nats_connected = Gauge("agentidp_nats_connected", "1: NATS answers; 0 also where none is configured", registry=registry)
        self.nats_published = Counter("agentidp_nats_events_published", "Events that JetStream has acknowledged", registry=registry)
        self.nats_failures = Counter("agentidp_nats_failures", "How often publishing to NATS failed and was begun again", registry=registry)

        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """The instruments of each combination are looked up once: there are as many as routes, methods and statuses."""
        key = (method, route, status)
        found = self._answered.get(key)
        if found is None:
            found = self._answered[key] = (self.requests.labels(method, route, str(status)), self.request_seconds.labels(method, route))
        found[0].inc()
        found[1].observe(seconds)

    def observe_database(self, kind: str, seconds: float) -> None:
        self.database_seconds.labels(kind).observe(seconds)
