"""Every network that a purifier's checkpoint can hold, with weights as they begin; built when asked for."""

import functools

from arn_purify.models import ApeG, ApeGConfig, Arn, ArnConfig, Hgd, HgdConfig
from arn_purify.models.config import ARCHITECTURES


def _arn(architecture):
    return Arn(ArnConfig.preset(architecture, *((1, 28) if architecture == "released" else (3, 32))))


NETWORKS = {
    **{name: functools.partial(_arn, name) for name in ARCHITECTURES},
    "ape-g": lambda: ApeG(ApeGConfig()),
    "hgd": lambda: Hgd(HgdConfig()),
}
