"""The program with the network: login, container, payloads, one reply, and it ends."""
