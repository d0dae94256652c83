"""Images to send, and what comes back."""

import io
import re

import numpy as np
from PIL import Image

from arn_purify.service.core import codec

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 28, 28, 1), dtype=np.uint8)


PNG = codec.encode_image(PIXELS[0])


def picture(mode="L", size=(28, 28), kind="PNG", colour=90):
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, kind)
    return buffer.getvalue()


def post(client, body, content_type="image/png", path="/purify", **headers):
    return client.post(path, content=body, headers={"Content-Type": content_type, **headers})


def pixels(answer):
    image = np.asarray(Image.open(io.BytesIO(answer.content)))
    return image.reshape(*image.shape[:2], -1)


def sample(client, name):
    found = re.search(rf"^{re.escape(name)} ([\d.e+-]+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0
