"""Triton's Python backend around the released LeNet-5."""

import os
import sys

import triton_python_backend_utils as pb_utils

sys.path += os.environ["ARN_SITE"].split(os.pathsep)  # the backend's interpreter does not read PYTHONPATH
from examples.servers.lenet5 import Classifier


class TritonPythonModel:
    """One instance."""

    def initialize(self, args):
        """Load once."""
        self.classify = Classifier()

    def execute(self, requests):
        """Each request on its own, as a minimal backend does."""
        answers = []
        for request in requests:
            images = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
            scores = pb_utils.Tensor("scores", self.classify(images))
            answers.append(pb_utils.InferenceResponse([scores]))
        return answers
