"""Fixtures of the scenarios."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.testbed.cloud import Cloud
from lab.testbed.config import Options

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN_LIFE_S = 126
"""Keystone's client logs in anew 120 s before a token ends, so the agent uses one for six seconds."""


@pytest.fixture(scope="session")
def brief_cloud() -> Iterator[Cloud]:
    """A cloud whose tokens live shortly, and whose Barbican asks Keystone about a token every time."""
    with Cloud(Options(token_expiration=TOKEN_LIFE_S, token_cache_time=-1)) as made:
        yield made
