"""A model that costs nothing: it answers the first number of its image."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance."""

    def execute(self, requests):
        """The first number of each."""
        first = [pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)[:1] for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("first", number)]) for number in first]
