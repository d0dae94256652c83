"""Each server's own client, unchanged: only the address tells the server from the purifier before it."""
