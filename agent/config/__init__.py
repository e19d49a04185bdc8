"""The configuration file: its model, and the reader that checks it."""
