"""The configured way out for programs of root's, which decrypt the proxy's password themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.fetch.tunnel import Way
from agent.identity import credential_file
from agent.identity.errors import CredentialFileError

if TYPE_CHECKING:
    from pathlib import Path

    from agent.config.model import Proxy


def way(proxy: Proxy | None, directory: Path) -> Way:
    """Return the way; ``directory`` has the encrypted credentials.

    Raises:
        CredentialFileError: the proxy's password is not there, or can't be decrypted.
    """
    if proxy is None or proxy.user is None:
        return Way(proxy)
    return Way(proxy, _password(proxy, directory))


def _password(proxy: Proxy, directory: Path) -> str:
    source, content, reason = proxy.password, None, ""
    if source.name is not None:
        content = credential_file.read(source.name, directory)
    elif source.file is not None:
        try:
            content = source.file.read_bytes()
        except OSError as error:
            reason = f": {error.strerror}"
    if not content:
        where = source.file or credential_file.path_of(str(source.name), directory)
        raise CredentialFileError(f"the password of keystone.proxy_user is not in {where}{reason}")
    return content.decode(errors="replace").rstrip("\r\n")
