"""The purification service: HTTP in front of G(E(x)) behind a batched queue. Stands on ``models``."""
