"""The deployment side: makes accounts and secrets for VPSs. It can't read what it made."""
