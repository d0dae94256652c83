"""The service's settings: one table, read from ``ARN_*`` variables and from flags of the same name."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# Of seconds: a day at most, and a number.
_Seconds = Annotated[float, Field(le=86_400, allow_inf_nan=False)]
_HOST_AND_PORT = re.compile(r"(?!.*://)\S+:[0-9]{1,5}")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
# As browsers write it in `Origin`, to the letter; `null` is that of a page without one.
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^\s/?#@*A-Z]+")
SHARED_OUT = ("queue_images", "client_requests", "connections", "bodies_bytes")
"""The limits of which each worker has its share; where 0 means none, so it does for each."""


class Settings(BaseSettings):
    """Each field is the variable ``ARN_<NAME>`` and the flag ``--<name>``; a flag wins over the variable."""

    model_config = SettingsConfigDict(env_prefix="ARN_", frozen=True, hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="address to listen on; :: for all of IPv6 and IPv4")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="processes that share the port, each with its own engine and its share of the limits",
    )
    root_path: str = Field("", description="path prefix under which a proxy serves this, such as /purifier")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="comma list of origins whose pages may call this from a browser, * for any; empty: none"
    )
    tls_cert: str = Field("", description="PEM file of the certificate and its chain; with it HTTP and gRPC use TLS")
    tls_key: str = Field("", description="PEM file of its private key")
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("mnist-transparent", "cifar10-transparent"),
        min_length=1,
        description="comma list of purifiers to load: names of released models, paths, identity",
    )
    classifier: Annotated[tuple[str, ...], NoDecode] = Field(
        ("mnist-lenet5", "cifar10-airbench-40"),
        description="comma list of embedded classifiers of /classify, each for the purifiers of its data set",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes CUDA where there is one")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of the purifier; auto takes bf16 where the device multiplies it natively"
    )
    threads: int = Field(0, ge=0, description="torch's CPU threads; 0 leaves the choice to torch")
    max_batch_images: int = Field(64, ge=1, description="most images in one pass through the network")
    max_wait_seconds: float = Field(
        0.0, ge=0, le=1, description="how long a batch waits for more requests; 0 starts whenever the device is free"
    )
    queue_images: int = Field(1024, ge=1, description="most images waiting; more are refused with 429")
    deadline_seconds: _Seconds = Field(10.0, gt=0, description="longest wait in the queue before a 504")
    max_body_bytes: int = Field(64 * 2**20, ge=1, description="largest request body")
    max_pixels: int = Field(16_000_000, ge=1, description="largest image, width times height, read from its header")
    decode_seconds: _Seconds = Field(5.0, gt=0, description="longest decode of an image before its process is killed")
    sizes: Literal["evaluated", "any"] = Field(
        "evaluated",
        description="sizes that are taken: those that a purifier was evaluated at (photographs: from 65x65 up), or any",
    )
    api_key: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="comma list of keys, one of which a request must have as X-API-Key; empty: open to everyone"
    )
    client_requests: int = Field(0, ge=0, description="most requests under way from one client address; 0: no limit")
    connections: int = Field(1000, ge=1, description="most open connections; more are closed with a 503")
    keep_alive_seconds: _Seconds = Field(75.0, gt=0, description="longest wait for another request on a connection")
    head_seconds: _Seconds = Field(10.0, gt=0, description="longest wait for a request's line and headers")
    body_seconds: _Seconds = Field(30.0, gt=0, description="longest wait for a body, and for an answer to be read")
    bodies_bytes: int = Field(512 * 2**20, ge=1, description="most bytes of request bodies in memory at once")
    docs: bool = Field(True, description="serve /docs, /redoc and /openapi.json")
    drain_seconds: _Seconds = Field(20.0, ge=0, description="longest time to finish accepted requests after SIGTERM")
    downstream_url: str = Field(
        "", description="the model server: its base, or with protocol raw the address that takes images"
    )
    downstream_protocol: Literal["raw", "v1", "v2", "torchserve", "any"] = Field(
        "raw", description="raw: /classify posts a PNG to the URL; otherwise that protocol's own routes are served"
    )
    downstream_model: str = Field("", description="model whose V2 metadata is compared with the input settings")
    downstream_timeout_seconds: _Seconds = Field(10.0, gt=0, description="longest wait for the model server")
    downstream_grpc: str = Field("", description="host:port of the model server's V2 gRPC; with it gRPC is served too")
    grpc_port: int = Field(8001, ge=0, le=65535, description="port for V2 gRPC, where downstream_grpc is set")
    purifiers: Annotated[tuple[tuple[str, str], ...], NoDecode] = Field(
        (),
        description="comma list of NAME=PURIFIER: the loaded purifier of an input or of a model of the model server",
    )
    input_name: str = Field("", description="input that holds the image; empty: every one that a purifier can take")
    input_layout: Literal["auto", "nchw", "nhwc"] = Field("auto", description="order of a tensor's axes")
    input_range: Literal["auto", "0-1", "0-255", "-1-1"] = Field("auto", description="what a tensor's values stand for")
    input_mean: Annotated[tuple[float, ...], NoDecode] = Field(
        (), description="comma list of each channel's mean on 0-1, where tensors come normalised"
    )
    input_std: Annotated[tuple[float, ...], NoDecode] = Field(
        (), description="comma list of each channel's standard deviation, with input_mean"
    )
    input_colour: Literal["rgb", "bgr"] = Field("rgb", description="order of a tensor's three channels")
    on_failure: Literal["reject", "bypass"] = Field(
        "reject", description="when an image cannot be purified: refuse, or forward it unpurified and say so"
    )
    purify_share: float = Field(1.0, ge=0, le=1, description="share of forwarded requests that are purified (canary)")
    shadow_share: float = Field(
        0.0, ge=0, le=1, description="share for which the server is asked about both images, to count label flips"
    )
    compare: bool = Field(
        False, description="let X-ARN-Compare: true ask the server about both images and answer with both labels"
    )
    demo_attacks: bool = Field(
        False, description="let the page at / attack the embedded classifier (POST /demo/attack)"
    )
    admin_token: SecretStr = Field(
        SecretStr(""), description="what X-Admin-Token must be to swap a model (POST /admin/models/{name}); empty: off"
    )
    admin_folder: str = Field("", description="folder whose checkpoints may be swapped in")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line to log")
    log_format: Literal["text", "json"] = Field("text", description="log lines for people, or JSON objects")

    @field_validator("input_mean", "input_std", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return tuple(part for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("purifiers", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.rpartition("=") for part in value.split(",") if part.strip()]
        named = {name.strip(): purifier.strip() for name, _, purifier in pairs}
        if len(named) < len(pairs) or not all(named) or not all(named.values()):
            raise ValueError("a comma list of NAME=PURIFIER, each name once")
        return tuple(named.items())

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, value: str) -> str:
        if value and not value.startswith("/"):
            raise ValueError("a path prefix begins with a slash")
        return value.rstrip("/")

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"an origin is SCHEME://HOST[:PORT] in lower case, without a slash, or *: not {origin!r}"
                )
        return value

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("ARN_TLS_CERT and ARN_TLS_KEY come together")
        for name in ("tls_cert", "tls_key"):
            if (path := getattr(self, name)) and not Path(path).is_file():
                raise ValueError(f"ARN_{name.upper()}: {path}: no such file")
        if self.bodies_bytes < self.max_body_bytes:
            raise ValueError("ARN_BODIES_BYTES has room for one body of ARN_MAX_BODY_BYTES at least")
        for name in SHARED_OUT:
            if 0 < getattr(self, name) < self.workers * (self.max_body_bytes if name == "bodies_bytes" else 1):
                raise ValueError(
                    f"ARN_{name.upper()} is shared out among {self.workers} workers, and too small for that"
                )
        if self.admin_token and not (self.admin_folder and Path(self.admin_folder).is_dir()):
            raise ValueError("ARN_ADMIN_TOKEN needs a folder of checkpoints as ARN_ADMIN_FOLDER")
        return self

    @model_validator(mode="after")
    def _preprocessing_agrees(self) -> Settings:
        mean, std = self.input_mean, self.input_std
        if bool(mean) != bool(std) or len(mean) != len(std):
            raise ValueError("ARN_INPUT_MEAN and ARN_INPUT_STD come together, one number a channel each")
        if min(std, default=1.0) <= 0:
            raise ValueError("ARN_INPUT_STD is greater than 0")
        if std and self.input_range != "auto":
            raise ValueError("ARN_INPUT_RANGE and ARN_INPUT_MEAN exclude each other")
        if len(mean) not in (0, 1, 3) or not all(map(math.isfinite, (*mean, *std))):
            raise ValueError("ARN_INPUT_MEAN and ARN_INPUT_STD have one or three finite numbers")
        return self

    @model_validator(mode="after")
    def _server_agrees(self) -> Settings:
        asked, grpc = self.downstream_url, self.downstream_grpc
        url = urlsplit(asked)
        if asked and not (
            url.scheme in ("http", "https") and url.hostname and _has_port(url) and not _BLANK.search(asked)
        ):
            raise ValueError(f"ARN_DOWNSTREAM_URL is http://HOST:PORT or https://HOST:PORT, not {asked!r}")
        if url.fragment or (url.query and self.downstream_protocol != "raw"):
            raise ValueError("ARN_DOWNSTREAM_URL has a path at most behind its port; with the protocol raw a query too")
        if "@" in url.netloc:
            raise ValueError("ARN_DOWNSTREAM_URL holds a user: clients' own Authorization is passed on")
        if grpc and not (_HOST_AND_PORT.fullmatch(grpc) and 0 < int(grpc.rpartition(":")[2]) < 2**16):
            raise ValueError(f"ARN_DOWNSTREAM_GRPC is HOST:PORT, not {grpc!r}")
        if self.downstream_protocol != "raw" and not (asked or grpc):
            raise ValueError(f"ARN_DOWNSTREAM_PROTOCOL={self.downstream_protocol} needs ARN_DOWNSTREAM_URL")
        if grpc and 0 < self.port == self.grpc_port:
            raise ValueError(f"ARN_PORT and ARN_GRPC_PORT are both {self.port}")
        return self

    @property
    def forwards_classify(self) -> bool:
        """Whether the model server, and no embedded classifier, answers /classify."""
        return bool(self.downstream_url) and self.downstream_protocol == "raw"

    @field_validator("models", "classifier", "api_key", "cors_origins", mode="before")
    @classmethod
    def _comma_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            parts = tuple(part.strip() for part in value.split(",") if part.strip())
            if value and not parts:
                raise ValueError("a comma list without anything in it")  # an API key of "," must not mean none
            return parts
        return value


def _has_port(url: SplitResult) -> bool:
    """Whether the port, if one is named, is a number that ports have."""
    try:
        return url.port is None or url.port > 0
    except ValueError:
        return False


def shares(settings: Settings) -> list[Settings]:
    """What each worker is started with, so that the sum is what was asked for."""
    count = settings.workers
    asked = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = settings.threads or (int(asked) if asked.isdecimal() else cores)

    def part(total: int, index: int) -> int:
        return total // count + (index < total % count)

    return [
        settings.model_copy(
            update={
                "workers": 1,
                "threads": max(1, part(threads, index)),
                **{name: part(getattr(settings, name), index) for name in SHARED_OUT},
            }
        )
        for index in range(count)
    ]


def as_json(settings: Settings) -> str:
    """For :func:`from_json` in another process, secrets included."""
    return json.dumps(settings.model_dump(), default=lambda secret: secret.get_secret_value())


def from_json(text: str | bytes) -> Settings:
    """The settings, whatever the environment says."""
    return Settings(**json.loads(text))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag a setting, with the setting's own description."""
    for name, field in Settings.model_fields.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            default=None,
            metavar="X",
            help=f"{field.description} (ARN_{name.upper()})",
        )


