"""Every bound of the program, with its unit and its reason. Nothing here is a setting."""

from typing import Final

# HTTP ---------------------------------------------------------------------------------------
BODY_BYTES_MAX: Final = 64 * 1024  # api.md: 413 above; no operation so far needs more
HEADER_BYTES_MAX: Final = 32 * 1024  # names and values together; 431 above
HEADER_COUNT_MAX: Final = 100  # what proxies add stays well below; 431 above
PATH_BYTES_MAX: Final = 4096  # the longest legal path is about 120; 414 above
QUERY_BYTES_MAX: Final = 16 * 1024  # three filters of 254 characters of four bytes, percent-encoded, are 9 KiB; 414 above
QUERY_PARAMETERS_MAX: Final = 100  # no operation knows more than a dozen
FORM_PARAMETERS_MAX: Final = 100  # the token endpoint knows about ten
JSON_DEPTH_MAX: Final = 32  # our deepest document has four levels
REQUEST_HEAD_SECONDS_MAX: Final = 10  # a client that drips its headers is cut off
REQUEST_BODY_SECONDS_MAX: Final = 15  # 64 KiB at modem speed fits
REPEATED_HEADERS_MAX: Final = 1024  # user agents and addresses remembered in their checked form
CONNECTIONS_MAX: Final = 4096  # file descriptors; 503 above
PROCESSES_MAX: Final = 64  # more than a machine has cores for
PROCESS_DEATHS_MAX: Final = 10  # then something is wrong that a new process does not mend
UNREAD_ANSWER_SECONDS_MAX: Final = 60  # a client that takes nothing of its answer for this long is cut off
KEEP_ALIVE_SECONDS: Final = 75  # longer than the 60 s of the usual load balancers
SHUTDOWN_SECONDS_MAX: Final = 10  # what is in flight at SIGTERM gets this long
REQUEST_ID_CHARACTERS_MAX: Final = 128  # a caller's own X-Request-Id is kept up to this length
USER_AGENT_CHARACTERS_MAX: Final = 256  # stored with each audit event

# Tokens -------------------------------------------------------------------------------------
TOKEN_CHARACTERS_MAX: Final = 8192  # refused before anything is decoded
TOKEN_HEADER_BYTES_MAX: Final = 2048  # ours has about 90
ISSUED_AT_LEEWAY_SECONDS: Final = 60  # clocks of two processes may differ by this much
TOKEN_LIFETIME_SECONDS_MIN: Final = 60
TOKEN_LIFETIME_SECONDS_MAX: Final = 86_400
RESOURCES_MAX: Final = 10  # audiences of one token
RESOURCE_CHARACTERS_MAX: Final = 512
SCOPE_CHARACTERS_MAX: Final = 1024  # all scopes that exist are 220 together
JWKS_MAX_AGE_SECONDS: Final = 300  # verifiers may keep the key set this long; rotation waits for it
KEYS_REFRESH_SECONDS: Final = 5  # another process's rotation is seen at the latest after this
UNKNOWN_KEY_RELOAD_SECONDS: Final = 1  # at most one reload of the key table a second for unknown key ids

FOREIGN_KEYS_CACHED_MAX: Final = 4096  # public keys of clients and issuers that need not be parsed again, about 1 KB each
FOREIGN_RSA_BITS_MAX: Final = 4096  # to check a signature with it takes 0.1 ms
FOREIGN_KEY_MEMBERS_MAX: Final = 20  # of a JWK; those that we know are ten
JTI_CHARACTERS_MAX: Final = 256  # of an id that a client gives its assertion or proof; a UUID has 36
CLIENT_ASSERTION_SECONDS_MAX: Final = 3_600  # an assertion's life; a good one has a minute, but libraries make them for an hour by default
DPOP_PROOF_SECONDS_MAX: Final = 120  # between a proof's iat and its use; clocks differ by 60
DPOP_NONCE_SECONDS: Final = 120  # a nonce is good for one to two times as long: so often a client that goes on has to take another
ONE_TIME_MARGIN_SECONDS: Final = 120  # a used value is kept so long beyond its expiry: clocks differ by 60 s, and a decision waits twice 10 s for its commit
ACTORS_MAX: Final = 5  # who act for an agent one behind the other: api.md section 17
FOUNDATIONS_MAX: Final = 10  # tokens that one rests on, each looked up whenever it is used: a subject's and an actor's for each actor

