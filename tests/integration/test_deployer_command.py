"""The kind ``command`` with real executables, run by real processes of deployer/hook: contract, faults."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import pytest

from common.errors import VpsSecretsError
from common.limits import MAX_PAYLOAD
from common.names import SecretName
from deployer.config.zones import zone
from deployer.core.blueprint import parse
from deployer.core.options import CommandOptions
from deployer.hook import asking, process
from deployer.hook.messages import Request, receive_request
from deployer.kinds.command import Command, Rule
from deployer.kinds.kind import Facts, KindError
from deployer.kinds.value import Value
from lab.testbed.running import raw
from lab.testbed.tenant import Hook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CANARY: Final = b"canary-3e7d15b0"
VERSION: Final = "0b5a7c5e-2d0e-4c1c-9b0a-3f6f7d7d0b11"
Bed = tuple[Command, Facts]


class Maker:
    """Writes executables into a folder, and tells what they have left there."""

    def __init__(self, folder: Path, hook: Hook) -> None:
        self.folder = folder
        self.hook = hook

    def __call__(self, script: str, keys: str = "", rule: Rule | None = None) -> Bed:
        """Return the kind with one executable (``$D`` is its folder), and the facts of a secret of it."""
        path = self.folder / "hook"
        path.write_text(f"#!/bin/bash\nD={self.folder}\n{script}\n")
        path.chmod(0o755)
        text = f'[A]\nkind = "command"\ncommand = "{path}"\nrotate = "90d"\n{keys}'
        spec = parse(text.encode(), Path("b.toml"), zone).secrets[SecretName("A")]
        facts = Facts("vps-1", spec.name, "", VERSION, "r-1", spec)
        rule = rule or Rule()
        self.hook.allow(path, timeout=rule.timeout)
        return Command({PurePosixPath(path): rule}, self.hook.socket), facts

    def left(self, name: str) -> bytes:
        """Return a file that an executable wrote."""
        return (self.folder / name).read_bytes()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hook]:
    """What runs executables."""
    with Hook(tmp_path_factory.mktemp("running")) as made:
        yield made


@pytest.fixture
def hook(tmp_path: Path, running: Hook) -> Maker:
    """Executables in a folder of their own."""
    return Maker(tmp_path, running)


def fails(act: Callable[[], object], match: str) -> KindError:
    """Return the error of a step; it holds neither the value nor what the executable said of it."""
    with pytest.raises(KindError, match=match) as caught:
        act()
    assert "canary" not in str(caught.value) + repr(caught.value.__context__)
    return caught.value


def test_each_step_gets_its_facts_and_its_value(hook: Maker) -> None:
    """The step is the one argument; facts are one line of JSON; descriptor 3 has the value, byte for byte."""
    script = """
