"""Looks at what runs: status, verify, doctor."""