# Outside issuers ----------------------------------------------------------------------------
OUTSIDE_TOKEN_SECONDS_MAX: Final = 86_400  # from `iat` to `exp`; GitHub's live minutes, Kubernetes' an hour unless it is asked for more
OUTSIDE_KEYS_FRESH_SECONDS_MIN: Final = 60  # a key set is kept for as long as its Cache-Control says, but no shorter
OUTSIDE_KEYS_FRESH_SECONDS_MAX: Final = 3_600  # and no longer: a key that its issuer withdrew is trusted for an hour at most
OUTSIDE_KEYS_STALE_SECONDS_MAX: Final = 21_600  # what was fetched is used for so long while its issuer cannot be reached; 503 after that
OUTSIDE_KEYS_RETRY_SECONDS: Final = 10  # between two tries to reach an issuer that did not answer
OUTSIDE_UNKNOWN_KEY_SECONDS: Final = 60  # at most one reload a minute of an issuer's keys for unknown key ids
OUTSIDE_KEYS_MAX: Final = 64  # keys of one issuer; GitHub has about five
OUTSIDE_KEYS_WAIT_SECONDS: Final = 2.0  # a request waits so long for a key set that is stale, but may still be used; it is fetched meanwhile
OUTSIDE_KEYS_SECONDS_MAX: Final = 10.0  # to fetch an issuer's discovery document and key set, both together
OUTSIDE_ISSUERS_MAX: Final = 1_000  # issuers whose keys are kept, about 10 KB each; the oldest go
OUTSIDE_ISSUERS_EACH_MAX: Final = 100  # of them such that only one organization has asked for
OUTSIDE_LOADS_MAX: Final = 128  # issuers that are being asked at once; others wait as long as for any turn, then 503
OUTSIDE_LOADS_EACH_MAX: Final = 4  # of them for one organization
TRUST_POLICIES_MAX: Final = 100  # of one organization: all are looked at for each token
POLICY_CONDITIONS_MAX: Final = 20
POLICY_CONDITIONS_BYTES_MAX: Final = 8_192  # of a policy's conditions, as JSON; a hundred such are read when a token comes that nobody knows
CONDITION_VALUES_MAX: Final = 20  # of one `in`
CLAIM_NAME_CHARACTERS_MAX: Final = 128
CLAIM_CHARACTERS_MAX: Final = 512  # of a value that a condition names; a workflow's ref has about 200
POLICIES_CACHED_MAX: Final = 10_000  # organizations whose policies a process keeps, about 1 KB each policy
FEDERATION_PARTNERS_MAX: Final = 100  # of one organization
PARTNER_ORGANIZATIONS_MAX: Final = 100  # that one partner may speak for
REGISTRATION_TOKEN_SECONDS_MAX: Final = 300  # api.md section 15: what a policy without agent gives

# Rates --------------------------------------------------------------------------------------
RATE_KEYS_MAX: Final = 100_000  # clients, or sources, whose rate a process remembers, about 200 bytes each; the idle go first
RATE_RECHECKS_PER_MINUTE: Final = 60  # of a refused client: whether its plan has been raised costs a read
FAILED_LOGINS_PER_SOURCE_FACTOR: Final = 10  # a source may fail so many times as often as one client from it: many may share an address
PRESENTED_CHARACTERS_KEPT: Final = 64  # of the name under which a failure is counted; ours have 36
SHARED_RATES_SECONDS_MAX: Final = 0.1  # for one answer of Redis; a request waits for two at most. A busy loop must not pass for a Redis that is gone
SHARED_RATES_CONNECT_SECONDS: Final = 1.0  # where no request waits for it
SHARED_RATES_RETRY_SECONDS: Final = 1.0  # between two tries to reach a Redis that did not answer
SHARED_RATES_BATCH_MAX: Final = 64  # requests asked about at once: a few milliseconds of the loop

