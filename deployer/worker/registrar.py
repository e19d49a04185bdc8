"""The registrar's door, as the worker uses it: it never gets a password there."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Final

from common import untrusted_json
from common.untrusted_json import MalformedError
from deployer.cloud.errors import CloudError
from deployer.cloud.own_login import PasswordDates
from deployer.unix_http import UnixConnection

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S: Final = 60.0
_MAX_ANSWER: Final = 65536
_MAX_WORDS: Final = 500
_OK: Final = 200


class Registrar:
    """The Keystone users of the VPSs, behind ``registrar.sock``. Every method raises CloudError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._users: dict[str, str] = {}
        """Whose user is whose, as the registrar has said to this process."""

    def make(self, vps_id: str) -> str:
        """Return the id of the VPS's user, which is made if need be."""
        answer = self._call("POST", vps_id, "", "make the Keystone user")
        self._users[vps_id] = untrusted_json.text(answer.get("userId"), "userId", 64)
        return self._users[vps_id]

    def confirm(self, vps_id: str, user_id: str) -> None:
        """Make sure that a user is this VPS's: asked once, and again where that was not so.

        The database says whom to let in, and whoever can write there must not be able to name another VPS's.
        """
        if self._users.get(vps_id) != user_id and self.make(vps_id) != user_id:
            reason = (
                "the database names another Keystone user than the registrar, so nobody was let in: somebody "
                "changed the database, or deleted the user by hand; find out which before you mend it"
            )
            raise CloudError(f"confirm the Keystone user of {vps_id}", reason, retriable=False)

    def claimed(self, vps_id: str) -> bool:
        """Return whether the VPS has taken its user over; then it may log in and read."""
        return (
            self._call("POST", vps_id, "/observe", "ask whether it has claimed its user")["claimed"] is True
        )

    def disable(self, vps_id: str) -> str:
        """Shut the VPS's user out of Keystone. Return what a person has to do, or "": so for the next two."""
        return _by_hand(self._call("POST", vps_id, "/disable", "disable the Keystone user"))

    def enable(self, vps_id: str) -> str:
        """Let it in again."""
        return _by_hand(self._call("POST", vps_id, "/enable", "enable the Keystone user"))

    def delete(self, vps_id: str) -> str:
        """Delete the user."""
        return _by_hand(self._call("DELETE", vps_id, "", "delete the Keystone user"))

    def password_dates(self) -> PasswordDates:
        """Return since when the registrar's own password is in force, and when it ends."""
        answer = self._request("GET", "/login", "ask how long the registrar's password lasts")
        ends, since = answer.get("ends"), answer.get("since")
        return PasswordDates(*(float(at) if isinstance(at, (int, float)) else None for at in (ends, since)))

    def _call(self, method: str, vps_id: str, what: str, step: str) -> dict[str, object]:
        return self._request(method, f"/vps/{vps_id}{what}", f"{step} of {vps_id}")

    def _request(self, method: str, target: str, step: str) -> dict[str, object]:
        connection = UnixConnection(self._path, TIMEOUT_S)
        reason, retriable = "", True
        try:
            connection.request(method, target, headers={"Content-Length": "0"})
            response = connection.getresponse()
            body = response.read(_MAX_ANSWER)
            answer = untrusted_json.mapping(untrusted_json.parse(body, "the answer"), "the answer")
            if response.status == _OK:
                return answer
            reason = untrusted_json.text(answer.get("detail"), "detail", 1000)
            retriable = answer.get("retriable") is not False
        except (OSError, http.client.HTTPException):
            reason = f"the registrar does not answer at {self._path}: systemctl status vps-secrets-registrar"
        except MalformedError as error:
            reason = f"the registrar's answer is not as documented: {error}"
        finally:
            connection.close()
        raise CloudError(step, reason, retriable=retriable)


def _by_hand(answer: dict[str, object]) -> str:
    """Return what only a person can do: the user is one of a pool."""
    found = answer.get("byHand", "")
    return untrusted_json.printable(found, _MAX_WORDS) if isinstance(found, str) else ""
