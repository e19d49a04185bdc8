"""Proves by trying that a cloud keeps its promises: throw-away objects, every actor, every operation."""
