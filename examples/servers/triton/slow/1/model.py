"""A model that takes its time and whose queue holds one request: how a server under load looks."""

import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance."""

    def execute(self, requests):
        """Half a second a request."""
        time.sleep(0.5 * len(requests))
        images = [pb_utils.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        first = [pb_utils.Tensor("first", image.reshape(1, -1)[:, :1]) for image in images]
        return [pb_utils.InferenceResponse([tensor]) for tensor in first]
