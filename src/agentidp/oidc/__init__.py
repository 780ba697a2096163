"""What verifiers and clients discover about this issuer, and what an agent can learn about itself."""
