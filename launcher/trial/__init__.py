"""A private Incus in namespaces, gone when left."""
