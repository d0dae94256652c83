"""``POST /classify``: the label of the purified image, by an embedded classifier or the model server."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from arn_purify.models import Card, card_of

from ..core import codec
from ..core.engine import Engine
from ..core.purifier import Item, Purifier, Timings
from ..edge import negotiate
from ..edge.http import stopping_when_client_leaves
from ..errors import BadParameter, NoClassifier, WrongSize
from ..gateway import rest
from ..gateway.policy import with_channels
from ..settings import Settings
from . import answers, schemas
from .openapi import BODY, COMPARE, ERRORS, QUERY, DirectRoute
from .uploads import PARAMETERS, Uploads, accept, channels_first

_PARAMETERS = (*PARAMETERS, "compare")
_MANY_CLASSES = 20  # of more, the answer names the most likely


def router(settings: Settings, purifier: Purifier, gateway: rest.Gateway) -> APIRouter:
    """The route over its parts; ``gateway`` is asked where a model server of the protocol ``raw`` is configured."""
    uploads = Uploads(settings, purifier)
    routes = APIRouter(route_class=DirectRoute)

    @routes.post(
        "/classify",
        summary="Purify, then classify",
        responses={
            200: {"model": schemas.Classification | schemas.ClassifyAnswer},
            **ERRORS,
            502: {"model": schemas.ErrorAnswer, "description": "the model server cannot be reached"},
        },
        openapi_extra={"parameters": [*QUERY, COMPARE], "requestBody": BODY},
    )
    async def classify(request: Request) -> Response:
        """The embedded classifier's answer for the purified image or, with ``ARN_DOWNSTREAM_URL``, the server's."""
        with purifier.request() as timings:
            if settings.forwards_classify:
                return await _forward(request, uploads, purifier, gateway, timings)
            return await _classify(request, uploads, purifier, timings)

    return routes


async def _classify(request: Request, uploads: Uploads, purifier: Purifier, timings: Timings) -> Response:
    negotiate.choose(accept(request), ("application/json",))
    upload = await uploads.read(request, _PARAMETERS)
    compare = upload.parameters.flag("compare")
    items = await uploads.purify(request, upload, timings, classify=True, compare=compare)
    results = [_classification(purifier.engine, item, index) for item in items for index in range(len(item.purified))]
    answer = schemas.ClassifyAnswer(results=results) if upload.several else results[0]
    headers = purifier.answer_headers(items, timings)
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json", headers=headers)


def _classification(engine: Engine, item: Item, index: int) -> schemas.Classification:
    if item.purified.probabilities is None:
        raise NoClassifier(f"{item.model} was replaced by a purifier that no embedded classifier belongs to")
    card = card_of(engine.classifiers[item.purified.classifier])
    unpurified = item.purified.unpurified
    return schemas.Classification(
        **_prediction(card, item.purified.probabilities[index]).model_dump(),
        model=item.model,
        classifier=card.name,
        residual=answers.residual(item, index),
        unpurified=None if unpurified is None else _prediction(card, unpurified[index]),
    )


def _prediction(card: Card, probabilities: NDArray[np.float32]) -> schemas.Prediction:
    def named(label: int) -> str | None:
        return card.class_names[label] if card.class_names else None

    label = int(probabilities.argmax())
    top = None
    if len(probabilities) > _MANY_CLASSES:
        best = np.argsort(-probabilities, kind="stable")[:5].tolist()
        top = [
            schemas.LikelyClass(label=one, class_name=named(one), probability=float(probabilities[one])) for one in best
        ]
    return schemas.Prediction(label=label, class_name=named(label), probabilities=probabilities.tolist(), top=top)


async def _forward(
    request: Request, uploads: Uploads, purifier: Purifier, gateway: rest.Gateway, timings: Timings
) -> Response:
    """Purify one image and pass it on as PNG; the classifier's answer comes back as it is."""
    upload = await uploads.read(request, _PARAMETERS)
    if upload.parameters.flag("compare"):
        raise BadParameter("compare works with the embedded classifier only")
    items = await uploads.purify(request, upload, timings)
    if len(items) > 1 or len(items[0].purified) > 1:
        raise BadParameter("one image a request is forwarded")
    if (channels := channels_first(items[0].images)[0]) not in (1, 3):
        raise WrongSize(f"an image of {channels} channels cannot be forwarded as PNG")
    with timings.during("encode"):
        pixels = answers.pictures(items[0])[0]
        body = codec.encode_image(with_channels(pixels, items[0].channels or pixels.shape[2]))
    headers = {**rest.of_another_body(rest.client_headers(request)), "content-type": "image/png"}
    with stopping_when_client_leaves(request):
        answer = await rest.ask(gateway, timings, "POST", "", headers, body)
    return rest.verbatim(answer, purifier.answer_headers(items, timings))
