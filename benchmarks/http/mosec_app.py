"""mosec with dynamic batching in one worker: raw PNG bytes in and out. ``--port`` is read by mosec itself."""

from mosec import Server, Worker

from . import network
from .network import Pixels


class Purify(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.model = network.load()
        self.resp_mime_type = "image/png"

    def deserialize(self, data: bytes) -> Pixels:
        return network.decode(data)

    def serialize(self, data: Pixels) -> bytes:
        return network.encode(data)

    def forward(self, data: list[Pixels]) -> list[Pixels]:
        return network.purify(self.model, data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Purify, num=1, max_batch_size=64, max_wait_time=1, route="/purify")
    server.run()
