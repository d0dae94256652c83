"""Every network that a purifier's checkpoint can hold, with weights as they begin; built when asked for."""

import functools

import torch

from arn_purify.models import ApeG, ApeGConfig, Arn, ArnConfig, Card, Hgd, HgdConfig, checkpoint
from arn_purify.models.config import ARCHITECTURES

# The authors' network in a sixteenth of its 500 MB.
THIN_RELEASED = ArnConfig("released", width=8, code_channels=8)


def _arn(architecture):
    return Arn(THIN_RELEASED if architecture == "released" else ArnConfig.preset(architecture, 3, 32))


NETWORKS = {
    **{name: functools.partial(_arn, name) for name in ARCHITECTURES},
    "ape-g": lambda: ApeG(ApeGConfig()),
    "hgd": lambda: Hgd(HgdConfig()),
}


def save_photo(path):
    """A purifier of photographs that changes them visibly, with random weights; named as its file."""
    torch.manual_seed(0)
    network = Arn(ArnConfig.preset("photo", 3, 224)).eval()
    torch.nn.init.normal_(network.decoder.fine[-2].weight, std=0.05)  # it begins as the identity
    architecture, config, kind = checkpoint.architecture_of(network)
    checkpoint.save(network, Card(path.stem, kind, architecture, config, "photos", (3, 224, 224)), path)
    return path
