"""AgentIdP: an identity provider whose principals are AI agents."""

__version__ = "0.1.0"
