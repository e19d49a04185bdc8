"""agent/core/rotation.py: every row of the staleness table, and what lies between the rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from agent.core.errors import Failure, Fault
from agent.core.errors import Step as Part
from agent.core.rotation import (
    LEAVING_S,
    MAX_WAIT_S,
    SETTLE_POLL_S,
    SETTLE_S,
    Entry,
    Moment,
    Policy,
    Progress,
    Reading,
    Step,
    Unread,
    after_failure,
    after_reading,
    known,
    overdue,
    reads_doubles,
)
from agent.core.schedule import MIN_S
from agent.core.secret import Remarks, SecretMetadata
from common.names import SecretName, Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ABSENT, DENIED, FAILED = Unread.ABSENT, Unread.DENIED, Unread.FAILED
WALL = 1_000_000.0
EXPIRES = WALL + 100
REFUSED = Failure(Part.PERMISSION, Fault.DENIED, "read the container", "grant access", status=403)
AWAY = Failure(Part.CONNECTION, Fault.TRANSIENT, "reach Barbican", "wait", status=None)


def name_of(version: str) -> SecretName:
    """``A2`` is a version of ``A``, created at 2."""
    return SecretName(version[0])


def remarks(step: Step) -> Remarks:
    """Return the remarks of a step; those of one that learned nothing are none."""
    return step.remarks or Remarks()


def told(names: Iterable[str]) -> str:
    """Return names in one line."""
    return " ".join(sorted(names))


def facts(version: str, expires: float | None = None) -> SecretMetadata:
    """Return the facts of a version like ``A2``."""
    return SecretMetadata(name_of(version), Version(version), 1, "text/plain", float(version[1:]), expires)


def entry(listed: str) -> Entry:
    """Return the entry of ``A2``, the second version of name A, or of ``A2~7``, listed with k = 7."""
    version, _, k = listed.partition("~")
    return Entry(name_of(version), Version(version), int(k or 0))


class Machine:
    """The machine with its memory, as the refresher drives it; what is listed is read by :func:`entry`."""

    def __init__(self, *held: str, expires: float | None = None, policy: Policy | None = None) -> None:
        self.held = {name_of(v): facts(v, expires) for v in held}
        self.policy = policy or Policy()
        self.progress = Progress()
        self.boot, self.wall = 0.0, WALL
        if held:
            self.read(*held)

    @property
    def now(self) -> Moment:
        """What both clocks show."""
        return Moment(self.boot, self.wall)

    @property
    def serves(self) -> list[str]:
        """The versions that are held, sorted."""
        return sorted(f.version for f in self.held.values())

    def at(self, boot: float) -> Machine:
        """Let both clocks go on until the boot clock shows ``boot``."""
        self.wall += boot - self.boot
        self.boot = boot
        return self

    def read(self, *listed: str, untried: str = "", **unread: Unread) -> Step:
        """Take a reading in which everything listed is readable but for ``unread`` and ``untried``."""
        entries = tuple(map(entry, listed))
        versions = {e.version: None for e in entries}
        tried = [v for v in versions if v not in known(self.held, self.now) and v not in untried.split()]
        reading = Reading(
            entries,
            {Version(v): facts(v) for v in tried if v not in unread},
            {Version(v): unread[v] for v in tried if v in unread},
        )
        step = after_reading(self.held, reading, self.progress, self.policy, self.now)
        return self._apply(step, reading.read)

    def fail(self, failure: Failure) -> Step:
        """Take a cycle that failed as a whole."""
        return self._apply(after_failure(self.held, failure, self.progress, self.policy, self.now), {})

    def look(self) -> Step:
        """Do what is due by the clock alone."""
        return self._apply(overdue(self.held, self.progress, self.policy, self.now), {})

    def doubles(self) -> bool:
        """Return whether the next reading would try the payloads of doubles."""
        return reads_doubles(self.held, self.progress, self.now)

    def _apply(self, step: Step, read: Mapping[Version, SecretMetadata]) -> Step:
        self.progress = step.progress
        if step.versions is not None:
            before = {f.version: f for f in self.held.values()}
            self.held = {n: before[v] if v in before else read[v] for n, v in step.versions.items()}
        return step


# --- reference set unchanged, new references, first start ---


def test_an_unchanged_container_confirms() -> None:
    """Nothing is asked for, nothing stays behind."""
    m = Machine("A1", "B1")
    step = m.at(900).read("A1", "B1")
    assert m.serves == ["A1", "B1"]
    assert step.progress == Progress(confirmed=900)
    assert (
        told(remarks(step).pending),
        told(remarks(step).kept),
        told(step.duplicates),
        step.dropped,
        step.again_in,
    ) == (
        "",
        "",
        "",
        {},
        None,
    )


def test_new_references_are_published_together() -> None:
    """A rotation that came and went between two polls, and a new name with it."""
    m = Machine("A1", "B1")
    m.at(900).read("A2", "B2", "C1")
    assert m.serves == ["A2", "B2", "C1"]


def test_the_first_start_takes_the_newest_of_a_double_at_once() -> None:
    """There is nothing older to serve meanwhile."""
    m = Machine()
    assert m.doubles()
    step = m.read("A2", "A1", "B1", C1=FAILED)
    assert m.serves == ["A2", "B1"]
    assert told(step.duplicates) == "A"


def test_the_first_start_does_not_wait_for_what_it_can_not_read() -> None:
    """The rest is served; the name is pending."""
    m = Machine()
    step = m.read("A1", "B1", B1=FAILED)
    assert m.serves == ["A1"]
    assert (told(remarks(step).pending), told(remarks(step).kept)) == ("B", "")


def test_an_empty_container_at_first_start_is_an_empty_set() -> None:
    """It is an answer: ready, with nothing."""
    assert Machine().read().versions == {}


def test_after_everything_was_dropped_the_next_reading_is_a_first_start() -> None:
    """Access came back in the middle of a rotation."""
    m = Machine("A1", policy=Policy(revocation_grace=0))
    m.at(10).fail(REFUSED)
    assert m.serves == []
    assert m.doubles()
    m.at(20).read("A1", "A2")
    assert m.serves == ["A2"]


@pytest.mark.parametrize("held", [(), ("A1",), ("A1", "B1"), ("B1",)])
def test_an_entry_that_names_another_secrets_version(held: tuple[str, ...]) -> None:
    """B's entry names A's version: B keeps what it has, or is pending, and never gets A's value."""
    m = Machine(*held)
    a, b = SecretName("A"), SecretName("B")
    for boot in (10.0, 70.0, 140.0, 400.0):
        m.at(boot)
        read = {} if Version("A2") in known(m.held, m.now) else {Version("A2"): facts("A2")}
        reading = Reading((Entry(a, Version("A2")), Entry(b, Version("A2"))), read)
        step = m._apply(after_reading(m.held, reading, m.progress, m.policy, m.now), read)
        assert not step.dropped
    assert m.held[a].version == "A2"
    assert [m.held[b].version for b in m.held if b != a] == (["B1"] if "B1" in held else [])
    assert told(remarks(step).pending | remarks(step).kept) == "B"