cat >$D/$1.facts
printf '%s' "$#" >$D/$1.arguments
if { true <&3; } 2>/dev/null; then cat <&3 >$D/$1.value; fi
if { true >&4; } 2>/dev/null; then touch $D/$1.creates; fi"""
    kind, facts = hook(script)
    content = b" \0canary\xff\n" * 900
    with Value(content) as value:
        kind.preflight(facts)
        kind.apply(facts, value)
        kind.test(facts, value)
        kind.retire(facts)
        kind.lock(facts)
    for step in ("plan", "apply", "test", "retire", "lock"):
        assert json.loads(hook.left(f"{step}.facts")) == {
            "step": step,
            "vps": "vps-1",
            "name": "A",
            "slot": "",
            "secret": VERSION,
            "rotation": "r-1",
        }
        assert hook.left(f"{step}.arguments") == b"1"
        assert not (hook.folder / f"{step}.creates").exists()
    assert hook.left("apply.value") == hook.left("test.value") == content
    assert not (hook.folder / "plan.value").exists()
    assert not (hook.folder / "retire.value").exists()


def test_the_deployer_makes_the_value_unless_the_command_creates_it(hook: Maker) -> None:
    """From descriptor 4, byte for byte, up to the bound; and no other step may give one."""
    kind, facts = hook("exit 9", 'bytes = 20\nencoding = "hex"\n')
    with kind.make(facts) as value:
        assert len(bytes(value.reveal())) == 40
    kind, facts = hook('[ "$1" = create ] && head -c 65536 /dev/zero >&4', "creates = true\n")
    with kind.make(facts) as value:
        assert bytes(value.reveal()) == bytes(MAX_PAYLOAD)
    kind, facts = hook(r"printf ' canary\0\n' >&4", "creates = true\n")
    with kind.make(facts) as value:
        assert bytes(value.reveal()) == b" canary\0\n"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("true", "wrote nothing"),
        ("head -c 65537 /dev/zero >&4", "more than 65536"),
        ("printf x", "wrote nothing"),
    ],
)
def test_what_is_no_value_is_refused(hook: Maker, script: str, told: str) -> None:
    """Nothing at all, too much, or on the wrong descriptor."""
    kind, facts = hook(script, "creates = true\n")
    assert fails(lambda: kind.make(facts), told).permanent


@pytest.mark.parametrize(
    ("script", "told", "permanent"),
    [
        ("exit 1", "asks to be tried again", False),
        ("exit 2", "never will", True),
        ("exit 3", "status 3, which the contract does not have", False),
        ("kill -SEGV $$", "signal 11", False),
        ("echo the provider is down >&2; exit 1", "it said: the provider is down", False),
        ("echo 'Provider: unknown account.'; exit 2", "it said: Provider: unknown account.", True),
        ("echo key AKIA12345 x9_z is gone; exit 1", "it said: key … is gone", False),
        ("cat <&3; exit 1", "tried again$", False),
        ("cat <&3 >&2; echo; echo refused; exit 1", "it said: … refused", False),
        ("yes provider | head -c 9000000; exit 1", "it said: provider", False),
        ("echo /etc/passwd 'a=b' $'\\e[31m'; exit 1", "tried again$", False),
    ],
)
def test_exit_statuses_and_words(hook: Maker, script: str, told: str, permanent: bool) -> None:  # noqa: FBT001
    """What it said is shortened to words that are no part of a value."""
    kind, facts = hook(script)
    with Value(CANARY) as value:
        error = fails(lambda: kind.apply(facts, value), told)
    assert error.permanent is permanent
    assert len(str(error)) < 600


def test_words_of_the_value_are_left_out(hook: Maker) -> None:
    """Where it is made of words itself, as some passwords are; also where the command has just created it."""
    kind, facts = hook("echo 'invalid: Correct horse battery staple, or so'; exit 1")
    with Value(b"correct horse battery staple") as value:
        error = fails(lambda: kind.apply(facts, value), "it said: invalid: … or so")
    assert "horse" not in str(error)
    kind, facts = hook("printf 'correct horse' >&4; echo made horse badly; exit 1", "creates = true\n")
    assert "horse" not in str(fails(lambda: kind.make(facts), "it said: made … badly"))


def test_a_value_is_neither_in_arguments_nor_in_the_environment(hook: Maker) -> None:
    """Nor elsewhere in what it can read of its own process; nothing that is ours is handed on."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    assert hard, "this machine makes no core dumps at all"
    hook(
        "tr '\\0' ' ' </proc/$$/cmdline >$D/cmdline; tr '\\0' '\\n' </proc/$$/environ >$D/environ;"
        "ls -l /proc/$$/fd >$D/fds; cat <&3 >/dev/null; ulimit -c >$D/core; cat /proc/$$/stat >$D/stat"
    )
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)  # as of a shell or of systemd  # noqa: FBT003
    os.environ["DEPLOYER_CANARY"] = CANARY.decode()
    given = {process.FACTS: b"{}\n", process.VALUE: CANARY}
    ours, worker = socket.socketpair()
    try:
        with (
            ours,
            worker,
            process.Run(PurePosixPath(hook.folder, "hook"), "apply", given, None) as run,
        ):
            assert run.wait(30, ours.fileno()).status == 0
    finally:
        del os.environ["DEPLOYER_CANARY"]
        os.close(reading)
        os.close(writing)
    for name in ("cmdline", "environ", "fds"):
        assert b"canary" not in hook.left(name)
    names = {line.partition(b"=")[0] for line in hook.left("environ").splitlines()}
    assert names == {b"PATH", b"LANG"}
    descriptors = {int(line.split(b" -> ")[0].split()[-1]) for line in hook.left("fds").splitlines()[1:]}
    assert descriptors - {255} == {0, 1, 2, 3}  # 255 is bash's own, for its script
    assert hook.left("core") == b"0\n"
    session = hook.left("stat").rpartition(b")")[2].split()
    assert session[2] == session[3] != str(os.getsid(0)).encode()  # a group and a session of its own