def add_transformer_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that KServe's controller starts a custom transformer with."""
    group = parser.add_argument_group("KServe transformer", "as KServe's controller gives them")
    group.add_argument("--model_name", metavar="X", help="--downstream-model")
    group.add_argument("--predictor_host", metavar="X", help="--downstream-url http://X, on all interfaces")
    group.add_argument("--predictor_protocol", choices=["v1", "v2", "grpc-v2"], help="--downstream-protocol")
    group.add_argument(
        "--predictor_use_ssl",
        type=str.lower,
        choices=["true", "1", "false", "0"],
        default="false",
        help="https instead",
    )
    group.add_argument("--predictor_request_timeout_seconds", metavar="X", help="--downstream-timeout-seconds")
    group.add_argument("--http_port", dest="port", metavar="X", help="--port")
    group.add_argument("--grpc_port", dest="grpc_port", metavar="X", help="--grpc-port")


def from_flags(namespace: argparse.Namespace) -> Settings:
    """Settings from parsed flags over the environment; ``pydantic.ValidationError`` names what is wrong."""
    given = {name: getattr(namespace, name) for name in Settings.model_fields}
    transformer = _of_transformer(namespace) if namespace.predictor_host else {}
    merged = transformer | {name: value for name, value in given.items() if value is not None}
    return Settings(**{name: value for name, value in merged.items() if value is not None})


