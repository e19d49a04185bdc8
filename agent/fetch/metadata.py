"""Barbican's metadata of secrets: what barbicanclient asks of an HTTP client, and many at once from the list.

barbicanclient's own HTTP client costs one or two requests before its first use, to find out microversions.
Its manager of secrets needs none of them, and only two functions of that client: :class:`Api` has them.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from barbicanclient.v1.secrets import Secret
from keystoneauth1.adapter import Adapter

from common import untrusted_json
from common.names import Version, parse_version, version_in

if TYPE_CHECKING:
    from collections.abc import Collection

PAGE: Final = 100
"""The most that Barbican gives in one answer."""
MAX_LISTED: Final = 300
"""How many of the newest secrets are looked through; the rest is asked for one by one."""
_MAX_TOTAL: Final = 2**53


class Api:
    """Barbican below ``base``/v1, as far as :class:`barbicanclient.v1.secrets.SecretManager` reads it."""

    def __init__(self, session: Any, base: str) -> None:
        self._adapter: Final = Adapter(session, endpoint_override=f"{base}/v1")

    def get(self, path: str) -> dict[str, object]:
        """Return the metadata of one secret; ``path`` is ``secrets/UUID``.

        barbicanclient does not look at whose they are: of a cache on the way they may be another secret's.

        Raises:
            CloudError, MalformedError, or an error of keystoneauth1 (see agent/fetch/classify.py).
        """
        found = self.query(path, {})
        if version_in(found.get("secret_ref")) != parse_version(path.rpartition("/")[2]):
            raise untrusted_json.MalformedError("the metadata are those of another secret")
        return found

    def query(self, path: str, params: dict[str, str]) -> dict[str, object]:
        """Return an object of Barbican's.

        Raises:
            CloudError, MalformedError, or an error of keystoneauth1 (see agent/fetch/classify.py).
        """
        content = self._get_raw(path, {"Accept": "application/json"}, params)
        return untrusted_json.mapping(untrusted_json.parse(content, "the metadata"), "the metadata")

    def _get_raw(self, path: str, headers: dict[str, str], params: dict[str, str] | None = None) -> bytes:
        """Return a body as it is; barbicanclient asks for payloads by this name."""
        response = self._adapter.get(path, headers=headers, params=params or {}, log=False)
        content: bytes = response.content
        return content


def read_list(api: Api, wanted: Collection[Version]) -> tuple[dict[Version, Secret], int]:
    """Return the metadata of those wanted versions that the list has, and how long the list is, newest first.

    ``acl_only`` lists what ACLs let this account read, in whatever project it is. The offset is ours:
    Barbican's own link to the next page loses every filter on older releases.

    Raises:
        CloudError, MalformedError, or an error of keystoneauth1.
    """
    found: dict[Version, Secret] = {}
    total = 0
    for offset in range(0, MAX_LISTED, PAGE):
        page = api.query(
            "secrets",
            {"acl_only": "true", "sort": "created:desc", "limit": str(PAGE), "offset": str(offset)},
        )
        for item in untrusted_json.array(page.get("secrets"), "secrets", PAGE):
            secret = untrusted_json.mapping(item, "a secret")
            version = version_in(secret.get("secret_ref"))
            if version is not None and version in wanted:
                found |= _metadata(api, version, secret)
        total = untrusted_json.integer(page.get("total"), "total", _MAX_TOTAL)
        if len(found) == len(wanted) or offset + PAGE >= total:
            break
    return found, total


def _metadata(api: Api, version: Version, untrusted: dict[str, object]) -> dict[Version, Secret]:
    """Return what barbicanclient makes of one item, or nothing where it fails: then it is asked for."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        return {
            version: Secret(
                api=api,
                secret_ref=f"secrets/{version}",
                **{key: untrusted.get(key) for key in ("name", "created", "expiration", "content_types")},
            )
        }
    return {}
