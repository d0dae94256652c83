"""Every network that a purifier's checkpoint can hold, with weights as they begin; built when asked for."""

import functools

from arn_purify.models import ApeG, ApeGConfig, Arn, ArnConfig, Hgd, HgdConfig
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
