"""What each socket answers: one module for each of the agent's sockets."""
