"""Several processes at one port: the supervisor, its workers, and what they know of each other."""
