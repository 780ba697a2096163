"""Trust policies: which identities of other issuers may act as which agent."""
