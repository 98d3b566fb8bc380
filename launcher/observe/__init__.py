"""What there is: objects of a server, instances and their state, the daemon's own files. Reads only."""
