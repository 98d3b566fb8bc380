"""The GPU policy: what machines ask for, who is in whose way, and how it is said; with a host's cards or without."""