# --- a name twice ---


def test_a_double_keeps_the_whole_snapshot_until_no_name_is_double() -> None:
    """Every state of a rotation of two, as the container passes through them."""
    m = Machine("A1", "B1")
    for boot, listed in enumerate(
        (["A1", "A2", "B1"], ["A1", "A2", "B1", "B2"], ["A2", "B1", "B2"]),
        start=1,
    ):
        step = m.at(boot).read(*listed, untried="A2 B2")
        assert (step.versions, step.again_in) == (None, SETTLE_POLL_S)
        assert not m.doubles()
        assert m.serves == ["A1", "B1"]
    m.at(4).read("A2", "B2")
    assert m.serves == ["A2", "B2"]
    assert m.progress == Progress(confirmed=4)


def test_an_entry_that_is_listed_twice_with_one_version_is_not_double() -> None:
    """The same line twice is no rotation."""
    m = Machine("A1")
    step = m.at(1).read("A1", "A1")
    assert told(step.duplicates) == ""
    assert step.progress == Progress(confirmed=1)


def test_after_a_minute_the_newest_of_each_is_taken_by_created() -> None:
    """Also when it is listed first; and the reading before did not spend calls on payloads."""
    m = Machine("A1", "B1")
    m.at(10).read("A3", "A1", "A2", "B1", untried="A2 A3")
    assert not m.at(10 + SETTLE_S - 1).doubles()
    assert m.read("A3", "A1", "A2", "B1", untried="A2 A3").versions is None
    assert m.at(10 + SETTLE_S).doubles()
    step = m.read("A3", "A1", "A2", "B1")
    assert m.serves == ["A3", "B1"]
    assert told(step.duplicates) == "A"
    assert told(remarks(step).kept) == ""


