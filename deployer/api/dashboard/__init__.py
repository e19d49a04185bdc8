"""Pages for people: rendered here, readable without a script, and without a request to elsewhere."""
