"""The kind ``password``: characters of given sets, at least one of each: what people and old systems take."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from deployer.core.options import PasswordOptions
from deployer.kinds.kind import NoThirdParty
from deployer.kinds.value import Value

if TYPE_CHECKING:
    from deployer.kinds.kind import Facts


class Password(NoThirdParty):
    """Every password that fits is equally likely: one that lacks a set is thrown away, not mended."""

    name = "password"

    def make(self, facts: Facts) -> Value:
        """Draw until it has one of each set: some tries at most, since a set is never a small share."""
        options = facts.options(PasswordOptions)
        characters = "".join(options.sets).encode()
        drawn = bytearray(options.length)
        while True:
            for at in range(options.length):
                drawn[at] = secrets.choice(characters)
            if all(any(byte in drawn for byte in wanted.encode()) for wanted in options.sets):
                return Value(drawn)
