"""The plans, where an organization stands on its own, and the way to a higher one."""
