"""Ray Serve, one replica with ``@serve.batch``: raw PNG bytes in and out."""

import sys
import threading

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.http import network
from benchmarks.http.network import Pixels


@serve.deployment(num_replicas=1, max_ongoing_requests=256)  # its manual: above twice the batch
class Purify:
    def __init__(self) -> None:
        self.model = network.load()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.0)
    async def purify(self, images: list[Pixels]) -> list[Pixels]:
        return network.purify(self.model, images)

    async def __call__(self, request: Request) -> Response:
        purified = await self.purify(network.decode(await request.body()))
        return Response(network.encode(purified), media_type="image/png")


if __name__ == "__main__":
    ray.init(include_dashboard=False, logging_level="error", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Purify.bind(), route_prefix="/purify", logging_config={"enable_access_log": False})
    threading.Event().wait()
