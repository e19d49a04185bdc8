"""The package on booted Debian systems."""