def test_the_credential_is_on_descriptor_5(hook: Maker) -> None:
    """Where deployer.toml names one; what can't be read is told before anything runs."""
    kind, facts = hook("cat <&5 >$D/credential", rule=Rule(credential=lambda: b"key-canary"))
    kind.retire(facts)
    assert hook.left("credential") == b"key-canary"

    def missing() -> bytes:
        raise VpsSecretsError("it is not there")

    kind, facts = hook("touch $D/ran", rule=Rule(credential=missing))
    assert fails(lambda: kind.retire(facts), "its credential: it is not there").permanent
    assert not (hook.folder / "ran").exists()


def _gone(pid: int) -> bool:
    """Tell whether a process is no more, or only its parent has not asked for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def until_gone(pid: int) -> None:
    """Wait until a process is no more: a kill takes effect when the kernel gets to it."""
    until(lambda: _gone(pid))


def test_at_the_deadline_it_and_its_children_are_killed(hook: Maker) -> None:
    """Whatever signals they ignore; then it may be tried again."""
    script = (
        "trap '' TERM INT HUP; sleep 1000 & echo $! >$D/child; echo $$ >$D/parent; cat <&3 >/dev/null; wait"
    )
    kind, facts = hook(script, rule=Rule(timeout=1.0))
    with Value(CANARY) as value:
        error = fails(lambda: kind.apply(facts, value), "not done after 1 s")
    assert not error.permanent
    until_gone(int(hook.left("parent")))
    until_gone(int(hook.left("child")))


def test_what_it_leaves_behind_is_killed_when_it_ends(hook: Maker) -> None:
    """A child in the background that holds every pipe open delays nothing and lives no longer."""
    kind, facts = hook("sleep 1000 & echo $! >$D/child; cat <&3 >$D/value")
    with Value(CANARY) as value:
        kind.apply(facts, value)
    assert hook.left("value") == CANARY
    until_gone(int(hook.left("child")))


def test_a_command_that_reads_nothing_gets_no_further_than_its_pipes(hook: Maker) -> None:
    """A value larger than a pipe, facts nobody reads: it is done when it says so."""
    kind, facts = hook("exec 0<&- 3<&-; exit 0")
    with Value(bytes(MAX_PAYLOAD)) as value:
        kind.apply(facts, value)
    kind, facts = hook("cat <&3 | sha256sum >$D/sum")
    with Value(bytes(MAX_PAYLOAD)) as value:
        kind.apply(facts, value)
    assert hook.left("sum").startswith(b"de2f256064a0af797747c2b97505dc0b")


def test_only_what_deployer_toml_lists_is_run(hook: Maker) -> None:
    """By any step, whatever a blueprint names."""
    kind, facts = hook("touch $D/ran")
    unlisted = Command({}, hook.hook.socket)
    for act in (unlisted.preflight, unlisted.retire, unlisted.lock):
        assert fails(partial(act, facts), "no .*command.* with this path").permanent
    hook.hook.allow()  # nor where a worker that was taken over asks for it
    assert fails(partial(kind.preflight, facts), "no .*command.* with this path").permanent
    fails(partial(kind.retire, facts), "no .*command.* with this path")
    assert not (hook.folder / "ran").exists()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.chmod(0o775), "others can change it"),
        (lambda path: path.chmod(0o757), "others can change it"),
        (lambda path: os.chown(path, 65534, 0), "others can change it"),
        (lambda path: path.chmod(0o644), "no file that"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "no file that"),
    ],
)
def test_a_file_that_must_not_be_run_is_found_before_anything_is_made(
    hook: Maker, spoil: Callable[[Path], object], told: str
) -> None:
    """Somebody else could put another program there."""
    kind, facts = hook("true")
    spoil(hook.folder / "hook")
    assert fails(lambda: kind.preflight(facts), told).permanent


def test_a_file_that_is_no_program_can_be_tried_again(hook: Maker) -> None:
    """An operator may be replacing it."""
    kind, facts = hook("true")
    (hook.folder / "hook").write_text("no program")
    assert not fails(lambda: kind.retire(facts), "can't be started: Exec format error").permanent
    (hook.folder / "hook").unlink()
    assert not fails(lambda: kind.retire(facts), "can't be run: No such file").permanent


def test_two_accounts_in_turn(hook: Maker) -> None:
    """The slot is a fact."""
    kind, facts = hook("cat >$D/facts", 'slots = ["key-a", "key-b"]\n')
    assert kind.slots(facts.spec) == ("key-a", "key-b")
    kind.retire(replace(facts, slot="key-b"))
    assert json.loads(hook.left("facts"))["slot"] == "key-b"


def test_no_descriptor_is_left(hook: Maker) -> None:
    """After success, failure, a deadline, and what could not be started."""
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for script, timeout in (("true", 30.0), ("exit 1", 30.0), ("sleep 1000", 1.0)):
        kind, facts = hook(script, rule=Rule(timeout=timeout))
        with Value(CANARY) as value:
            with contextlib.suppress(KindError):
                kind.apply(facts, value)
            (hook.folder / "hook").unlink()
            fails(partial(kind.apply, facts, value), "can't be run")
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_it_ends_with_whoever_asked(hook: Maker) -> None:
    """A worker that was killed tries again: what the former one had begun must not go on beside that."""
    hook("echo $$ >$D/started; sleep 1000")
    request = Request(PurePosixPath(hook.folder, "hook"), "retire", {process.FACTS: b"{}\n"})
    with socket.socket(socket.AF_UNIX) as worker:
        worker.connect(str(hook.hook.socket))
        request.send(worker, 30)
        until((hook.folder / "started").exists)
        until(lambda: bool(hook.left("started")))
    until_gone(int(hook.left("started")))


class Answering:
    """A process on the socket that does as a test says: one that an executable took over."""

    def __init__(self, path: Path, act: Callable[[socket.socket], object]) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._act = act
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, contextlib.suppress(OSError):
            self._act(connection)


def framed(head: object, more: bytes = b"", *, length: int | None = None) -> bytes:
    """Return an answer with this head."""
    content = json.dumps(head).encode() if not isinstance(head, bytes) else head
    return (len(content) if length is None else length).to_bytes(4, "big") + content + more


GOOD: Final = {"status": 0, "said": 0, "created": 0, "refused": ""}


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"", "ended without an answer"),
        (b"\0\0", "ended without an answer"),
        (framed(GOOD)[:-1], "ended without an answer"),
        (framed({**GOOD, "created": 5}, b"cana"), "ended without an answer"),
        (framed(b"canary"), "not JSON"),
        (framed(b"x", length=1_000_000_000), "the head is too large"),
        (framed([]), "not an object"),
        (framed({**GOOD, "canary": 1}), "other keys"),
        (framed({**GOOD, "status": True}), "status is none"),
        (framed({**GOOD, "status": "canary"}), "status is none"),
        (framed({**GOOD, "status": 256}), "status is none"),
        (framed({**GOOD, "said": 4097}), "not between"),
        (framed({**GOOD, "said": -1}), "not between"),
        (framed({**GOOD, "created": 65538}), "not between"),
        (framed({**GOOD, "refused": 1}), "no text"),
    ],
    ids=range(15),
)
def test_an_answer_that_is_none_is_told(hook: Maker, tmp_path: Path, sent: bytes, told: str) -> None:
    """Whoever took the process over says what he likes: nothing of it is repeated, and no more is read."""
    _, facts = hook("true")
    path = tmp_path / "s"
    kind = Command({facts.options(CommandOptions).path: Rule()}, path)
    with Value(CANARY) as value, Answering(path, lambda connection: _answers(connection, sent)):
        error = fails(lambda: kind.apply(facts, value), told)
    assert not error.permanent
    assert "vps-secrets-deployer-hook@" in str(error)


def _answers(connection: socket.socket, sent: bytes) -> None:
    receive_request(connection, 30)
    connection.sendall(sent)


def test_a_refusal_is_one_line_that_can_be_printed(hook: Maker, tmp_path: Path) -> None:
    """And no longer than a message may be."""
    _, facts = hook("true")
    path = tmp_path / "s"
    kind = Command({facts.options(CommandOptions).path: Rule()}, path)
    sent = framed({**GOOD, "refused": "\x1b[31m\n" + "x" * 2000})
    with Answering(path, lambda connection: _answers(connection, sent)):
        error = fails(lambda: kind.retire(facts), r"\\x1b\[31m\\nx")
    assert len(str(error)) < 700


def test_a_process_that_hangs_is_given_up(
    hook: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that never answers, or a byte now and then, has no more time than the step and a start may take."""
    monkeypatch.setattr(asking, "START_S", 0.3)
    _, facts = hook("true")
    for number, act in enumerate((_wait_for_the_end, _dribble)):
        path = tmp_path / f"s{number}"
        kind = Command({facts.options(CommandOptions).path: Rule(timeout=0.2)}, path)
        with Answering(path, act):
            error = fails(partial(kind.retire, facts), "has not answered for 0.5 s")
        assert not error.permanent


