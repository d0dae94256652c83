"""LitServe with its own batching: raw PNG bytes in and out."""

import sys
from typing import Annotated

import litserve as ls
from fastapi import Body, Response

from . import network
from .network import Pixels


class Purify(ls.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002 (LitServe's signature)
        self.model = network.load()

    def decode_request(self, request: Annotated[bytes, Body()]) -> Pixels:
        return network.decode(request)

    def batch(self, inputs: list[Pixels]) -> list[Pixels]:
        return inputs

    def predict(self, batch: list[Pixels]) -> list[Pixels]:
        return network.purify(self.model, batch)

    def unbatch(self, output: list[Pixels]) -> list[Pixels]:
        return output

    def encode_response(self, output: Pixels) -> Response:
        return Response(network.encode(output), media_type="image/png")


if __name__ == "__main__":
    api = Purify(max_batch_size=64, batch_timeout=0.0, api_path="/purify")
    ls.LitServer(api, accelerator="cpu", devices=1).run(
        port=int(sys.argv[1]), log_level="warning", generate_client_file=False
    )
