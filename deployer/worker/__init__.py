"""Makes what Barbican lists equal to what is wanted."""
