"""Access that is taken away, or given anew: tokens, credentials, ACLs, containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.testbed.fakes import faults
from tests.scenarios.scenario import MINUTE, Scenario
from tests.scenarios.test_outages import seven

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud

GRACE = '[staleness]\nrevocation_grace = "3m"\n'


def test_token_revoked(brief_cloud: Cloud) -> None:
    """Token revoked: one new login, which nobody notices."""
    values = seven()
    with Scenario(brief_cloud, "token-revoked", values) as day:
        day.start()
        logins = day.keystone.seen.count("POST /v3/auth/tokens")
        brief_cloud.accounts.runtime(day.vps.vps_id)  # a new password revokes every token of the user's
        assert day.refresh().status == 200
        assert day.keystone.seen.count("POST /v3/auth/tokens") == logins + 1
        day.reader.stop()
        assert day.reader.gaps == []


def test_credential_rotated_in_place(cloud: Cloud) -> None:
    """Application credential replaced, old and new overlap: a reload takes the new one, no read notices."""
    values = seven()
    with Scenario(cloud, "credential-rotated", values) as day:
        day.start()
        account = cloud.runtime[day.vps.vps_id]
        cloud.new_credential(day.vps.vps_id, account.user)
        day.reload()
        cloud.accounts.delete_application_credential(
            account.user, cloud.session_of(account.user), account.credential
        )
        assert day.refresh().status == 200
        assert day.status()["cycles"]["failed"] == 0
        assert day.holds(values)
        day.reader.stop()
        assert day.reader.gaps == []


def test_credential_expired(brief_cloud: Cloud) -> None:
    """Application credential expired: reported; served for revocation_grace, then dropped until a new one."""
    values = seven()
    with Scenario(brief_cloud, "credential-expired", values, settings=GRACE) as day:
        user = brief_cloud.runtime[day.vps.vps_id].user
        day.start()
        brief_cloud.new_credential(day.vps.vps_id, user, expires_in=8)
        day.reload()
        day.until(lambda: day.refresh().status == 502)
        failure = day.status()["failure"]
        assert (failure["step"], failure["fault"], failure["status"]) == ("Keystone", "denied", 401)
        assert "give this VPS the right one, or a new one" in failure["advice"]
        denied = day.now()
        assert day.holds(values)
        day.until(lambda: day.machine.get("/v1/secrets/JWT_SECRET").status == 404)
        assert day.now() - denied > 2 * MINUTE
        brief_cloud.new_credential(day.vps.vps_id, user)
        day.reload()
        assert day.holds(values)


def test_acl_removed(cloud: Cloud) -> None:
    """ACL removed: reported; served for revocation_grace, then dropped; served again with the ACL."""
    values = seven()
    with Scenario(cloud, "acl-removed", values, settings=GRACE) as day:
        day.start()
        cloud.deployment.revoke(day.vps)
        failure = day.failure()
        denied = day.now()
        assert (failure["step"], failure["fault"], failure["status"]) == ("permission", "denied", 403)
        assert day.status()["state"] == "denied"
        assert day.holds(values)
        day.until(lambda: day.machine.get("/v1/secrets/JWT_SECRET").status == 404)
        assert day.now() - denied > 2 * MINUTE
        day.reader.stop()
        assert {gap.gap for gap in day.reader.gaps} <= {"404 no-such-secret", "503 not-ready"}
        cloud.deployment.restore(day.vps)
        day.until(lambda: day.refresh().status == 200)
        assert day.holds(values)


def test_one_of_seven_missing(cloud: Cloud) -> None:
    """One secret of seven missing at boot: six are served, the seventh is 503 and comes by itself."""
    values = seven()
    with Scenario(cloud, "one-missing", values) as day:
        entry = next(e for e in cloud.deployment.entries(day.vps) if e.name.endswith("/JWT_SECRET"))
        with day.barbican.faulty(faults.refused(404), f"/{entry.secret_ref.rpartition('/')[2]}/payload"):
            day.start()
            assert day.holds({name: value for name, value in values.items() if name != "JWT_SECRET"})
            missing = day.machine.get("/v1/secrets/JWT_SECRET")
            assert (missing.status, missing.problem) == (503, "secret-unavailable")
            assert day.status()["pending"] == ["JWT_SECRET"]
        day.until(lambda: day.holds(values))
        day.reader.stop()
        assert {gap.what for gap in day.reader.gaps} <= {"JWT_SECRET"}


def test_one_of_seven_deleted(cloud: Cloud) -> None:
    """One secret of seven deleted: six are served on; it is dropped when two readings agree."""
    values = seven()
    with Scenario(cloud, "one-deleted", values, factor=10) as day:
        day.start()
        entry = next(e for e in cloud.deployment.entries(day.vps) if e.name.endswith("/JWT_SECRET"))
        cloud.deployment.delete(entry)
        assert day.refresh().status == 200
        assert day.holds(values), "one reading is not enough"
        del values["JWT_SECRET"]
        day.until(lambda: day.holds(values))
        assert "secret JWT_SECRET is served no more: its entry is gone" in day.machine.log
        day.reader.stop()
        assert {gap.what for gap in day.reader.gaps} <= {"JWT_SECRET"}


def test_container_replaced(cloud: Cloud) -> None:
    """Container replaced: a reload refuses and says restart; a restart serves the new one only."""
    values = seven()
    with Scenario(cloud, "container-replaced", values, factor=20) as day:
        day.start()
        cloud.deployment.delete_vps(day.vps)
        failure = day.failure()
        assert (failure["fault"], failure["status"]) == ("denied", 404)
        assert "check the reference" in failure["advice"]
        assert day.holds(values), "served for revocation_grace"
        day.vps = cloud.deployment.create_vps(day.vps.vps_id, day.vps.user_id)
        fresh = seven()
        cloud.deployment.rotate(day.vps, fresh)
        day.reload()
        assert "restart the agent" in day.status()["configurationError"]
        assert day.holds(values)
        started = day.machine.started["serve"]
        day.machine.send("TERM")
        day.until(lambda: day.machine.started["serve"] > started)
        day.until(lambda: day.holds(fresh))
        assert any("another container" in warning for warning in day.status()["warnings"])
