"""common/http_status.py: which answers may be others a moment later."""

import pytest

from common.http_status import may_pass


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_pass(status: int) -> None:
    """Nobody has to do anything."""
    assert may_pass(status)


@pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 403, 404, 409, 413, 424, 426, 499])
def test_what_does_not(status: int) -> None:
    """The same call has the same answer."""
    assert not may_pass(status)
