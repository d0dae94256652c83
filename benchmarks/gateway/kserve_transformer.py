"""KServe's SDK transformer as its manual writes it, changing nothing: the peer of the gateway.

``--http_port``, ``--model_name``, ``--predictor_host`` and ``--predictor_protocol`` are read by the SDK itself.
"""

from kserve import InferRequest, Model, ModelServer


class Transformer(Model):
    def __init__(self) -> None:
        super().__init__("identity")
        self.ready = True

    def preprocess(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferRequest:  # noqa: ARG002
        payload.inputs[0].set_data_from_numpy(payload.inputs[0].as_numpy(), binary_data=True)
        return payload


if __name__ == "__main__":
    ModelServer(enable_grpc=False, enable_docs_url=False).start([Transformer()])
