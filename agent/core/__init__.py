"""Decisions and values: no I/O, no clock, no logging, no third party."""
