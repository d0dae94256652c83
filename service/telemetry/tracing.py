"""Traces by OpenTelemetry. FastAPI makes the span of a request; its stages and the model server's are made here.

They are sent where the extra ``otel`` is installed and the standard variables name a receiver; OpenTelemetry itself
reads every ``OTEL_*`` variable. Otherwise spans are no-ops, and only the API, which FastAPI needs, is imported.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from opentelemetry import propagate, trace

from .log import TRACE_ID

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_FLUSH_SECONDS = 3.0  # an unreachable receiver must not delay a shutdown

_tracer = trace.get_tracer("arn-purify")


def start(version: str) -> TracerProvider | None:
    """Send the spans of this process, as OTLP over HTTP, where the environment asks for it and the extra is installed.

    Returns the argument of :func:`stop`; None where nothing is sent, or another provider is set already.
    """
    asked = [name for name in _ENDPOINTS if os.environ.get(name)]
    if not asked or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        logger.warning("%s is set, but no traces are sent: %s; the extra otel has it", asked[0], error)
        return None
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return None
    own = {"service.name": "arn-purify", "service.version": version}
    resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


def stop(provider: TracerProvider) -> None:
    """Send the remaining spans."""
    thread = threading.Thread(target=provider.shutdown, daemon=True)
    thread.start()
    thread.join(_FLUSH_SECONDS)


def note(request_id: str) -> None:
    """Write the request's id into the current span, and the trace's id into the log."""
    span = trace.get_current_span()
    if (context := span.get_span_context()).is_valid:
        span.set_attribute("arn.request_id", request_id)
        TRACE_ID.set(trace.format_trace_id(context.trace_id))


def stage(name: str, started: float, ended: float) -> None:
    """Add a child span that has ended; times by ``time.perf_counter``."""
    if trace.get_current_span().is_recording():
        # The thread may be interrupted between the two clocks, which makes the difference too small; rarely thrice.
        since = max(time.time_ns() - time.perf_counter_ns() for _ in range(3))
        _tracer.start_span(name, start_time=since + int(1e9 * started)).end(since + int(1e9 * ended))


@contextmanager
def called(method: str, headers: Mapping[str, str]) -> Iterator[None]:
    """The span of a gRPC call, a child of the one that its headers name."""
    kind, parent = trace.SpanKind.SERVER, propagate.extract(headers)
    with _tracer.start_as_current_span(method, parent, kind, record_exception=False, set_status_on_exception=False):
        yield


def outcome(status: str, failed: bool) -> None:
    """Write a gRPC call's status into its span; ``failed`` where the client is not to blame."""
    span = trace.get_current_span()
    span.set_attributes({"rpc.system.name": "grpc", "rpc.response.status_code": status})
    if failed:
        span.set_status(trace.StatusCode.ERROR)


@contextmanager
def asking(headers: Iterable[tuple[str, T]]) -> Iterator[Iterable[tuple[str, T | str]]]:
    """A client span around the call of the model server; yields the headers, which name the span as their parent."""
    if not trace.get_current_span().get_span_context().is_valid:
        yield headers
        return
    with _tracer.start_as_current_span("downstream", kind=trace.SpanKind.CLIENT):
        ours: dict[str, str] = {}
        propagate.inject(ours)
        replaced = propagate.get_global_textmap().fields
        yield [*((name, value) for name, value in headers if name not in replaced), *ours.items()]
