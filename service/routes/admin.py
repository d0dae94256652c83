"""Hot swap: ``POST /admin/models/{name}`` puts another checkpoint in the place of a loaded purifier.

The new one is loaded, built and warmed on its own thread while the old one serves. It takes over between two batches,
after its compiled graph has answered golden images within the tolerance. If anything goes wrong, the old one stays.
Where several workers share the port, all of them take it over, or none.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
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
from ..workers.siblings import Adopt, Siblings
from . import page

logger = logging.getLogger("service.admin")

# Share of the values that may be further off than `tolerance` allows: in bf16 single values of a photograph are.
_STRAY = 1e-3


class Golden(BaseModel, extra="forbid"):
    """An image and the answer that the new purifier must give."""

    input: Base64Bytes
    expected: Base64Bytes


class Swap(BaseModel, extra="forbid"):
    """The body of a request."""

    path: str = Field(description="checkpoint, from ARN_ADMIN_FOLDER")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="the file's expected hash")
    golden: Golden | None = None


class Swapper:
    """Swaps one model at a time."""

    def __init__(
        self,
        settings: Settings,
        purifier: Purifier,
        batcher: Batcher,
        lifecycle: Lifecycle,
        metrics: Metrics,
        siblings: Siblings | None = None,
    ) -> None:
        self._settings, self._purifier, self._batcher = settings, purifier, batcher
        self._lifecycle, self._metrics = lifecycle, metrics
        self._siblings = siblings
        if siblings:
            siblings.build = self._build
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
            raise WrongAdminToken("X-Admin-Token is not the token of ARN_ADMIN_TOKEN")
        self._lifecycle.check_all_ready()
        body = await read_body(request, self._settings.max_body_bytes)
        try:
            wanted = Swap.model_validate_json(body)
        except ValidationError as error:
            problem = error.errors()[0]
            raise BadParameter(f"{'.'.join(map(str, problem['loc'])) or 'the body'}: {problem['msg']}") from error
        if self._under_way.locked():
            raise SwapUnderWay("another swap has not ended yet")
        with self._lifecycle.request():
            async with self._under_way:
                with self._siblings.swapping() if self._siblings else nullcontext():
                    return await self.swap(request.path_params["name"], wanted)

    async def swap(self, name: str, wanted: Swap) -> Response:
        """Put the checkpoint in the place of the purifier ``name``.

        Raises:
            UnknownModel: no purifier of that name is loaded.
            BrokenImage, WrongSize: a golden image.
            SwapRefused: the checkpoint is unsuitable; the sentence says why.
        """
        engine = self._purifier.engine
        if name not in engine.purifiers:
            raise UnknownModel(f"no model {name!r} is loaded: {', '.join(engine.purifiers)}")
        pair = (wanted.golden.input, wanted.golden.expected) if wanted.golden else ()
        selection = self._purifier.selection(name)
        golden = [(await self._purifier.decode(data, selection)).images for data in pair]
        replaced = engine.card(name).sha256
        try:
            path = _inside(self._settings.admin_folder, wanted.path)
            with self._siblings.copied(path) if self._siblings else nullcontext(path) as copy:
                candidate = await self._candidate(name, copy, wanted.sha256, golden)
                self._lifecycle.check_ready()
                adopt = partial(self._adopt, name, candidate)
                if self._siblings:
                    await self._siblings.take_over(name, copy, candidate.card(name).sha256, adopt)
                else:
                    await adopt()
        except SwapRefused as error:
            logger.warning("%s stays %.12s: %s", name, replaced, error)
            raise
        return JSONResponse({"model": name, "sha256": engine.card(name).sha256, "replaced": replaced})

    async def _build(self, name: str, path: Path, sha256: str) -> Adopt:
        """What another worker asks of this one."""
        return partial(self._adopt, name, await self._candidate(name, path, sha256))

    async def _candidate(
        self, name: str, path: Path, sha256: str | None, golden: Sequence[codec.Images] = ()
    ) -> Engine:
        """The checkpoint, built and checked.

        Raises:
            SwapRefused: it is unsuitable; the sentence says why.
        """
        engine, most = self._purifier.engine, self._settings.max_batch_images
        try:
            return await asyncio.to_thread(_build, engine, most, name, path, sha256, list(golden))
        except (SwapRefused, models.CheckpointError) as error:
            raise SwapRefused(str(error)) from error
        except Exception as error:
            raise SwapRefused(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}") from error

    async def _adopt(self, name: str, candidate: Engine) -> None:
        engine = self._purifier.engine
        replaced = engine.card(name).sha256
        await self._batcher.between_batches(lambda: engine.adopt(candidate))
        self._metrics.set_models(engine.cards(), engine.device)
        logger.info("%s was %.12s and is %.12s now", name, replaced, candidate.card(name).sha256)


def _inside(folder: str, given: str) -> Path:
    """The file that ``given`` names, which must be inside ``folder`` after every link is resolved."""
    root = Path(folder).resolve()
    try:
        path = (root / given).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # missing, a loop of links, a NUL
        path = Path("/")
    if not path.is_file() or not path.is_relative_to(root):
        raise SwapRefused(f"{given[:200]!r} is no file below ARN_ADMIN_FOLDER")
    return path


def _build(
    engine: Engine, max_batch_images: int, name: str, path: Path, sha256: str | None, golden: list[codec.Images]
) -> Engine:
    """The checkpoint in an engine of its own, warm and checked.

    Raises:
        SwapRefused: the hash, the shape, or its answer to golden images.
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
    """The page's examples of the purifier's size, else ramps in eight directions; uint8 ``(N, H, W, C)``."""
    channels, height, width = card.input_shape if all(card.input_shape) else (3, 32, 32)
    examples = [codec.open_image(f.content, 10**6) for path, f in page.files().items() if path.startswith("examples/")]
    fitting = [image.decode(channels) for image in examples if image.size == (height, width)]
    if fitting:
        return np.concatenate(fitting)
    y, x = np.mgrid[:height, :width]
    ramps = np.stack([(k * y / height + (7 - k) * x / width) / 7 for k in range(8)])
    return (255 * ramps).astype(np.uint8)[..., None].repeat(channels, 3)


def _reference(candidate: Engine, name: str, images: codec.Images) -> NDArray[np.uint8]:
    """The network's own answer: eager, fp32, one image at a time."""
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
