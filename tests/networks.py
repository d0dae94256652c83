"""Every network that a purifier's checkpoint can hold, with weights as they begin; built when asked for."""

import functools
from typing import get_args

from arn_purify.models import ApeG, ApeGConfig, Arn, ArnConfig, Hgd, HgdConfig
from arn_purify.models.arn import Architecture


def _arn(architecture):
    return Arn(ArnConfig.preset(architecture, *((1, 28) if architecture == "released" else (3, 32))))


NETWORKS = {
    **{name: functools.partial(_arn, name) for name in get_args(Architecture)},
    "ape-g": lambda: ApeG(ApeGConfig()),
    "hgd": lambda: Hgd(HgdConfig()),
}
