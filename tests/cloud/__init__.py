"""Real Keystone and real Barbican on loopback, and what is proved on them."""
