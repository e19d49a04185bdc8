"""A value while it is on its way from where it is made to Barbican: the only type that holds one.

It can't be printed, formatted, compared by timing, copied, pickled or put into JSON. :meth:`Value.reveal` is
the one way to its bytes; tests/unit/test_deployer_value.py holds who may call it. After :meth:`Value.close`
its memory is zero. What libraries copy from it (a key's PEM, what psycopg2 sends) is beyond our reach: no
core dumps and no swap, by the unit, are what stands there.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, NoReturn, Self, final

if TYPE_CHECKING:
    from types import TracebackType


@final
class Value:
    """The bytes of one value. A context manager: leaving it wipes them."""

    __slots__ = ("__content", "__open")

    __hash__ = None  # type: ignore[assignment]  # a table of values is nobody's business

    def __init__(self, content: bytes | bytearray | memoryview) -> None:
        """Take the content; a bytearray is copied and then wiped, so that there is one copy."""
        self.__content = bytearray(content)
        self.__open = True
        if isinstance(content, bytearray):
            content[:] = bytes(len(content))

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("a value has no kinds: a subclass could show it")

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self.__content)

    def reveal(self) -> memoryview:
        """Return the bytes themselves, which become zero when the value is closed; not to be kept.

        Raises:
            ValueError: the value is closed.
        """
        if not self.__open:
            raise ValueError("the value is closed")
        return memoryview(self.__content).toreadonly()

    def close(self) -> None:
        """Wipe it. Whoever still has a view sees zeros."""
        self.__content[:] = bytes(len(self.__content))
        self.__open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_Value__content"):  # not where the constructor failed
            self.close()

    def __repr__(self) -> str:
        return "<Value>"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> NoReturn:
        raise TypeError("a value can't be part of a text")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Value):
            return NotImplemented
        return hmac.compare_digest(self.__content, other.__content)

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError("a value can't be copied or serialised")

    __reduce__ = __reduce_ex__ = __getstate__ = __copy__ = __deepcopy__ = _refuse
    __bytes__ = __iter__ = __len__ = __getitem__ = _refuse