def test_a_minute_that_ends_during_a_cycle_is_not_the_end() -> None:
    """The request did not ask for payloads, so nothing can be said about them: the next one does."""
    m = Machine("A1", "B1")
    m.at(0).read("A1", "A2", "B2", untried="A2 B2")
    step = m.at(SETTLE_S).read("A1", "A2", "B2", untried="A2 B2")
    assert (step.versions, step.again_in) == (None, SETTLE_POLL_S)
    assert m.doubles()
    m.at(SETTLE_S + 2).read("A1", "A2", "B2")
    assert m.serves == ["A2", "B2"]


def test_an_older_version_that_is_added_does_not_win() -> None:
    """The newest by ``created`` is held already."""
    m = Machine("A2")
    m.at(1).read("A1", "A2", untried="A1")
    assert m.at(1 + SETTLE_S).doubles()
    step = m.read("A1", "A2")
    assert m.serves == ["A2"]
    assert told(remarks(step).kept) == ""


# --- entries with a k: a former version is listed again ---


def test_a_rollback_is_a_rotation_like_any_other() -> None:
    """The former pair is listed again, then the newer one goes: whole, and read anew."""
    m = Machine("A2", "B2")
    for boot, listed in enumerate(
        (["A2", "B2", "A1~7"], ["A2", "B2", "A1~7", "B1~7"], ["B2", "A1~7", "B1~7"]), start=1
    ):
        step = m.at(boot).read(*listed, untried="A1 B1")
        assert (step.versions, step.again_in) == (None, SETTLE_POLL_S)
    m.at(5).read("A1~7", "B1~7")
    assert m.serves == ["A1", "B1"]
    assert m.progress == Progress(confirmed=5)
    m.at(6).read("A1~7", "B1~7", "A3~8", "B3", untried="A3 B3")
    m.at(7).read("A3~8", "B3")
    assert m.serves == ["A3", "B3"]


def test_after_a_minute_the_highest_k_is_taken_before_the_latest_created() -> None:
    """A rollback that nobody has finished; of one k, and where there is none, the latest created."""
    m = Machine("A2", "B1", "C1")
    listed = ("A3~9", "A1~10", "A2", "B1~4", "B2~4", "C1", "C2")
    m.at(10).read(*listed, untried="A1 A3 B2 C2")
    step = m.at(10 + SETTLE_S).read(*listed)
    assert m.serves == ["A1", "B2", "C2"]
    assert told(step.duplicates) == "A B C"
    assert told(remarks(step).kept) == ""


def test_the_first_start_takes_the_highest_k_at_once() -> None:
    """As it takes the newest."""
    m = Machine()
    m.read("A2", "A1~1", "B1", "B2")
    assert m.serves == ["A1", "B2"]


