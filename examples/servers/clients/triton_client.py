"""``tritonclient`` over HTTP with binary tensors or JSON, or over gRPC.

``triton_client.py binary|json|grpc ADDRESS IMAGES.npy`` prints one JSON list: the label of each image.
"""

import json
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.http

mode, address, file = sys.argv[1:]
images = np.load(file)
module = tritonclient.grpc if mode == "grpc" else tritonclient.http
client = module.InferenceServerClient(address.removeprefix("http://"))
labels = []
for start in range(0, len(images), 50):
    batch = images[start : start + 50]
    tensor = module.InferInput("image", batch.shape, "FP32")
    tag = module.InferInput("tag", [len(batch), 1], "INT64")  # what is no image travels unchanged
    output = module.InferRequestedOutput("scores", **({} if mode == "grpc" else {"binary_data": mode == "binary"}))
    tags = np.arange(start, start + len(batch))[:, None]
    if mode == "grpc":
        tensor.set_data_from_numpy(batch)
        tag.set_data_from_numpy(tags)
    else:
        tensor.set_data_from_numpy(batch, binary_data=mode == "binary")
        tag.set_data_from_numpy(tags, binary_data=mode == "binary")
    answer = client.infer("lenet5", [tensor, tag], outputs=[output], request_id="7")
    labels += answer.as_numpy("scores").argmax(1).tolist()
print(json.dumps(labels))
