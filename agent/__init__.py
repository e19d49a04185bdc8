"""vps-secrets-agent: the secrets of one VPS, from Barbican to the application's socket, in memory only."""

__version__ = "0.1.0"
