"""The service's settings: one table, read from ``ARN_*`` variables and from flags of the same name."""

from __future__ import annotations

import argparse
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """Each field is the variable ``ARN_<NAME>`` and the flag ``--<name>``; a flag wins over the variable."""

    model_config = SettingsConfigDict(env_prefix="ARN_", frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("mnist-transparent",),
        min_length=1,
        description="comma list of purifiers to load: shipped names, paths, identity",
    )
    classifier: str = Field("mnist-lenet5", description="embedded classifier of /classify; empty for none")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes CUDA where there is one")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic of the purifier")
    threads: int = Field(0, ge=0, description="torch's CPU threads; 0 leaves the choice to torch")
    max_batch_images: int = Field(64, ge=1, description="most images in one pass through the network")
    max_wait_seconds: float = Field(
        0.0, ge=0, le=1, description="how long a batch waits for company; 0 starts whenever the device is free"
    )
    queue_images: int = Field(1024, ge=1, description="most images waiting; more are refused with 429")
    deadline_seconds: float = Field(10.0, gt=0, description="longest wait in the queue before a 504")
    max_body_bytes: int = Field(64 * 2**20, ge=1, description="largest request body")
    max_pixels: int = Field(16_000_000, ge=1, description="largest image, width times height, told from its header")
    drain_seconds: float = Field(20.0, ge=0, description="longest time to finish accepted requests after SIGTERM")
    downstream_url: str = Field("", description="where /classify forwards purified images; empty for the embedded one")
    downstream_timeout_seconds: float = Field(10.0, gt=0, description="longest wait for the classifier behind us")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line to log")

    @field_validator("models", mode="before")
    @classmethod
    def _comma_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value


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


def from_flags(namespace: argparse.Namespace) -> Settings:
    """Settings from parsed flags over the environment; ``pydantic.ValidationError`` names what is wrong."""
    given = {name: getattr(namespace, name) for name in Settings.model_fields}
    return Settings(**{name: value for name, value in given.items() if value is not None})
