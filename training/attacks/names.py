"""What the name of an attack says: ``NAME[@EPS][xITERATIONS][rRESTARTS]``, NAME also ``module:function``."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

_FORM = re.compile(
    r"(?P<name>[A-Za-z0-9_.:]+?)(?:@(?P<eps>[0-9]*\.?[0-9]+))?"
    r"(?:x(?P<iterations>[1-9][0-9]*))?(?:r(?P<restarts>[1-9][0-9]*))?"
)


class AttackName(NamedTuple):
    """A registered ``name`` or ``module:function``, and what a variant sets otherwise (``None``: its own)."""

    name: str
    eps: float | None = None
    iterations: int | None = None
    restarts: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The parts of an attack's name; ``None`` where it has another form."""
        found = _FORM.fullmatch(text)
        if found is None:
            return None
        numbers = (int(found[key]) if found[key] else None for key in ("iterations", "restarts"))
        return cls(found["name"], float(found["eps"]) if found["eps"] else None, *numbers)

    @classmethod
    def base_of(cls, text: str) -> str:
        """An attack's name without its budget, iterations and restarts, and without ``_eps2``."""
        found = cls.parse(text)
        return (found.name if found else text).removesuffix("_eps2")
