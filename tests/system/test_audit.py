"""docs/audit.md on a machine that serves: each question has its answer, one access is followed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tests.system.installed import AGENT, APP, ROOT, USER, VALUES

if TYPE_CHECKING:
    from tests.system.installed import Installed

DOCUMENT = ROOT / "docs/audit.md"
ON_THE_VPS = re.compile(r"`((?:journalctl|vps-secrets explain) [^`]*)`")


def test_every_question_has_its_answer(serving: Installed) -> None:
    """After a read, a refusal and an operator's look: the commands of the page, as they stand there."""
    assert serving.reads("JWT_SECRET", VALUES["JWT_SECRET"])
    assert serving.run(f"{APP} --fail http://x/v1/secrets/JWT_SECRET", check=False).code, "root has no grant"
    serving.run("vps-secrets status")
    serving.until_said("denied: GET /v1/secrets/JWT_SECRET", "--unit", AGENT)
    uid = serving.run(f"id --user {USER}").out.strip()
    version = next(one["version"] for one in serving.status()["secrets"] if one["name"] == "JWT_SECRET")
    commands = ON_THE_VPS.findall(DOCUMENT.read_text())
    assert len(commands) == 6
    for command in commands:
        asked = command.replace("UID=1000", f"UID={uid}").replace("VERSION", version)
        assert serving.run(asked).out.strip(), command


def test_one_access_is_followed_to_its_request(serving: Installed) -> None:
    """From the application's read, by its version, to the id under which Barbican has it."""
    assert serving.reads("DATABASE_URL", VALUES["DATABASE_URL"])
    asked = "journalctl -u vps-secrets-agent VPS_SECRETS_OUTCOME=served VPS_SECRETS_NAME=DATABASE_URL"
    record = json.loads(serving.run(f"{asked} --output json").out.splitlines()[-1])
    assert record["_SYSTEMD_UNIT"] == "vps-secrets-agent.service"
    brought = f"journalctl -u 'vps-secrets-fetch@*' --grep {record['VPS_SECRETS_VERSION']} --output cat"
    (request,) = set(re.findall(r"req-[0-9a-f-]{36}", serving.run(brought).out))
    log = serving.cloud.testbed.log("barbican").read_text()
    lines = [line for line in log.splitlines() if request in line]
    assert any(f"{record['VPS_SECRETS_VERSION']}/payload" in line for line in lines)
