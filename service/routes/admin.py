"""Hot swap: ``POST /admin/models/{name}`` puts another checkpoint in the place of a loaded purifier.

It is loaded, built and warmed on a thread of its own while the old one serves, and takes over between two batches, once
its fast path has answered golden images as the contract asks. Whatever is wrong with it, the old one stays.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Base64Bytes, BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from arn_purify import models
from arn_purify.models import Card

from ..core import codec
from ..core.batcher import Batcher
from ..core.engine import Engine, Work
from ..core.lifecycle import Lifecycle
from ..core.precision import tolerance
from ..core.purifier import Purifier
from ..edge.http import read_body
from ..errors import BadParameter, SwapRefused, SwapUnderWay, UnknownModel, WrongAdminToken
from ..settings import Settings
from ..telemetry.metrics import Metrics
from . import page

logger = logging.getLogger("service.admin")

# Share of the values that may be further off than `tolerance` says, as bf16 leaves single ones of a photograph.
_STRAY = 1e-3


class Golden(BaseModel, extra="forbid"):
    """An image and what the new purifier is known to make of it."""

    input: Base64Bytes
    expected: Base64Bytes


class Swap(BaseModel, extra="forbid"):
    """What the route takes."""

    path: str = Field(description="checkpoint, from ARN_ADMIN_FOLDER")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="what the file's hash must be")
    golden: Golden | None = None


class Swapper:
    """Swaps one model at a time."""

    def __init__(
        self, settings: Settings, purifier: Purifier, batcher: Batcher, lifecycle: Lifecycle, metrics: Metrics
    ) -> None:
        self._settings, self._purifier, self._batcher = settings, purifier, batcher
        self._lifecycle, self._metrics = lifecycle, metrics
        self._under_way = asyncio.Lock()

    def route(self) -> Route:
        """The route, which exists only with ``ARN_ADMIN_TOKEN``."""

        async def endpoint(request: Request) -> Response:
            request.scope["route"] = swap_route  # whose template is the metrics' label
            return await self._answer(request)

        swap_route = Route("/admin/models/{name}", endpoint, methods=["POST"])
        return swap_route

    async def _answer(self, request: Request) -> Response:
        token = self._settings.admin_token.get_secret_value()
        if not secrets.compare_digest(request.headers.get("x-admin-token", "").encode("latin-1"), token.encode()):
            raise WrongAdminToken("X-Admin-Token does not open this door")
        self._lifecycle.check_ready()
        body = await read_body(request, self._settings.max_body_bytes)
        try:
            wish = Swap.model_validate_json(body)
        except ValidationError as error:
            problem = error.errors()[0]
            raise BadParameter(f"{'.'.join(map(str, problem['loc'])) or 'the body'}: {problem['msg']}") from error
        if self._under_way.locked():
            raise SwapUnderWay("another swap has not ended yet")
        with self._lifecycle.request():
            async with self._under_way:
                return await self.swap(request.path_params["name"], wish)

    async def swap(self, name: str, wish: Swap) -> Response:
        """Put the checkpoint in the place of the purifier ``name``.

        Raises:
            UnknownModel: no purifier of that name is loaded.
            BrokenImage, WrongSize: a golden image.
            SwapRefused: the checkpoint does not do; the sentence says why.
        """
        engine = self._purifier.engine
        if name not in engine.purifiers:
            raise UnknownModel(f"no model {name!r} is loaded: {', '.join(engine.purifiers)}")
        pair = (wish.golden.input, wish.golden.expected) if wish.golden else ()
        selection = self._purifier.selection(name)
        golden = [(await self._purifier.decode(data, selection)).images for data in pair]
        replaced = engine.card(name).sha256
        try:
            path = _inside(self._settings.admin_folder, wish.path)
            most = self._settings.max_batch_images
            candidate = await asyncio.to_thread(_build, engine, most, name, path, wish.sha256, golden)
        except Exception as error:
            ours = isinstance(error, models.CheckpointError | SwapRefused)
            reason = str(error) if ours else f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            logger.warning("%s stays %.12s: %s", name, replaced, reason)
            raise SwapRefused(reason) from error
        self._lifecycle.check_ready()
        await self._batcher.between_batches(lambda: engine.adopt(candidate))
        self._metrics.set_models(engine.cards(), engine.device)
        sha256 = engine.card(name).sha256
        logger.info("%s was %.12s and is %.12s now", name, replaced, sha256)
        return JSONResponse({"model": name, "sha256": sha256, "replaced": replaced})


def _inside(folder: str, given: str) -> Path:
    """The file that ``given`` names, which must be below ``folder`` once every link is followed."""
    root = Path(folder).resolve()
    try:
        path = (root / given).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # missing, a circle of links, a NUL
        path = Path("/")
    if not path.is_file() or not path.is_relative_to(root):
        raise SwapRefused(f"{given[:200]!r} is no file below ARN_ADMIN_FOLDER")
    return path


def _build(
    engine: Engine, max_batch_images: int, name: str, path: Path, sha256: str | None, golden: list[codec.Images]
) -> Engine:
    """The checkpoint, warm and examined.

    Raises:
        SwapRefused: the hash, the shape, or what it makes of golden images.
        OSError, CheckpointError, RuntimeError, MemoryError: it cannot be loaded, or cannot run.
    """
    candidate = engine.candidate(name, path)
    card, loaded = candidate.card(name), engine.card(name)
    if sha256 not in (None, card.sha256):
        raise SwapRefused(f"{path.name} has the hash {card.sha256}, not {sha256}")
    if card.input_shape != loaded.input_shape:
        raise SwapRefused(f"{path.name} takes {card.input_shape} (C, H, W), {name} takes {loaded.input_shape}")
    candidate.warm_up(max_batch_images)
    images, *expected = golden or [_golden_images(card)]
    answer = candidate.run(Work(name), images).images
    within = tolerance(engine.precision, engine.device)
    _compare(answer, _reference(candidate, name, images), "the fp32 reference's", within)
    for image in expected:
        _compare(answer, image, "the expected one", within)
    return candidate


def _golden_images(card: Card) -> codec.Images:
    """The page's examples where they fit, else ramps in eight directions; uint8 ``(N, H, W, C)``."""
    channels, height, width = card.input_shape if all(card.input_shape) else (3, 32, 32)
    examples = [codec.open_image(f.content, 10**6) for path, f in page.files().items() if path.startswith("examples/")]
    fitting = [image.decode(channels) for image in examples if image.size == (height, width)]
    if fitting:
        return np.concatenate(fitting)
    y, x = np.mgrid[:height, :width]
    ramps = np.stack([(k * y / height + (7 - k) * x / width) / 7 for k in range(8)])
    return (255 * ramps).astype(np.uint8)[..., None].repeat(channels, 3)


def _reference(candidate: Engine, name: str, images: codec.Images) -> NDArray[np.uint8]:
    """What the network itself answers, eagerly, in fp32, one image at a time."""
    purifier = candidate.purifiers[name]
    with torch.inference_mode():
        x = torch.from_numpy(images).to(candidate.device).permute(0, 3, 1, 2).float() / 255
        purified = torch.cat([purifier(image[None]) for image in x])
    if not purified.isfinite().all():
        raise SwapRefused("its answer to golden images is not finite")
    answer: NDArray[np.uint8] = purified.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return answer


def _compare(answer: codec.Images, other: codec.Images, what: str, within: tuple[float, int]) -> None:
    if answer.shape != other.shape:
        raise SwapRefused(f"its answer is {answer.shape}, {what} {other.shape}")
    levels = abs(answer.astype(int) - other)
    share, most = within
    if (levels > most).mean() > _STRAY or (levels <= 1).mean() < share:
        raise SwapRefused(f"its answer to golden images is up to {levels.max()} grey levels away from {what}")
