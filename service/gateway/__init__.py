"""In front of a model server: its protocols over HTTP and gRPC, with purified images."""