def test_a_highest_k_that_can_not_be_read_leaves_the_next_one() -> None:
    """It is told that Barbican has a newer one."""
    m = Machine("A2")
    m.at(10).read("A3", "A2", "A1~7", A1=ABSENT)
    step = m.at(10 + SETTLE_S).read("A3", "A2", "A1~7", A1=ABSENT)
    assert m.serves == ["A3"]
    assert told(remarks(step).kept) == "A"


def test_one_version_under_several_entries_is_no_double() -> None:
    """It is confirmed, and counts with the highest k of its entries."""
    m = Machine("A1")
    step = m.at(1).read("A1", "A1~3", "A1~2")
    assert told(step.duplicates) == ""
    assert step.progress == Progress(confirmed=1)
    m.at(2).read("A1~5", "A2~4", "A1", untried="A2")
    assert m.at(2 + SETTLE_S).read("A1~5", "A2~4", "A1").versions == {"A": "A1"}


def test_a_double_that_stays_does_not_hold_up_the_next_rotation() -> None:
    """It was waited for once; a pair that rotates later is waited for, then published whole."""
    m = Machine("A1", "B1", "C1")
    m.at(0).read("A1", "A2", "B1", "C1", untried="A2")
    m.at(SETTLE_S).read("A1", "A2", "B1", "C1")
    assert m.serves == ["A2", "B1", "C1"]
    assert m.progress.waiting_since is None
    assert m.at(1000).read("A1", "A2", "B1", "B2", "C1").versions is None
    assert m.at(1002).read("A1", "A2", "B2", "C1", "C2").versions is None
    m.at(1004).read("A1", "A2", "B2", "C2")
    assert m.serves == ["A2", "B2", "C2"]


def test_a_rotation_that_begins_late_in_anothers_minute_is_whole_too() -> None:
    """Each version has a minute of its own."""
    m = Machine("A1", "B1", "C1")
    m.at(0).read("A1", "A2", "B1", "C1", untried="A2")
    m.at(SETTLE_S - 1).read("A1", "A2", "B1", "B2", "C1", untried="A2 B2")
    assert m.at(SETTLE_S).read("A1", "A2", "B2", "C1", "C2").versions is None
    m.at(SETTLE_S + 2).read("A1", "A2", "B2", "C2")
    assert m.serves == ["A2", "B2", "C2"]


def test_rotations_without_a_gap_are_published_in_the_end() -> None:
    """A tool that adds a version every 50 s and removes none must not freeze what is served for ever."""
    m = Machine("A1", "B1")
    listed = ["A1", "B2"]
    boot, published = 0.0, []
    while boot < 2 * MAX_WAIT_S:
        if boot % 50 == 0:
            listed.append(f"A{2 + int(boot // 50)}")
        untried = "" if m.at(boot).doubles() else " ".join(listed)
        if m.read(*listed, untried=untried).versions is not None:
            published.append(boot)
        boot += SETTLE_POLL_S
    assert published == [MAX_WAIT_S]
    assert m.held[SecretName("B")].version == "B2"
    assert m.held[SecretName("A")].version == "A14"


# --- an entry is gone ---


def test_a_name_that_is_gone_is_dropped_when_two_readings_half_a_minute_apart_agree() -> None:
    """Until then it is served, marked, and the second reading is asked for in time."""
    m = Machine("A1", "B1")
    step = m.at(100).read("A1")
    assert (m.serves, told(remarks(step).kept), step.again_in) == (["A1", "B1"], "B", LEAVING_S)
    step = m.at(129.9).read("A1")
    assert (m.serves, step.again_in) == (["A1", "B1"], MIN_S)
    step = m.at(130).read("A1")
    assert m.serves == ["A1"]
    assert step.dropped == {"B": "its entry is gone from the container"}
    assert m.at(131).read("A1").progress == Progress(confirmed=131)


def test_time_alone_or_a_failed_reading_does_not_drop_a_name_that_is_gone() -> None:
    """The second reading has to be an answer."""
    m = Machine("A1", "B1")
    m.at(100).read("A1")
    m.at(500).look()
    m.at(501).fail(AWAY)
    assert m.serves == ["A1", "B1"]
    m.at(502).read("A1")
    assert m.serves == ["A1"]


