"""The server's side of HTTP: connections, limits, request bodies, content negotiation."""
