"""The command vps-secrets-deploy."""