@pytest.mark.parametrize("between", [("A1", "B1"), ("A1", "A2", "B1"), ("A1", "B2"), ("A1", "B1", "B2")])
def test_a_name_that_came_back_starts_anew(between: tuple[str, ...]) -> None:
    """Also when the reading in between did not publish."""
    m = Machine("A1", "B1")
    m.at(100).read("A1")
    m.at(110).read(*between, untried="A2 B2")
    m.at(135).read("A1")
    assert "B" in {name_of(v) for v in m.serves}
    m.at(165).read("A1")
    assert m.serves == ["A1"]


def test_a_name_that_goes_while_another_rotates_is_dropped_in_time() -> None:
    """The rotation is still waited for, and still whole."""
    m = Machine("A1", "B1", "C1")
    m.at(0).read("A1", "A2", "B1", untried="A2")
    assert m.serves == ["A1", "B1", "C1"]
    step = m.at(30).read("A1", "A2", "B1", "B2", untried="A2 B2")
    assert step.dropped == {"C": "its entry is gone from the container"}
    assert (m.serves, step.again_in) == (["A1", "B1"], SETTLE_POLL_S)
    m.at(32).read("A2", "B2")
    assert m.serves == ["A2", "B2"]


def test_everything_is_gone() -> None:
    """An empty container is an answer like another."""
    m = Machine("A1", "B1")
    m.at(1).read()
    m.at(31).read()
    assert m.serves == []


def test_a_dropped_name_can_be_added_again_in_the_same_version() -> None:
    """It has to be read again, since it is held no more."""
    m = Machine("A1", "B1")
    m.at(1).read("A1")
    m.at(31).read("A1")
    m.at(40).read("A1", "B1")
    assert m.serves == ["A1", "B1"]


# --- payload 404 ---


@pytest.mark.parametrize("reason", list(Unread))
def test_a_new_version_that_can_not_be_read_holds_up_the_others_for_a_minute(reason: Unread) -> None:
    """Then they are published and the name is kept, marked, and tried again."""
    m = Machine("A1", "B1")
    step = m.at(0).read("A2", "B2", A2=reason)
    assert (step.versions, step.again_in) == (None, SETTLE_POLL_S)
    m.at(SETTLE_S - 1).read("A2", "B2", A2=reason)
    assert m.serves == ["A1", "B1"]
    step = m.at(SETTLE_S).read("A2", "B2", A2=reason)
    assert (m.serves, told(remarks(step).kept), step.dropped) == (["A1", "B2"], "A", {})
    step = m.at(SETTLE_S + 60).read("A2", "B2")
    assert (m.serves, told(remarks(step).kept)) == (["A2", "B2"], "")


@pytest.mark.parametrize("reason", list(Unread))
def test_a_broken_version_that_was_waited_for_does_not_split_a_later_rotation(reason: Unread) -> None:
    """Neither an unrelated pair, nor the pair to which the broken name belongs."""
    m = Machine("A1", "B1", "C1", policy=Policy(revocation_grace=1e6))
    m.at(0).read("A2", "B1", "C1", A2=reason)
    m.at(SETTLE_S).read("A2", "B1", "C1", A2=reason)
    m.at(1000).read("A2", "B1", "B2", "C1", A2=reason)
    m.at(1001).read("A2", "B2", "C1", "C2", A2=reason)
    assert m.serves == ["A1", "B1", "C1"]
    m.at(1002).read("A2", "B2", "C2", A2=reason)
    assert m.serves == ["A1", "B2", "C2"]
    m.at(2000).read("A2", "A3", "B2", "C2", A2=reason)
    assert m.serves == ["A1", "B2", "C2"]
    m.at(2001).read("A3", "B2", "B3", "C2")
    m.at(2002).read("A3", "B3", "C2")
    assert m.serves == ["A3", "B3", "C2"]


