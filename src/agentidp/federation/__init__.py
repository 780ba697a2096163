"""Partners: other issuers whose tokens an organization wants to check. A partner's token is never an identity here."""
