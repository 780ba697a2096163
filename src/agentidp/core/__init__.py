"""The ground floor: knows no domain, no database and no framework decisions."""
