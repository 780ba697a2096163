"""What happens in an organization, passed on as it happens: streams, and NATS JetStream. The history itself is the ledger's, see `ledger.following`."""
