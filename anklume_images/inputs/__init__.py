"""What goes in: the lock file, its resolvers and the fetcher."""
