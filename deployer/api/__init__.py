"""HTTP: wishes, orders, answers; no cloud credential, no value."""
