"""The product on a real Keystone and a real Barbican, on this machine, in about twenty seconds."""
