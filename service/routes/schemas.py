"""The JSON that the service answers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Residual(BaseModel):
    """How far purification moved an image, on [0, 1]."""

    linf: float = Field(description="largest change of a value")
    l2: float = Field(description="Euclidean norm of the change")


class PurifiedImage(BaseModel):
    """One purified image."""

    filename: str | None = Field(None, description="as uploaded, where it was")
    model: str
    shape: tuple[int, int, int] = Field(description="height, width, channels")
    png: str = Field(description="the purified image as PNG, base64")
    residual: Residual


class PurifyAnswer(BaseModel):
    """What /purify answers as JSON."""

    images: list[PurifiedImage]


class LikelyClass(BaseModel):
    """One of the most likely classes."""

    label: int
    class_name: str | None = None
    probability: float


class Prediction(BaseModel):
    """A classifier's answer for one image."""

    label: int
    class_name: str | None = None
    probabilities: list[float] = Field(description="of every class, in the order of their numbers")
    top: list[LikelyClass] | None = Field(
        None, description="the five most likely, the first of them first, where there are more than 20 classes"
    )


class Classification(Prediction):
    """What /classify answers for one image."""

    model: str
    classifier: str
    residual: Residual
    unpurified: Prediction | None = Field(None, description="with ?compare=true: of the unpurified image")


class ClassifyAnswer(BaseModel):
    """What /classify answers for several images."""

    results: list[Classification]


class ModelInfo(BaseModel):
    """A loaded purifier."""

    name: str
    sha256: str
    profile: str
    architecture: str
    dataset: str
    input_shape: tuple[int, int, int] = Field(description="channels, height, width; zeros take any image")
    recipe: str
    seen_attacks: list[dict[str, Any]]
    metrics: dict[str, float] = Field(description="error rates in percent on so many `images` of the validation split")
    precision: str
    device: str
    recorded_images: int = Field(description="of the largest batch that is one CUDA graph; 0: kernel by kernel")


class ClassifierInfo(BaseModel):
    """An embedded classifier."""

    name: str
    sha256: str
    dataset: str
    input_shape: tuple[int, int, int] = Field(description="channels, height, width")
    class_names: list[str]
    purifiers: list[str] = Field(description="the loaded purifiers whose images it classifies")


class ModelsAnswer(BaseModel):
    """What /models answers."""

    purifiers: list[ModelInfo]
    classifiers: list[ClassifierInfo]
    demo_attacks: bool = Field(description="whether the page may attack the classifier")


class ErrorAnswer(BaseModel):
    """Every error."""

    error: str = Field(description="a sentence")
    code: str = Field(description="a slug")