# Resources ----------------------------------------------------------------------------------
ACTIVE_CREDENTIALS_PER_AGENT_MAX: Final = 10  # api.md section 3
ROTATION_OVERLAP_SECONDS_MAX: Final = 604_800  # a week
CAPABILITIES_PER_AGENT_MAX: Final = 64
ORGANIZATION_LIMIT_MAX: Final = 1_000_000_000  # agents, or tokens a day; beyond it leave the limit out
PAGE_LIMIT_MAX: Final = 100
PAGE_LIMIT_DEFAULT: Final = 20
AUDIT_PAGE_LIMIT_MAX: Final = 200
AUDIT_PAGE_LIMIT_DEFAULT: Final = 50
OFFSET_ROWS_MAX: Final = 10_000  # offset pages and `total` end here; cursors do not
SIGNING_KEYS_CACHED_MAX: Final = 64  # encoded token headers: a few keys, two kinds of token
VERIFIED_TOKENS_MAX: Final = 10_000  # tokens whose signature need not be checked again, about 2 KB each
SNAPSHOTS_MAX: Final = 100_000  # cached credentials, about 700 bytes each
LAST_USED_RESOLUTION_MS: Final = 60_000  # a credential's lastUsedAt is written at most once a minute
ID_LEAD_MS_MAX: Final = 600_000  # ids stay in order when the clock is set back by less; their time is never further ahead of it
AUDIT_ID_MARGIN_MS: Final = 900_000  # an event's id and its timestamp differ by less: the lead above, and what an entry waits for its commit
AUDIT_LINKS_MAX: Final = 1_000  # sealed events read at once: a few milliseconds of a reader, a megabyte
AUDIT_STRETCH_MAX: Final = 64_000  # sealed events followed in one read where nothing is wrong: a fifth of a second of a reader
AUDIT_RANGE_EDGE_MAX: Final = 1_000  # events at either end of a range of dates whose order is not taken for granted
AUDIT_VERIFICATIONS_MAX: Final = 2  # at once in a process: each keeps a core busy; 503 above
AUDIT_EXPORTS_MAX: Final = 8  # at once in a process, each at the pace of its reader; 503 above
AUDIT_VERIFICATIONS_EACH_MAX: Final = 1  # at once for one organization: the others' turns are theirs; 429 above
AUDIT_EXPORTS_EACH_MAX: Final = 2  # the same: a long one, and one of a few days beside it
AUDIT_LINE_BYTES_MAX: Final = 1024 * 1024  # of an export; events have about 600
STREAM_SECONDS_MAX: Final = 60  # a reader that lets a stream wait for so long is cut off
STREAM_BYTES_PER_SECOND_MIN: Final = 256 * 1024  # what it takes makes good for a wait at this pace: a million events hold a turn for 40 minutes at most
TIMESTAMP_MS_MAX: Final = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z, the end of RFC 3339

LIMIT_NOTE_MS: Final = 60_000  # refusals at one limit of one organization leave an audit event this often in a process
LIMIT_NOTES_MAX: Final = 10_000  # organizations at a limit that are remembered for it, about 200 bytes each

# Database -----------------------------------------------------------------------------------
WRITE_QUEUE_MAX: Final = 4096  # units of work waiting for the SQLite writer; 503 above
WRITE_BATCH_MAX: Final = 512  # units handed to the writer at once; a commit takes fewer than twice as many, which bounds the time of the write lock
READ_QUEUE_MAX: Final = 4096
SQLITE_CACHE_KIB: Final = 8 * 1024  # of pages, for each connection: the newest part of each index, which writing a batch needs at hand
SQLITE_READERS: Final = 4  # reads are short; more threads only fight for the interpreter lock
SQLITE_BUSY_MS: Final = 2_000  # another program (a backup, a shell) may hold the file this long
BACKUP_STEP_PAGES: Final = 1_000  # 4 MB between two looks at how far a backup has come
COPY_ROWS: Final = 1_000  # rows in memory while a database is copied to the other engine
POSTGRES_POOL_SIZE: Final = 10
POSTGRES_POOL_WAIT_SECONDS: Final = 5
POSTGRES_CONNECT_SECONDS: Final = 5
POSTGRES_STATEMENT_MS: Final = 5_000
WRITE_ATTEMPTS_MAX: Final = 5  # after serialization failures and deadlocks, then 503
UNIT_SECONDS_MAX: Final = 10  # a request waits this long for the database, then 503
RETRY_AFTER_SECONDS: Final = 1  # what a 503 tells the client
PROBE_INTERVAL_SECONDS: Final = 1.0  # health looks at the database this often
PROBE_STALE_SECONDS: Final = 3.0  # and believes an answer for this long
RESEAL_ROWS_MAX: Final = 100  # values sealed anew in one transaction: a few milliseconds of the write lock
SWEEP_INTERVAL_SECONDS: Final = 60.0  # expired revocations and retired keys are removed this often
SWEEP_ROWS_MAX: Final = 1_000  # rows one sweep deletes in one transaction

