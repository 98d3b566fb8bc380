"""Where it goes: publish to Incus."""
