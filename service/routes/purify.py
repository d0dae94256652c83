"""``POST /purify``: images in, purified images out."""

from __future__ import annotations

import math

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ..core import codec
from ..core.purifier import Purifier, run_off_loop
from ..edge import negotiate
from ..settings import Settings
from . import answers, schemas
from .openapi import BINARY, BODY, ERRORS, QUERY, DirectRoute
from .uploads import Uploads, accept


def router(settings: Settings, purifier: Purifier) -> APIRouter:
    """The route over its parts."""
    uploads = Uploads(settings, purifier)
    routes = APIRouter(route_class=DirectRoute)

    @routes.post(
        "/purify",
        summary="Purify one image, many, or a tensor",
        responses={
            200: {
                "content": {
                    "image/png": BINARY,
                    "image/webp": BINARY,
                    "image/jpeg": BINARY,
                    codec.NPY_TYPE: BINARY,
                    "multipart/mixed": BINARY,
                },
                "model": schemas.PurifyAnswer,
            },
            **ERRORS,
        },
        openapi_extra={"parameters": QUERY, "requestBody": BODY},
    )
    async def purify(request: Request) -> Response:
        """The purified image, in the format of the request unless ``Accept`` names another."""
        with purifier.request() as timings:
            upload = await uploads.read(request)
            media_type = negotiate.choose(accept(request), answers.offers(upload))
            items = await uploads.purify(request, upload, timings)
            with timings.during("encode"):
                pixels = sum(math.prod(item.images.shape) for item in items)
                body, content_type = await run_off_loop(pixels, answers.encode, items, media_type)
            headers = {**purifier.answer_headers(items, timings), "Content-Type": content_type, "Vary": "Accept"}
            return Response(body, headers=headers)

    return routes
