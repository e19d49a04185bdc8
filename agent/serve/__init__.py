"""The program with the doors: holds the snapshot and hands it to local callers; it has no network."""
