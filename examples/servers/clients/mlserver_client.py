"""MLServer's own types and codecs over HTTP: ``mlserver_client.py ADDRESS IMAGES.npy``. Prints the labels as JSON."""

import json
import sys
import urllib.request

import numpy as np
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

address, file = sys.argv[1:]
images = np.load(file)
labels = []
for start in range(0, len(images), 50):
    request = InferenceRequest(id="7", inputs=[NumpyCodec.encode_input("image", images[start : start + 50])])
    url, headers = f"{address}/v2/models/lenet5/infer", {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, request.model_dump_json().encode(), headers)) as answer:
        output = InferenceResponse.model_validate_json(answer.read()).outputs[0]
    labels += NumpyCodec.decode_output(output).argmax(1).tolist()
print(json.dumps(labels))
