"""What an operator may have overlooked, said once at the start: misspelled variables, and a service without a key."""

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
# Kubernetes gives every pod such variables of each service in its namespace, also of one that is called arn-purify.
_OF_A_SERVICE = re.compile(r"(.+?)_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP)(?:_\w+)?)?)")


def warn(settings: Settings, environment: Mapping[str, str]) -> None:
    """Log a warning for each thing."""
    for name, nearest in unknown(environment):
        meant = f": did you mean {nearest}?" if nearest else ""
        logger.warning("the variable %s is not known and has no effect%s", name, meant)
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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