# Chain --------------------------------------------------------------------------------------
SEAL_PAUSE_SECONDS: Final = 0.02  # between a commit and the look for what it left unsealed: what arrives meanwhile is sealed with it
SEAL_PAUSE_SECONDS_MAX: Final = 0.1  # the same on a busy machine, where rounds take longer and are made fewer
SEAL_POLL_SECONDS: Final = 0.5  # the sealer looks this often unasked, for what other processes left
SEAL_ROWS_MAX: Final = 256  # events sealed in one transaction: two or three milliseconds of the writer
SEAL_LEASE_MS: Final = 250  # after its last event another process may take over a chain
SEAL_LEASE_BELIEVED_MS: Final = 60_000  # a lease that ends later was taken by a clock that is wrong
CHECKPOINT_INTERVAL_SECONDS: Final = 20.0  # heads that may need a new signature are looked for this often
CHECKPOINT_FRESH_MS: Final = 35_000  # a chain's next checkpoint is signed when the last is older: together less than a minute
CHECKPOINTS_SIGNED_MAX: Final = 10  # in one transaction: about 10 ms
RETENTION_INTERVAL_SECONDS: Final = 600.0  # what is due to be forgotten is looked for this often
RETENTION_ORGANIZATIONS: Final = 100  # looked at in one read
RETENTION_PLAN_DAYS: Final = 30  # nothing is forgotten for so long after a change of plan: time to notice a mistake, or to pay again
PARTITIONS_AHEAD: Final = 2  # months beyond this one that have their partition: so long may it be impossible to make another
PARTITION_LOCK_MS: Final = 500  # so long those who write wait behind a partition that is being attached or dropped
PARTITIONS_INTERVAL_SECONDS: Final = 3600.0  # whether a month is missing is looked at this often

# Events that are passed on --------------------------------------------------------------------
FOLLOWED_ORGANIZATIONS_MAX: Final = 50  # looked at in one round of a follower; the next round takes up the others
FOLLOWED_EVENTS_MAX: Final = 500  # of one organization's history looked at in one read: a millisecond or two
FOLLOW_POLL_SECONDS: Final = 0.5  # what other processes sealed is looked for this often
FOLLOWER_LEASE_MS: Final = 10_000  # whoever follows for all processes and is not heard of for so long is taken for dead
FOLLOWER_LEASE_BELIEVED_MS: Final = 60_000  # a lease that ends later was taken by a clock that is wrong
EVENT_STREAMS_MAX: Final = 200  # at once in a process, of which each may hold a read of 500 events for a slow reader: 100 MB; 503 above
EVENT_STREAMS_EACH_MAX: Final = 50  # at once for one organization: dashboards of a team; 429 above
EVENT_STREAM_SECONDS_MAX: Final = 900  # then it ends, and its reader goes on in another: no connection is for ever
EVENT_STREAM_READS_MAX: Final = 2  # at once in a process, for all streams together: half of SQLite's readers
EVENT_STREAM_BEAT_SECONDS: Final = 15.0  # a sign of life, before proxies cut what is silent, and a look whether the token is still in force
EVENT_STREAM_RETRY_MS: Final = 3_000  # a browser waits so long before it goes on in another
EVENT_STREAM_EVENTS_MAX: Final = 10_000  # the largest `limit`; who wants more leaves it out
EVENT_TYPES_CHARACTERS_MAX: Final = 1_000  # of the list in a query: forty names, more than there are

# NATS ---------------------------------------------------------------------------------------
NATS_CONNECT_SECONDS: Final = 5  # of each server; twice as long for all of them
NATS_ANSWER_SECONDS: Final = 5  # for JetStream to acknowledge; then the connection is given up, and the batch sent again
NATS_BATCH_EVENTS_MAX: Final = 2_000  # on their way at once, of all organizations: two megabytes
NATS_RETRY_SECONDS: Final = 0.5  # the first pause after a failure; doubled after each
NATS_RETRY_SECONDS_MAX: Final = 30.0  # so late at most a server that is back is noticed
NATS_DUPLICATE_SECONDS: Final = 600  # JetStream remembers ids for so long, 100 bytes each: what is sent again within it is dropped
NATS_LOOK_SECONDS: Final = 2.0  # a lease is renewed, the connection tried and a new organization taken up this often

