"""At start: compare the declared preprocessing with the model server's own metadata."""

from __future__ import annotations

import json
import logging
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from .policy import Gateway
from .preprocessing import Preprocessing, Takes
from .protocols import v2

logger = logging.getLogger("service.gateway")


def check(gateway: Gateway) -> None:
    """Compare the declared preprocessing with the V2 metadata of the served model, where there is a server to ask.

    Raises:
        ValueError: they cannot go together. A server that is not up yet is only a warning.
    """
    settings = gateway.settings
    if not settings.downstream_model or settings.downstream_protocol not in ("v2", "any"):
        return
    url = f"{settings.downstream_url.rstrip('/')}/v2/models/{settings.downstream_model}"
    # As requests do, it ignores the proxies that the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            inputs = _inputs(json.loads(answer.read()))
    except (OSError, ValueError, HTTPException) as error:
        logger.warning("the preprocessing is not checked: %s does not answer with metadata (%s)", url, error)
        return
    reason = mismatch(gateway.preprocessing, inputs, gateway.purifier.takes)
    if reason:
        raise ValueError(f"the served model {settings.downstream_model!r} does not fit: {reason}")


def _inputs(metadata: Any) -> dict[str, tuple[str, list[int]]]:
    """Name, datatype and shape of each input in V2 metadata; a shape that they do not name is empty.

    Raises:
        ValueError: something else than such metadata.
    """
    try:
        return {
            str(entry.get("name")): (str(entry.get("datatype")), [int(extent) for extent in entry.get("shape") or []])
            for entry in metadata.get("inputs") or []
        }
    except (AttributeError, TypeError, OverflowError) as error:
        raise ValueError(f"not of V2's form: {error}") from error


def mismatch(preprocessing: Preprocessing, inputs: Mapping[str, tuple[str, list[int]]], takes: Takes) -> str | None:
    """Why a model's inputs do not fit the declaration and the loaded purifiers; None where they may."""
    if not inputs:
        logger.warning("the preprocessing is not checked: the metadata of the served model name no inputs")
        return None
    if preprocessing.input and preprocessing.input not in inputs:
        return f"it has no input {preprocessing.input!r}: {', '.join(map(repr, inputs))}"
    reasons = []
    for name, (datatype, shape) in inputs.items():
        if preprocessing.input and name != preprocessing.input:
            continue
        if datatype == "BYTES":
            return None  # encoded images, or text: only a request shows which
        if datatype not in v2.READ_TYPES:
            reasons.append(f"{name!r} is {datatype}, no type that images have")
        elif not shape or preprocessing.fits(shape, takes):
            return None
        else:
            reasons.append(f"{name!r} has the shape {shape}")
    return f"no input is an image that a loaded purifier takes: {'; '.join(reasons)}"
