"""HTTP/1.1 over a Unix socket: connections, requests, limits, answers."""
