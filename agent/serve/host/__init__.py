"""The machine: callers, accounts, clocks, journal, systemd."""
