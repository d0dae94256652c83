"""A plain, unbatched FastAPI app, as one writes it in ten minutes: the baseline."""

import io

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from PIL import Image

import models

app = FastAPI()
model = models.load("mnist-transparent")


@app.post("/purify")
async def purify(request: Request) -> Response:
    image = np.array(Image.open(io.BytesIO(await request.body())))
    with torch.inference_mode():
        purified = model(torch.from_numpy(image)[None, None].float() / 255)
    buffer = io.BytesIO()
    Image.fromarray(purified[0, 0].mul(255).round().byte().numpy()).save(buffer, "PNG", compress_level=1)
    return Response(buffer.getvalue(), media_type="image/png")


if __name__ == "__main__":
    import sys

    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
