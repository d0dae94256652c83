"""MLServer's runtime around the released LeNet-5."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from examples.servers.lenet5 import Classifier


class LeNet5(MLModel):
    """One model."""

    async def load(self) -> bool:
        """Load once."""
        self.classify = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Scores of each image."""
        images = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        scores = NumpyCodec.encode_output("scores", self.classify(np.asarray(images)))
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[scores])