# Webhooks -----------------------------------------------------------------------------------
WEBHOOKS_PER_ORGANIZATION_MAX: Final = 50  # each event is written once for each webhook that wants it
WEBHOOK_SECRETS_MAX: Final = 5  # that sign at once: a rotation a day for a while, or a few in a hurry; the oldest one ends then
WEBHOOK_SECRET_BYTES: Final = 32  # Standard Webhooks: between 24 and 64
WEBHOOK_OVERLAP_MS: Final = 24 * 3600 * 1000  # api.md section 11: how long the secret before a rotation goes on signing
WEBHOOK_FAN_OUT_ROWS: Final = 500  # deliveries written in one transaction: a few milliseconds of the writer
WEBHOOK_READ_MAX: Final = 64  # deliveries of one webhook read at once, with bodies of about 700 bytes
WEBHOOK_BACKLOG: Final = 16  # when so many are due, the receiver does not keep up with one after the other
WEBHOOK_CONCURRENT_EACH: Final = 8  # requests under way at once to such a receiver; then their order is lost
WEBHOOK_YOUNG_MAX: Final = 24  # attempts at once that just began, or were answered at once and are not durable: what a kill repeats
WEBHOOK_YOUNG_SECONDS: Final = 0.015  # then an attempt waits for its receiver, and makes room: 1,600 may begin in a second, as many as a process can send
WEBHOOK_LANES_MAX: Final = 128  # receivers that one process sends to at once
WEBHOOK_FAILING_LANES_MAX: Final = 64  # the same for those whose last attempt failed: however many of them hang, they take nobody's place
WEBHOOK_LANES_EACH_MAX: Final = 16  # of them for one organization
WEBHOOK_TENURE_MS: Final = 10_000  # after so long a lane goes to whoever has waited longest
WEBHOOK_LEASE_MS: Final = 35_000  # a process that has died holds a webhook for so long
WEBHOOK_LEASE_LEFT_MS: Final = 27_000  # an attempt, 5 s for its turn and 20 s at most, begins with so much of the lease left, or renews it first
WEBHOOK_END_SECONDS: Final = 5.0  # what is being sent when a process ends gets this long; then it is sent again by another
WEBHOOK_RESPONSE_BYTES: Final = 2048  # of an answer that are kept
WEBHOOK_HISTORY_MAX: Final = 20  # attempts of a delivery that are remembered: two rounds of ten
WEBHOOK_RETRY_AFTER_SECONDS_MAX: Final = 43_200  # what a receiver may ask for: the longest of our own pauses
WEBHOOK_FAILURES_BEFORE_PAUSE: Final = 5  # in a row; then the receiver is asked less and less often, whatever waits for it
WEBHOOK_PAUSE_MS_MAX: Final = 60_000  # the longest time between two attempts at such a receiver
WEBHOOK_BUSY_MS: Final = 1_000  # until the next try where too many requests of this process go to one origin
WEBHOOK_EXPIRES_MS: Final = 26 * 3600 * 1000  # what is undelivered then is given up: ten attempts take 23 hours
WEBHOOK_FAILING_MS_MAX: Final = 3 * 24 * 3600 * 1000  # without any success; then the webhook is disabled
WEBHOOK_WATCH_SECONDS: Final = 15.0  # the gauges of webhooks are set this often
WEBHOOK_LAG_SECONDS_MAX: Final = 300  # that a delivery which is due has waited; beyond it the server does not keep up, and says so in its health
WEBHOOK_DELIVERIES_KEPT_MS: Final = 30 * 24 * 3600 * 1000  # after they were delivered or given up

# Analytics ----------------------------------------------------------------------------------
ANALYTICS_DAYS_MAX: Final = 90  # api.md section 7; a page of agents reads up to 18,000 rows
ANALYTICS_DAYS_DEFAULT: Final = 30  # a month, near enough: api.md section 7
USAGE_SUMMARY_DAYS_MAX: Final = 366  # a year, of one row a day and meter
ACTIVITY_DAYS_KEPT: Final = 400  # of what agents did by day and hour: more than a year, whatever is asked for one day

