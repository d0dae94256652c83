"""From bytes to purified pixels: decode, queue, engine. Knows no HTTP and no gRPC."""