def _of_transformer(namespace: argparse.Namespace) -> dict[str, Any]:
    """What KServe's flags stand for; its defaults only where the environment says nothing."""
    scheme = "https" if namespace.predictor_use_ssl in ("true", "1") else "http"
    settings: dict[str, Any] = {
        "host": "0.0.0.0",  # noqa: S104 (in a pod, behind KServe's own router)
        "port": 8080,
        "downstream_protocol": "any",
    }
    variables = {name.upper() for name in os.environ}
    settings = {name: value for name, value in settings.items() if f"ARN_{name.upper()}" not in variables}
    if namespace.predictor_protocol in ("v1", "v2"):
        settings["downstream_protocol"] = namespace.predictor_protocol
    if namespace.predictor_protocol == "grpc-v2":
        if scheme == "https":
            raise ValueError("--predictor_use_ssl: gRPC to the predictor is in plain text")
        host = namespace.predictor_host  # without a port KServe's own client asks 80, gRPC itself 443
        settings["downstream_grpc"] = host if ":" in host else f"{host}:80"
    return settings | {
        "downstream_url": f"{scheme}://{namespace.predictor_host}",
        "downstream_model": namespace.model_name if namespace.predictor_protocol != "v1" else None,
        "downstream_timeout_seconds": namespace.predictor_request_timeout_seconds,
    }
