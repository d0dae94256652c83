"""Triton's Python backend around an ONNX file beside this one: the wheel has no backend for ONNX of its own."""

import os
import sys
from pathlib import Path

import triton_python_backend_utils as pb_utils

sys.path += os.environ["ARN_SITE"].split(os.pathsep)  # the backend's interpreter does not read PYTHONPATH
import onnxruntime


class TritonPythonModel:
    """One instance."""

    def initialize(self, args):
        """Load once."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = Path(__file__).with_name("model.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        """The logits of each request, and the input as it arrived."""
        answers = []
        for request in requests:
            seen = pb_utils.get_input_tensor_by_name(request, "input").as_numpy()
            (logits,) = self.session.run(None, {"input": seen})
            tensors = [pb_utils.Tensor("logits", logits), pb_utils.Tensor("seen", seen)]
            wanted = request.requested_output_names()
            answers.append(pb_utils.InferenceResponse([tensor for tensor in tensors if tensor.name() in wanted]))
        return answers
