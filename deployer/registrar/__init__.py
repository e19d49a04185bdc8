"""Keystone accounts, behind a socket of its own."""
