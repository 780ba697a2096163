"""Storage on SQLite and PostgreSQL through one SQL layer (SQLAlchemy Core). Knows tables and transactions, decides nothing."""
