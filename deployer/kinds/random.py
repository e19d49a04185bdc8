"""The kind ``random``: bytes of the system's generator, written in one of four ways."""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING, Final

from deployer.core.options import RandomOptions
from deployer.kinds.kind import NoThirdParty
from deployer.kinds.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deployer.kinds.kind import Facts

_ENCODERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "base64url": lambda drawn: base64.urlsafe_b64encode(drawn).rstrip(b"="),
    "base64": base64.b64encode,
    "hex": lambda drawn: drawn.hex().encode(),
    "raw": bytes,
}


def draw(options: RandomOptions) -> Value:
    """Return a new value; base64url has no padding, base64 has it."""
    return Value(_ENCODERS[options.encoding](secrets.token_bytes(options.size)))


class Random(NoThirdParty):
    """A key, a token, a salt."""

    name = "random"

    def make(self, facts: Facts) -> Value:
        """Draw it."""
        return draw(facts.options(RandomOptions))