def _wait_for_the_end(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def _dribble(connection: socket.socket) -> None:
    connection.sendall((8000).to_bytes(4, "big"))
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def test_nobody_there_is_told_with_what_to_do(hook: Maker, tmp_path: Path) -> None:
    """The unit that listens may not have been started."""
    _, facts = hook("true")
    kind = Command({facts.options(CommandOptions).path: Rule()}, tmp_path / "none")
    error = fails(
        lambda: kind.preflight(facts), "No such file.*systemctl start vps-secrets-deployer-hook.socket"
    )
    assert not error.permanent


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        framed({"path": "/bin/true", "step": "canary", "given": {}}),
        framed({"path": "/bin/true", "step": "plan", "given": {"2": 1}}),
        framed({"path": "/bin/true", "step": "plan", "given": {"3": 65537}}),
        framed({"path": "/bin/true", "step": "plan", "given": {"3": -1}}),
        framed({"path": ["/bin/true"], "step": "plan", "given": {}}),
        framed({"path": "/bin/true", "step": "plan", "given": {"3": 65536}}, b"x"),
    ],
    ids=range(7),
)
def test_a_request_that_is_none_runs_nothing(hook: Maker, sent: bytes) -> None:
    """It gets no answer; the next one is served."""
    kind, facts = hook("true")
    assert raw(hook.hook.socket, sent, half_close=True) == b""
    kind.preflight(facts)
    assert "canary" not in hook.hook.log.read_text()


