"""How much an organization and its agents did, by day and hour. Reads the ledger's counters, never the history."""
