"""What an operator may have overlooked, said once at the start: misspelled and idle variables, and a missing key."""

from __future__ import annotations

import difflib
import ipaddress
import logging
import re
from collections.abc import Iterator, Mapping

from .settings import Settings

logger = logging.getLogger("service")

_OTHERS = ("ARN_DATA_DIR", "ARN_PYTHON", "ARN_CLIENT_KEY", "ARN_SITE")
"""Read by the training commands, the benchmarks, the scripts and the examples."""
_OF_THE_GATEWAY = (
    "purifiers", "input_name", "input_layout", "input_range", "input_mean", "input_std", "input_colour", "on_failure",
    "purify_share", "shadow_share", "compare",
)  # fmt: skip
# Kubernetes gives every pod such variables of each service in its namespace, also of one that is called arn-purify.
_OF_A_SERVICE = re.compile(r"(.+?)_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP)(?:_\w+)?)?)")


def warn(settings: Settings, environment: Mapping[str, str]) -> None:
    """Log a warning for each thing."""
    for name, nearest in unknown(environment):
        meant = f": did you mean {nearest}?" if nearest else ""
        logger.warning("the variable %s is not known and has no effect%s", name, meant)
    if names := list(without_effect(settings)):
        logger.warning("without effect as things are set: %s", ", ".join(names))
    if not settings.api_key and not _is_loopback(settings.host):
        logger.warning("no key is set (ARN_API_KEY): anyone who reaches %s may use the service", settings.host or "it")


def unknown(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables that nothing reads, each with the known name that is most like it; empty for none."""
    known = [*(f"ARN_{name.upper()}" for name in Settings.model_fields), *_OTHERS]
    for name in sorted(environment):
        service = _OF_A_SERVICE.fullmatch(name)
        if not name.upper().startswith("ARN_") or name.upper() in known:
            continue
        if service and f"{service[1]}_SERVICE_HOST" in environment:
            continue
        yield name, next(iter(difflib.get_close_matches(name.upper(), known, 1)), "")


def without_effect(settings: Settings) -> Iterator[str]:
    """The variables that are set, not to the default, and that nothing reads because of others."""
    over_http = settings.downstream_url and settings.downstream_protocol != "raw"
    described = settings.downstream_url and settings.downstream_protocol in ("v2", "any")
    idle = [
        *(_OF_THE_GATEWAY if not (over_http or settings.downstream_grpc) else ()),
        *(() if described else ("downstream_model",)),
        *(() if settings.admin_token else ("admin_folder",)),
        *(() if over_http or not settings.downstream_grpc else ("downstream_protocol",)),
    ]
    for name in idle:
        if getattr(settings, name) != Settings.model_fields[name].default:
            yield f"ARN_{name.upper()}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
