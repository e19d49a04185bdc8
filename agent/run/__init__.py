"""``vps-secrets run``: starts a command with its secrets, for applications that read environment or files."""
