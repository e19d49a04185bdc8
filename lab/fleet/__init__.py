"""The agent's real decisions in a fleet of any size, against a cloud of limited capacity: `make fleet`."""
