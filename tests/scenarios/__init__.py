"""Bad days, played in minutes on a real Keystone and Barbican, each with its promise (docs/outages.md)."""
