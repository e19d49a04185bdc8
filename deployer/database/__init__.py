"""What the deployer knows, on SQLite or PostgreSQL; never a value."""
