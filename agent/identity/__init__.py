"""A VPS's own account in Keystone: password, credentials, what it did not make, and where that is kept."""
