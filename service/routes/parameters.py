"""The parameters of a request, from its query and from the fields of its form."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from ..core.fit import FITS, Fit
from ..errors import BadParameter, shown

_TRUE, _FALSE = ("true", "1", ""), ("false", "0")


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Values by name. One that is not among the known names, or is given twice, is refused and not ignored.

    Raises:
        BadParameter: an unknown name, or two values of one name.
    """

    known: Sequence[str]
    given: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def and_these(self, pairs: Iterable[tuple[str, str]]) -> Parameters:
        """These and ``pairs`` together."""
        given = dict(self.given)
        for name, value in pairs:
            if name not in self.known:
                raise BadParameter(f"no parameter {shown(name)} is known here: {', '.join(self.known)}")
            if given.setdefault(name, value) != value:
                raise BadParameter(f"{name} is given twice: {shown(given[name])} and {shown(value)}")
        return Parameters(self.known, given)

    def text(self, name: str) -> str | None:
        """A value as it was given; None without one."""
        return self.given.get(name)

    def flag(self, name: str) -> bool:
        """Whether a parameter is true; alone it is.

        Raises:
            BadParameter: it is neither true nor false.
        """
        value = self.given.get(name, "false").lower()
        if value not in (*_TRUE, *_FALSE):
            raise BadParameter(f"{name} is true or false, not {shown(value)}")
        return value in _TRUE

    def fit(self, name: str) -> Fit | None:
        """How to bring an image to a model's size: ``crop``, which ``true`` means too, or ``fit``; None for neither.

        Raises:
            BadParameter: it is something else.
        """
        value = self.given.get(name, "false").lower()
        if value in FITS:
            return value
        if value not in (*_TRUE, *_FALSE):
            raise BadParameter(f"{name} is {', '.join(FITS)}, true or false, not {shown(value)}")
        return "crop" if value in _TRUE else None
