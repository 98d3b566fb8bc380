"""A real Incus out of a locked tree, in namespaces of its own: for `try`, the quickstart and tests."""
