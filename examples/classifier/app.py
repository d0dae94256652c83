"""A LeNet-5 that answers KServe's V1 protocol: something to put the purifier in front of.

uvicorn examples.classifier.app:app --port 8501
"""

from typing import Annotated

import torch
from fastapi import Body, FastAPI, HTTPException

from arn_purify import models

network = models.load("mnist-lenet5")
app = FastAPI(title="digits")


@app.get("/v1/models/digits")
async def ready() -> dict[str, object]:
    """Whether it answers."""
    return {"name": "digits", "ready": True}


@app.post("/v1/models/digits:predict")
def predict(instances: Annotated[list, Body(embed=True)]) -> dict[str, list]:
    """``instances``: images of 28x28 values in [0, 1]."""
    try:
        images = torch.tensor(instances, dtype=torch.float32).reshape(-1, 1, 28, 28)
    except (ValueError, RuntimeError, TypeError) as error:
        raise HTTPException(400, "instances are images of 28x28 numbers") from error
    with torch.inference_mode():
        return {"predictions": network(images).argmax(1).tolist()}