@pytest.mark.parametrize("reason", list(Unread))
def test_a_new_name_that_can_not_be_read_is_pending_after_a_minute(reason: Unread) -> None:
    """It may belong to what rotated with it, so it is waited for like the others."""
    m = Machine("A1")
    m.at(0).read("A2", "B1", B1=reason)
    assert m.serves == ["A1"]
    step = m.at(SETTLE_S).read("A2", "B1", B1=reason)
    assert (m.serves, told(remarks(step).pending), told(remarks(step).kept), step.dropped) == (
        ["A2"],
        "B",
        "",
        {},
    )
    step = m.at(5000).read("A2", "B1", B1=reason)
    assert (m.serves, told(remarks(step).pending), step.dropped) == (["A2"], "B", {})


def test_of_a_double_the_readable_one_is_taken_and_marked() -> None:
    """The other may be newer."""
    m = Machine("A1")
    m.at(0).read("A1", "A2", "A3", A3=FAILED)
    step = m.at(SETTLE_S).read("A1", "A2", "A3", A3=FAILED)
    assert (m.serves, told(remarks(step).kept)) == (["A2"], "A")


@pytest.mark.parametrize("listed", [("A1",), ("A1", "B1", "B2"), ("A2",)])
def test_a_payload_that_is_absent_is_dropped_once_its_own_expiry_has_passed(listed: tuple[str, ...]) -> None:
    """Also while another rotates, and also when a successor that is absent too took its place."""
    m = Machine("A1", "B1", expires=EXPIRES)
    m.held[SecretName("B")] = facts("B1")
    m.at(99).read("A1", "B1")
    assert m.serves == ["A1", "B1"]
    assert "A1" in known(m.held, m.now)
    m.at(100)
    assert "A1" not in known(m.held, m.now)
    step = m.read(*{*listed, "B1"}, A1=ABSENT, A2=ABSENT, B2=ABSENT)
    assert step.dropped == {"A": "it has expired"}
    assert m.serves == ["B1"]


@pytest.mark.parametrize("reason", [DENIED, FAILED])
def test_an_expiry_that_barbican_does_not_confirm_drops_nothing(reason: Unread) -> None:
    """Only its 404 tells that a secret is gone; it may have been this machine's clock."""
    m = Machine("A1", expires=EXPIRES)
    m.at(200).read("A1", A1=reason)
    assert m.serves == ["A1"]
    m.at(202).read("A1")
    assert m.serves == ["A1"]


def test_a_wall_clock_that_was_wrong_for_a_while_drops_nothing() -> None:
    """A clock a year ahead asks Barbican, which serves; a clock set back waits for its own time."""
    m = Machine("A1", expires=EXPIRES)
    m.wall += 3e7
    m.at(10).read("A1")
    assert m.serves == ["A1"]
    m = Machine("A1", expires=EXPIRES)
    m.wall = EXPIRES
    held, boot = m.held, m.boot
    m.wall -= 50  # set back between the question, which named A1, and the decision
    reading = Reading((Entry(SecretName("A"), Version("A1")),), {}, {Version("A1"): ABSENT})
    step = after_reading(held, reading, m.progress, m.policy, Moment(boot, m.wall))
    assert (step.versions, step.dropped) == (None, {})


def test_an_expired_secret_stays_while_its_successor_may_only_have_failed() -> None:
    """One 404 among the answers is not enough."""
    m = Machine("A1", expires=EXPIRES)
    m.at(100).read("A1", "A2", A1=ABSENT, A2=FAILED)
    assert m.serves == ["A1"]
    m.at(200).read("A1", "A2", A1=ABSENT)
    assert m.serves == ["A2"]


# --- 403, 401 ---