# Billing ------------------------------------------------------------------------------------
STRIPE_SECONDS_MAX: Final = 8  # for everything that one of our answers asks Stripe; a checkout is answered within 10 s
STRIPE_REPEATS_MAX: Final = 1  # of one call, under its idempotency key, after a failure that may pass
STRIPE_KEYS_MAX: Final = 3  # Stripe says a server error again to whoever repeats its key: then the next key is tried
STRIPE_ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024  # a hundred subscriptions have about 500 KB
STRIPE_SIGNATURE_SECONDS_MAX: Final = 300  # Stripe's own tolerance; either way, because clocks differ either way
STRIPE_SIGNATURE_CHARACTERS_MAX: Final = 2048  # of the header; Stripe's has about 150 for each secret
STRIPE_ID_CHARACTERS_MAX: Final = 128  # Stripe's ids have at most about 70
CHECKOUT_LEFT_MS_MIN: Final = 1_800_000  # an open checkout is handed out again if it lives this much longer
URL_CHARACTERS_MAX: Final = 2048  # of an address that somebody is sent back to, or that we call
BILLING_POLL_SECONDS: Final = 1.0  # what other processes accepted, and what is due again, is looked for this often
BILLING_LEASE_MS: Final = 30_000  # whoever took an event and has not applied it by then is taken for dead
BILLING_ATTEMPTS_MAX: Final = 10  # with doubled pauses about a quarter of an hour; then the event is parked
BILLING_RETRY_MS: Final = 1_000  # the first pause
BILLING_REASON_CHARACTERS_MAX: Final = 200  # why an event was parked
BILLING_EVENTS_KEPT_MS: Final = 90 * 24 * 3600 * 1000  # Stripe repeats an event for three days
BILLING_INTERVAL_SECONDS: Final = 30.0  # ends of grace, usage to report and parked events are looked for this often
METER_DELAY_MS: Final = 900_000  # after midnight no count of the day before is still being committed
METER_DAYS_MAX: Final = 30  # Stripe takes usage of the last 35 days
METERS_REPORTED_MAX: Final = 50  # counts read at once

# Outgoing -----------------------------------------------------------------------------------
HOST_CHARACTERS_MAX: Final = 253  # RFC 1035 section 3.1, without the last dot
OUTGOING_TURN_SECONDS_MAX: Final = 5.0  # a request waits this long for its turn, then it has not been made
OUTGOING_CONNECT_SECONDS_MAX: Final = 5.0  # to look the name up, and again to connect, TLS included
OUTGOING_SECONDS_MAX: Final = 20.0  # from its turn to the last byte of the answer
OUTGOING_ANSWER_BYTES_MAX: Final = 64 * 1024  # of a body, which is cut there
OUTGOING_HEAD_BYTES_MAX: Final = 32 * 1024  # status line and headers; one event of the parser
OUTGOING_RAW_BYTES_MAX: Final = 160 * 1024  # of head, informational answers, body and the framing of its chunks: 0.15 s of the parser at worst
OUTGOING_READ_BYTES: Final = 16 * 1024  # taken from a connection at a time; more is not asked of the other side
OUTGOING_REQUESTS_MAX: Final = 1_280  # at once in a process: every lane of webhooks has its place, and others have 192; file descriptors
OUTGOING_REQUESTS_EACH_MAX: Final = 64  # to one origin: with 20 ms an answer, 3,200 a second
OUTGOING_REQUESTS_OF_ONE_MAX: Final = 16  # of them of one tenant: where many have their receivers with one provider, none of them takes all
OUTGOING_KEPT_MAX: Final = 256  # connections without a request that wait for the next
OUTGOING_KEPT_SECONDS_MAX: Final = 30.0  # from connecting, used or not: so long does a change of the name's addresses take
OUTGOING_ADDRESSES_DIALLED_MAX: Final = 3  # of one name, one after the other, within the time to connect; all of them are checked
OUTGOING_LOOKUPS_MAX: Final = 64  # threads that wait for name servers

# Vault --------------------------------------------------------------------------------------
VAULT_SECONDS_MAX: Final = 10  # for one answer; a start waits for it
VAULT_ANSWER_BYTES_MAX: Final = 64 * 1024  # an honest one has about 300
VAULT_ERROR_CHARACTERS_MAX: Final = 200  # of its reasons that are shown
