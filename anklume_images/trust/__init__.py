"""Who vouches for a store: its signed metadata (The Update Framework), its keys, what is believed of others."""