def test_a_refused_container_is_served_for_its_grace_then_dropped() -> None:
    """The clock runs from the first refusal, through time-outs, on its own."""
    m = Machine("A1", "B1")
    step = m.at(100).fail(REFUSED)
    assert (step.versions, step.again_in) == (None, 900)
    assert m.at(500).fail(REFUSED).again_in == 500
    assert m.at(600).fail(AWAY).again_in == 400
    assert m.at(999.5).look().versions is None
    step = m.at(1000).look()
    assert (m.serves, step.versions) == ([], {})
    assert set(step.dropped.values()) == {"access was taken away"}


def test_a_grace_of_nought_drops_at_the_first_refusal() -> None:
    """The operator's choice."""
    m = Machine("A1", policy=Policy(revocation_grace=0))
    assert m.at(1).fail(REFUSED).versions == {}


@pytest.mark.parametrize("listed", [("A1",), ("A1", "A2"), ("A2",), ()])
def test_any_answer_of_barbican_ends_a_refusal(listed: tuple[str, ...]) -> None:
    """Also one that publishes nothing; the next refusal has its whole grace."""
    m = Machine("A1")
    m.at(100).fail(REFUSED)
    m.at(900).read(*listed, untried="A2")
    assert m.progress.denied_since is None
    m.at(901).fail(REFUSED)
    m.at(1800).look()
    assert m.serves == ["A1"]
    m.at(1801).look()
    assert m.serves == []


def test_a_refused_payload_is_served_for_its_grace_then_dropped() -> None:
    """Time-outs and readings that do not try it do not give the access back."""
    m = Machine("A1", "B1", policy=Policy(revocation_grace=500))
    m.at(0).read("A2", "B1", A2=DENIED)
    m.at(SETTLE_S).read("A2", "B1", A2=DENIED)
    m.at(100).read("A2", "B1", A2=FAILED)
    m.at(200).read("A2", "B1", "B2", untried="A2 B2")
    m.at(210).fail(AWAY)
    step = m.at(220).read("A2", "B2", A2=DENIED)
    assert (m.serves, told(remarks(step).kept), step.again_in) == (["A1", "B2"], "A", 280)
    step = m.at(500).look()
    assert m.serves == ["B2"]
    assert step.dropped == {"A": "access to its payload was taken away"}
    step = m.at(600).read("A2", "B2", A2=DENIED)
    assert (m.serves, told(remarks(step).pending), step.dropped) == (["B2"], "A", {})


def test_an_entry_that_goes_does_not_end_the_refusal_of_its_payload() -> None:
    """Barbican, away before the second reading without the entry, would keep it served."""
    m = Machine("A1", policy=Policy(revocation_grace=500))
    m.at(0).read("A2", A2=DENIED)
    m.at(490).read()
    m.at(495).fail(AWAY)
    m.at(500).look()
    assert m.serves == []


def test_a_refused_payload_is_dropped_also_while_another_name_rotates() -> None:
    """A rotation that does not end must not outlast a grace."""
    m = Machine("A1", "B1", policy=Policy(revocation_grace=10))
    m.at(0).read("A2", "B1", A2=DENIED)
    step = m.at(10).read("A2", "B1", "B2", untried="A2 B2")
    assert step.dropped == {"A": "access to its payload was taken away"}
    assert m.serves == ["B1"]


@pytest.mark.parametrize(
    ("listed", "unread"), [("A2", {}), ("A1", {}), ("A2", {"A2": ABSENT}), ("A1 A2", {"A2": DENIED})]
)
def test_access_to_a_payload_that_came_back_ends_the_refusal(listed: str, unread: dict[str, Unread]) -> None:
    """Read, or listed as it is held, or answered with 404: Barbican lets us in."""
    m = Machine("A1", policy=Policy(revocation_grace=500))
    m.at(0).read("A2", A2=DENIED)
    m.at(SETTLE_S).read("A2", A2=DENIED)
    m.at(400).read(*listed.split(), **unread)
    assert m.progress.denied == {}
    m.at(410).read("A3", A3=DENIED)
    m.at(600).read("A3", A3=DENIED)
    assert len(m.serves) == 1
    m.at(910).look()
    assert m.serves == []


