"""What every kind of secret can do: one interface, a module a kind.

The steps of one version, each of which may be repeated after a crash: preflight, make, (Barbican takes the
value, unlisted,) apply, test, (it is listed, and the VPS serves it,) retire of the former one. Nothing that
could be known before is found out after ``make``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from common.errors import VpsSecretsError

if TYPE_CHECKING:
    from common.names import SecretName, Version
    from deployer.core.blueprint import SecretSpec
    from deployer.kinds.value import Value

T = TypeVar("T")


class KindError(VpsSecretsError):
    """A step did not work: fixed words and names, never a value, nor what a third party said.

    ``permanent``: it will not work before a person has changed something; else it may when tried again.
    """

    def __init__(self, step: str, reason: str, *, permanent: bool = False) -> None:
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class Facts:
    """Of which version a step is. Nothing here is secret; a command of the operator's gets it as JSON."""

    vps_id: str
    name: SecretName
    slot: str
    """Which of the third party's two accounts; "" where there are none."""
    version: str
    """The UUID of the secret in Barbican."""
    rotation: str
    spec: SecretSpec
    listed: frozenset[Version] = frozenset()
    """What the container lists now: an account that one of these uses is never touched by ``apply``."""

    def options(self, of: type[T]) -> T:
        """Return what the blueprint says about this kind.

        Raises:
            TypeError: the secret is of another kind, which is a defect of the caller.
        """
        if not isinstance(self.spec.options, of):
            raise TypeError(f"{self.name} is of the kind {self.spec.kind}")
        return self.spec.options


class Kind(Protocol):
    """One kind of secret. Every method may raise :class:`KindError`, and no other error."""

    @property
    def name(self) -> str:
        """As blueprints write it."""

    def slots(self, spec: SecretSpec) -> tuple[str, ...]:
        """Return the two accounts that are used in turn, or none."""

    def preflight(self, facts: Facts) -> None:
        """Find out whatever can be wrong, before anything is made."""

    def make(self, facts: Facts) -> Value:
        """Return a new value; the caller closes it."""

    def apply(self, facts: Facts, value: Value) -> None:
        """Let the third party take the value; doing it again changes nothing."""

    def test(self, facts: Facts, value: Value) -> None:
        """Prove that the third party accepts the value, until a deadline."""

    def retire(self, facts: Facts) -> None:
        """End a former version at the third party; doing it again changes nothing."""

    def lock(self, facts: Facts) -> None:
        """In an emergency: end every account of the secret, and who uses one now, whatever breaks."""

    def public(self, facts: Facts, value: Value) -> str | None:
        """Return what of the value everybody may know (of a key pair the public half), or None."""


class NoThirdParty:
    """The steps of a kind whose values nobody else has to know."""

    def slots(self, spec: SecretSpec) -> tuple[str, ...]:  # noqa: ARG002  # as Kind has it; so below
        """There are no accounts."""
        return ()

    def preflight(self, facts: Facts) -> None:
        """Nothing can be wrong."""

    def apply(self, facts: Facts, value: Value) -> None:
        """Nobody takes it."""

    def test(self, facts: Facts, value: Value) -> None:
        """There is nothing to prove."""

    def retire(self, facts: Facts) -> None:
        """It ends with its secret in Barbican."""

    def lock(self, facts: Facts) -> None:
        """It ends with its ACL in Barbican."""

    def public(self, facts: Facts, value: Value) -> str | None:  # noqa: ARG002
        """Nothing of it may be known."""
        return None
