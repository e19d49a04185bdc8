"""Programs that use clients/, for test_clients.py."""
