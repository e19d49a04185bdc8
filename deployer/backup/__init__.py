"""Encrypted copies and the way back."""
