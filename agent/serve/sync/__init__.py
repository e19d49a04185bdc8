"""Keeping up with Barbican: when to read, the fetch process, the budget, the beacon."""