# --- transient failures, max_stale ---


def test_a_transient_failure_drops_nothing_ever() -> None:
    """By default there is no ``max_stale``."""
    m = Machine("A1", "B1")
    for boot in (1, 1e3, 1e6, 1e9):
        step = m.at(boot).fail(AWAY)
        assert (step.versions, step.again_in) == (None, None)
    assert m.serves == ["A1", "B1"]


def test_what_was_not_confirmed_for_longer_than_max_stale_is_dropped_per_secret() -> None:
    """A has its own, B the default, C none."""
    policy = Policy(max_stale={SecretName("A"): 100.0, SecretName("C"): math.inf}, default_max_stale=200.0)
    m = Machine("A1", "B1", "C1", policy=policy)
    assert m.at(10).fail(AWAY).again_in == 90
    assert m.at(100).look().dropped == {"A": "not confirmed for longer than max_stale"}
    assert m.look().again_in == 100
    assert m.at(200).look().dropped == {"B": "not confirmed for longer than max_stale"}
    assert m.look().again_in is None
    assert m.at(1e9).fail(AWAY).versions is None


def test_a_kept_version_is_not_confirmed_by_readings_that_list_another() -> None:
    """Barbican agrees with B, not with A: A's ``max_stale`` runs from when A1 was listed last."""
    m = Machine("A1", "B1", policy=Policy(default_max_stale=300))
    m.at(50).read("A1", "B1")
    m.at(60).read("A2", "B1", A2=FAILED)
    m.at(200).read("A2", "B1", A2=FAILED)
    assert m.progress.confirmed == 200
    step = m.at(300).read("A2", "B1", A2=FAILED)
    assert step.again_in == 50
    step = m.at(350).look()
    assert (m.serves, step.dropped) == (["B1"], {"A": "not confirmed for longer than max_stale"})


def test_a_version_that_was_published_has_a_fresh_max_stale() -> None:
    """What its predecessor waited is forgotten."""
    m = Machine("A1", policy=Policy(default_max_stale=300))
    m.at(100).read("A2", A2=FAILED)
    m.at(250).read("A2")
    m.at(301).look()
    assert m.serves == ["A2"]
    m.at(550).look()
    assert m.serves == []


def test_while_a_rotation_is_waited_for_the_age_is_honest() -> None:
    """Doubles still list what is held, which confirms it; once it is replaced, nothing does."""
    m = Machine("A1", "B1")
    m.at(10).read("A1", "A2", "B1", untried="A2")
    assert m.progress.confirmed == 10
    m.at(20).read("A2", "B1", "B2", untried="A2 B2")
    assert m.progress.confirmed == 10
    m.at(30).read("A2", "B2")
    assert m.progress.confirmed == 30


# --- waits ---


def test_a_loop_over_the_machine_ends_and_never_hammers() -> None:
    """Whoever follows ``again_in`` reads at most once a second."""
    m = Machine("A1", "B1", "C1", policy=Policy(revocation_grace=30.5, default_max_stale=1000))
    boot, readings = 0.0, 0
    while boot < 2000:
        step = m.at(boot).read("A2", "C1", A2=DENIED)
        readings += 1
        assert step.again_in is None or step.again_in >= MIN_S
        boot += step.again_in or 900.0
    assert m.serves == ["C1"]
    assert readings < 60


@pytest.mark.parametrize("policy", [Policy(), Policy(0.0), Policy(1e-300, {}, 1e-300), Policy(5.0, {}, 0.1)])
def test_looking_again_in_time_always_gets_on(policy: Policy) -> None:
    """``overdue`` has dropped, or tells a time in the future: no busy loop from rounding."""
    m = Machine("A1", policy=policy)
    m.at(1e7 + 0.1).fail(REFUSED)
    for _ in range(3):
        step = m.look()
        assert step.again_in is None or step.again_in > 0
        if step.again_in is not None:
            m.at(m.boot + step.again_in)
    assert m.serves == []
