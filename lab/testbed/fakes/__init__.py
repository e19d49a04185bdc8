"""Servers for faults that the real parts cannot produce on demand. Each speaks the real protocol."""
