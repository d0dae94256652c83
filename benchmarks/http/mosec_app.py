"""mosec with dynamic batching in one worker: raw PNG bytes in and out."""

import io

import numpy as np
import torch
from mosec import Server, Worker
from PIL import Image

import models


class Purify(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.model = models.load("mnist-transparent")
        self.resp_mime_type = "image/png"

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.array(Image.open(io.BytesIO(data)))

    def serialize(self, data: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(data).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            purified = self.model(torch.from_numpy(np.stack(data))[:, None].float() / 255)
        return list(purified[:, 0].mul(255).round().byte().numpy())


if __name__ == "__main__":
    server = Server()
    server.append_worker(Purify, num=1, max_batch_size=64, max_wait_time=1, route="/purify")
    server.run()
