"""Cards: what the host has, who holds them, who may, and what makes them work."""
