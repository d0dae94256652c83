"""A V2 model server that reads every request, looks at nothing and answers the same: what the gateway needs behind it.

``python -m benchmarks.sink PORT``
"""

from __future__ import annotations

import asyncio
import re
import sys

_BODY = b'{"model_name":"sink","outputs":[]}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


class Sink(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.head, self.left = transport, b"", 0

    def data_received(self, data: bytes) -> None:
        if not self.left:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", self.head)
            data, self.left = self.head[end + 4 :], int(length[1]) if length else 0
            self.head = b""
        self.left -= len(data)
        if not self.left:
            self.transport.write(_ANSWER)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
