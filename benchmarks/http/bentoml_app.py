"""BentoML, composed as its manual does: one service reads and writes a PNG, the one behind it batches adaptively."""

import bentoml
import numpy as np
from _bentoml_impl.client.proxy2 import SessionManager
from PIL import Image

from . import network

# Its client between services closes its connections every 100 requests, answers under way included (1.4.40).
SessionManager._should_refresh = lambda _: False

_QUIET = {"access": {"enabled": False}}


@bentoml.service(workers=1, logging=_QUIET)
class Network:
    def __init__(self) -> None:
        self.model = network.load()

    @bentoml.api(batchable=True, max_batch_size=64)
    def purify(self, images: np.ndarray) -> np.ndarray:
        return np.stack(network.purify(self.model, list(images)))


@bentoml.service(workers=1, logging=_QUIET)
class Purify:
    network = bentoml.depends(Network)

    @bentoml.api(route="/purify")
    async def purify(self, image: Image.Image, /) -> Image.Image:
        (purified,) = await self.network.to_async.purify(np.array(image)[None])
        return Image.fromarray(purified)
