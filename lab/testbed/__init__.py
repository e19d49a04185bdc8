"""Real Keystone, Barbican and Swift on loopback, the fakes, and the running agent."""
