"""The renewal of a VPS's own credential: in a process of its own, which alone gets the account's password."""
