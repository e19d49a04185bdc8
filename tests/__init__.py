"""The tests: unit (pure), cloud (real Keystone and Barbican), integration (real processes)."""
