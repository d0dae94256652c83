"""KServe's model server around the released LeNet-5: V1 and V2, HTTP and gRPC."""

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from examples.servers.lenet5 import Classifier, decode


class LeNet5(Model):
    """One model."""

    def __init__(self) -> None:
        super().__init__("lenet5")
        self.classify = Classifier()
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        """V1: rows of pixels, or of base64 images; V2: one tensor."""
        if isinstance(payload, InferRequest):
            scores = self.classify(payload.inputs[0].as_numpy())
            output = InferOutput("scores", list(scores.shape), "FP32")
            output.set_data_from_numpy(scores, binary_data=False)
            return InferResponse(payload.id or "0", "lenet5", [output])
        rows = payload["instances"]
        if isinstance(rows[0], dict):
            import base64

            images = np.concatenate([decode(base64.b64decode(row["image"]["b64"])) for row in rows])
        else:
            images = np.array(rows, np.float32)
        return {"predictions": self.classify(images).tolist()}


if __name__ == "__main__":
    ModelServer(enable_docs_url=False).start([LeNet5()])  # which reads --http_port and --grpc_port itself
