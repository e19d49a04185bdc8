"""Runs one step of an operator's executable, in a process and with a user of its own (kind ``command``)."""
