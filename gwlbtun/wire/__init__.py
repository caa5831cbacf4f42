"""Bytes to values and back, stateless. Nothing here reads a clock, a socket or a table."""
