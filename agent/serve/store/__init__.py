"""The one copy of the values, its index, and its way through a restart."""
