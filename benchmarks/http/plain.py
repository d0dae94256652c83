"""A plain, unbatched FastAPI app, as one writes it in ten minutes: the baseline."""

import sys

import uvicorn
from fastapi import FastAPI, Request, Response

from . import network

app = FastAPI()
model = network.load()


@app.post("/purify")
async def purify(request: Request) -> Response:
    (purified,) = network.purify(model, [network.decode(await request.body())])
    return Response(network.encode(purified), media_type="image/png")


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
