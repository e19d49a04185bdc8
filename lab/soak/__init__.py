"""A long run of the real agent on a real cloud, with faults: does anything grow? `make soak`."""