def test_another_user_may_not_have_commands_run(hook: Maker) -> None:
    """Where he can connect: the socket's mode is not all that stands there."""
    hook("touch $D/ran")
    for folder in (hook.hook.socket.parent, *hook.hook.socket.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    hook.hook.socket.chmod(0o666)
    nobody = pwd.getpwnam("nobody").pw_uid
    ask = (
        f"import os, socket, sys; os.setgroups([]); os.setuid({nobody}); s = socket.socket(socket.AF_UNIX);"
        f"s.connect(sys.argv[1]); sys.stdout.buffer.write(s.recv(4096))"
    )
    said = subprocess.run(
        [sys.executable, "-c", ask, str(hook.hook.socket)], capture_output=True, check=True, timeout=60
    ).stdout
    assert b"this user may not" in said
    assert f"uid {nobody}" in hook.hook.log.read_text()
    assert not (hook.folder / "ran").exists()


def test_signals_are_as_a_program_expects_them(hook: Maker) -> None:
    """Python ignores SIGPIPE: a pipeline of the command would go on for ever."""
    kind, facts = hook("yes | head -n 1 >/dev/null; echo ${PIPESTATUS[0]} >$D/status")
    kind.retire(facts)
    assert hook.left("status") == b"141\n"
    assert subprocess.run(["true"], check=True).returncode == 0  # nothing of ours has changed
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    assert process.ENVIRONMENT.keys() == {"PATH", "LANG"}
