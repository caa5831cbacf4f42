"""Decisions and state of the packet path. No I/O here: time and bytes are passed in."""
