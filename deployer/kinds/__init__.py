"""How a value comes about: one module a kind."""
