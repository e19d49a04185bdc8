"""What developers run: demo, benchmark, fleet, soak, and the testbed that they and the tests stand on."""
