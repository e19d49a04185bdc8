"""What the deployer's database must do on SQLite and on PostgreSQL alike.

Classes of tests, run by tests/unit/test_database.py and tests/integration/test_database_postgresql.py, which
give each the fixture ``database``: an empty one with its tables.
"""
