"""The command ``vps-secrets``: standard library only, and no way to print a value."""
