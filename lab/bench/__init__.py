"""Figures of the agent, side by side with a floor, in one run: `make bench`."""
