"""``tritonclient`` with photographs, normalised as torchvision's classifiers take them.

``triton_photo_client.py binary|json|grpc ADDRESS IMAGES.npy [SEEN.npy]`` takes uint8 ``(N, 224, 224, 3)``, prints one
JSON list: the label of each. What the server was given is kept in ``SEEN.npy``, float32 ``(N, 3, 224, 224)``.
"""

import json
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.http

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])

mode, address, file, *kept = sys.argv[1:]
images = (np.load(file).astype(np.float32) / 255 - MEAN) / STD
images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
module = tritonclient.grpc if mode == "grpc" else tritonclient.http
client = module.InferenceServerClient(address.removeprefix("http://"))
form = {} if mode == "grpc" else {"binary_data": mode == "binary"}
names = ["logits", "seen"] if kept else ["logits"]
labels, seen = [], []
for start in range(0, len(images), 10):
    batch = images[start : start + 10]
    tensor = module.InferInput("input", batch.shape, "FP32")
    tensor.set_data_from_numpy(batch, **form)
    answer = client.infer("photos", [tensor], outputs=[module.InferRequestedOutput(name, **form) for name in names])
    labels += answer.as_numpy("logits").argmax(1).tolist()
    if kept:
        seen.append(answer.as_numpy("seen"))
if kept:
    np.save(kept[0], np.concatenate(seen))
print(json.dumps(labels))
