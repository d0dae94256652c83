"""LitServe with its own batching: raw PNG bytes in and out."""

import io
import sys
from typing import Annotated

import litserve as ls
import numpy as np
import torch
from fastapi import Body, Response
from PIL import Image

import models


class Purify(ls.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002 (LitServe's signature)
        self.model = models.load("mnist-transparent")

    def decode_request(self, request: Annotated[bytes, Body()]) -> np.ndarray:
        return np.array(Image.open(io.BytesIO(request)))

    def batch(self, inputs: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(inputs))[:, None].float() / 255

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(batch)

    def unbatch(self, output: torch.Tensor) -> list[np.ndarray]:
        return list(output[:, 0].mul(255).round().byte().numpy())

    def encode_response(self, output: np.ndarray) -> Response:
        buffer = io.BytesIO()
        Image.fromarray(output).save(buffer, "PNG", compress_level=1)
        return Response(buffer.getvalue(), media_type="image/png")


if __name__ == "__main__":
    api = Purify(max_batch_size=64, batch_timeout=0.0, api_path="/purify")
    ls.LitServer(api, accelerator="cpu", devices=1).run(
        port=int(sys.argv[1]), log_level="warning", generate_client_file=False
    )
