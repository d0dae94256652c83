"""KServe's own client, V1 or V2: ``kserve_client.py v1|v1-b64|v2 ADDRESS IMAGES.npy``. Prints the labels as JSON."""

import asyncio
import base64
import io
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from PIL import Image

mode, address, file = sys.argv[1:]
images = np.load(file)


def png(image: np.ndarray) -> str:
    """One image as base64 text of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.round(image[0] * 255).astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


async def main() -> list[int]:
    """Ask for every image."""
    client = InferenceRESTClient(RESTConfig(protocol=mode[:2]))
    labels = []
    for start in range(0, len(images), 50):
        batch = images[start : start + 50]
        if mode == "v2":
            tensor = InferInput("image", list(batch.shape), "FP32")
            tensor.set_data_from_numpy(batch, binary_data=True)
            request = InferRequest("lenet5", [tensor], request_id="7")
            answer = await client.infer(address, request, model_name="lenet5")
            scores = answer.outputs[0].as_numpy()
        else:
            rows = batch.tolist() if mode == "v1" else [{"image": {"b64": png(image)}} for image in batch]
            answer = await client.infer(address, {"instances": rows}, model_name="lenet5")
            scores = np.array(answer["predictions"])
        labels += scores.argmax(1).tolist()
    await client.close()
    return labels


print(json.dumps(asyncio.run(main())))
