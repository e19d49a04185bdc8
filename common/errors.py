"""The root of every error of ours, and what is wrong in a configuration file.

No class here can hold a payload, token or password: messages are built from names and fixed text.
"""

from __future__ import annotations

from dataclasses import dataclass


class VpsSecretsError(Exception):
    """Root of every error of ours."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong in a configuration file: where, and what is expected. Never the value."""

    file: str
    key: str
    expected: str

    def __str__(self) -> str:
        """``file: key: expected``."""
        return f"{self.file}: {self.key}: {self.expected}"


class ConfigurationError(VpsSecretsError):
    """Everything that is wrong with the configuration, found in one run."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = mistakes
