"""TorchServe's handler around the released LeNet-5: image bytes to a label and its scores."""

from examples.servers.lenet5 import Classifier, decode

_classify = None


def handle(data, context):
    """One answer a request of the batch."""
    global _classify
    _classify = _classify or Classifier()
    if data is None:
        return None
    scores = [_classify(decode(bytes(row.get("data") or row.get("body"))))[0] for row in data]
    return [{"label": int(row.argmax()), "scores": row.tolist()} for row in scores]
