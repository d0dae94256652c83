"""The page at ``/``, its files, and the attack that it shows where that is allowed."""

from __future__ import annotations

import functools
import hashlib
import math
import mimetypes
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..core import codec
from ..core.attack import Attack
from ..core.purifier import Purifier, Timings, run_off_loop, server_timing
from ..errors import BadParameter
from ..settings import Settings
from .openapi import DirectRoute
from .uploads import PARAMETERS, Uploads

STATIC = Path(__file__).parents[1] / "static"

# Everything is loaded from this service; nothing is inlined, framed or sent elsewhere.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class File(NamedTuple):
    """A file of the page, as it is sent."""

    content: bytes
    media_type: str
    etag: str


@functools.cache
def files() -> dict[str, File]:
    """The page's files by their path below ``/static/``. They are small and live in memory."""
    return {
        path.relative_to(STATIC).as_posix(): File(
            content := path.read_bytes(),
            mimetypes.guess_type(path.name)[0] or "application/octet-stream",
            f'"{hashlib.sha256(content).hexdigest()[:16]}"',
        )
        for path in sorted(STATIC.rglob("*"))
        if path.is_file()
    }


def router(settings: Settings, purifier: Purifier) -> APIRouter:
    """The page's routes, none of which is in the OpenAPI document."""
    uploads = Uploads(settings, purifier)
    routes = APIRouter(route_class=DirectRoute, include_in_schema=False)

    @routes.get("/")
    async def root(request: Request) -> Response:
        """The page for a browser, a short JSON for other clients."""
        if "text/html" in request.headers.get("accept", ""):
            return _static(request, "index.html")
        docs = {"docs": f"{settings.root_path}/docs"} if settings.docs else {}
        return JSONResponse({"status": "alive", "service": "arn-purify", **docs}, headers={"Vary": "Accept"})

    @routes.get("/static/{path:path}")
    async def static(request: Request) -> Response:
        """A file of the page."""
        return _static(request, request.path_params["path"])

    @routes.post("/demo/attack")
    async def attack(request: Request) -> Response:
        """PGD on the embedded classifier, to show; only with ``ARN_DEMO_ATTACKS``."""
        if not settings.demo_attacks:
            raise HTTPException(404)
        with purifier.request() as timings:
            return await _attack(request, uploads, timings)

    return routes


def _static(request: Request, path: str) -> Response:
    file = files().get(path)
    if file is None:
        raise HTTPException(404)
    headers = {
        "ETag": file.etag, "Cache-Control": "no-cache", "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Referrer-Policy": "no-referrer", "Vary": "Accept",
    }  # fmt: skip
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


async def _attack(request: Request, uploads: Uploads, timings: Timings) -> Response:
    upload = await uploads.read(request, (*PARAMETERS, "eps", "through_purifier"))
    try:
        eps = float(upload.parameters.text("eps") or "0.3")
    except ValueError:
        eps = math.nan
    if not 0 <= eps <= 1:
        raise BadParameter("eps is a number from 0 to 1")
    through = upload.parameters.flag("through_purifier")
    if upload.tensor is not None or len(upload.files) != 1:
        raise BadParameter("one image a request is attacked")
    (item,) = await uploads.purify(request, upload, timings, classify=True, attack=Attack(eps, through))
    timings["attack"] = timings.pop("infer")
    body = await run_off_loop(item.images.size, codec.encode_image, item.purified.images[0])
    headers = {
        "X-ARN-Purified": "false", "X-ARN-Residual-Linf": f"{float(item.purified.linf[0]):.6f}",
        "X-ARN-Residual-L2": f"{float(item.purified.l2[0]):.6f}",
        "Server-Timing": server_timing(timings),
    }  # fmt: skip
    return Response(body, media_type="image/png", headers=headers)
