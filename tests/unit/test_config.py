"""agent/config/reader.py: every mistake at once, with file and key, never a value; the example is right."""

import os
import re
import secrets
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config.model import Config, Method
from agent.config.reader import MAX_FILE, NOT_FETCH, load
from common.errors import ConfigurationError
from common.proxying import is_exempt
from common.toml_table import duration, url

EXAMPLE = Path(__file__).parents[2] / "packaging" / "agent.toml"
UUID = "0b5a7c5e-2d0e-4c1c-9b0a-3f6f7d7d0b11"
HEAD = f'vps_id = "vps-prod-001"\ncontainer = "{UUID}"\n'
LOGIN = '[keystone]\nauth_url = "https://k.example/v3"\napplication_credential_id = "abc"\n'
GRANT = '[[grant]]\nuser = "u"\nsecrets = ["*"]\n'


def _load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return load(path)


def _mistakes(tmp_path: Path, text: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigurationError) as caught:
        _load(tmp_path, text)
    for mistake in caught.value.mistakes:
        assert mistake.file == str(tmp_path / "agent.toml")
        assert str(mistake) in str(caught.value)
    return [(mistake.key, mistake.expected) for mistake in caught.value.mistakes]


def _keys(tmp_path: Path, text: str) -> list[str]:
    return sorted(key for key, _ in _mistakes(tmp_path, text))


def test_the_example_is_right() -> None:
    """The packaged default parses as it is."""
    config = load(EXAMPLE)
    assert config.keystone.method is Method.APPLICATION_CREDENTIAL
    assert config.keystone.credential.name == "keystone-credential"
    assert config.container.reference is not None
    assert config.container.reference.endswith(config.container.id)


def test_every_commented_key_of_the_example_exists_and_shows_its_default(tmp_path: Path) -> None:
    """Uncommented, the example means the same, but for the keys that have no default to show."""
    without_default = {
        *("username", "user_domain", "project", "project_domain", "cloud", "clouds_file"),
        *(
            "credential_file",
            "credential_fd",
            "region",
            "ca_file",
            "endpoint_override",
            "socket",
            "sealing_key_file",
            "proxy_user",
            "proxy_credential",
            "proxy_credential_file",
        ),
        *("group", "unit", "after_max_stale", "DATABASE_URL", "calls_per_month", "url"),
    }
    text = EXAMPLE.read_text()
    for key in ("url", "proxy"):  # without it the other keys of the beacon or the proxy have no effect
        text = text.replace(f"# {key} = ", f"{key} = ")
    lines, seen = [], 0
    for line in text.splitlines():
        match = re.fullmatch(r"# ([A-Za-z_]+)( = .*)", line)
        if match and match[1] not in without_default:
            seen += 1
            lines.append(match[1] + match[2])
        else:
            lines.append(line)
    before = _load(tmp_path, text)
    after = _load(tmp_path, "\n".join(lines))
    assert seen > 20
    assert {f: getattr(before, f) for f in Config.__slots__ if f != "path"} == {
        f: getattr(after, f) for f in Config.__slots__ if f != "path"
    }


@pytest.mark.parametrize(
    "key", ["username", "cloud", "credential_file", "region", "ca_file", "unit", "group"]
)
def test_the_keys_without_default_exist_too(key: str, tmp_path: Path) -> None:
    """They are recognised: no mistake says that they are unknown."""
    text = re.sub(rf"(?m)^# ({key} = .*)$", r"\1", EXAMPLE.read_text())
    assert text != EXAMPLE.read_text()
    told = ""
    try:
        _load(tmp_path, text)
    except ConfigurationError as error:
        told = str(error)
    assert "is not a key" not in told


@pytest.mark.parametrize(
    ("written", "reference"),
    [
        (UUID.upper(), None),
        (f"https://b.example/v1/containers/{UUID}", f"https://b.example/v1/containers/{UUID}"),
        (
            f"HTTPS://B.Example:443/km/v1/containers/{UUID.upper()}/",
            f"https://b.example/km/v1/containers/{UUID}",
        ),
        (f"https://b.example/v1/secrets/{UUID}", ...),
        (f"https://b.example/v1/containers/{UUID}?x", ...),
        (f"https://u:p@b.example/v1/containers/{UUID}", ...),
        (f"b.example/v1/containers/{UUID}", ...),
        (f"/{UUID}", ...),
        (UUID[:-1], ...),
        ("https://b.example/v1/containers/", ...),
    ],
)
def test_the_container_however_it_is_written(tmp_path: Path, written: str, reference: object) -> None:
    """By its UUID or its reference, each in one form; anything else is a mistake."""
    text = HEAD.replace(UUID, written) + LOGIN
    if reference is ...:
        with pytest.raises(ConfigurationError, match="container's reference"):
            _load(tmp_path, text)
        return
    container = _load(tmp_path, text).container
    assert (container.id, container.reference) == (UUID, reference)


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("version", ["", "/v3"])
@pytest.mark.parametrize("written", ["https://k.example", "HTTPS://K.Example:443", "https://k.example."])
def test_addresses_are_loaded_in_one_form(tmp_path: Path, written: str, version: str, slash: str) -> None:
    """So that every call has the same base."""
    override = f'endpoint_override = "{written}/km{version.replace("3", "1")}{slash}"\n'
    login = LOGIN.replace(LOGIN.split('"')[1], f"{written}{version}{slash}") + override
    keystone = _load(tmp_path, HEAD + login).keystone
    assert keystone.auth_url == "https://k.example/v3"
    assert keystone.endpoint_override == "https://k.example/km"


def test_the_least_that_is_needed(tmp_path: Path) -> None:
    """Everything else has a default; fresh_for follows the poll."""
    config = _load(tmp_path, HEAD + LOGIN + '[rotation]\npoll_interval = "1h"\n')
    assert config.container.id == UUID
    assert config.container.reference is None
    assert config.staleness.fresh_for == 7200
    assert config.staleness.max_stale is None
    assert config.grants == ()
    assert config.rotation.start_jitter == config.rotation.spread == 4.2
    assert (config.app.mode, config.app.limits.connections) == (0o660, 1024)


def test_the_start_jitter_follows_from_the_fleet_unless_it_is_given(tmp_path: Path) -> None:
    """What is given holds for the start only: other events are spread by the fleet's size."""
    size = "[rotation]\nfleet_size = 10_000\n"
    rotation = _load(tmp_path, HEAD + LOGIN + size).rotation
    assert rotation.start_jitter == rotation.spread == 416.7
    rotation = _load(tmp_path, HEAD + LOGIN + size + 'start_jitter = "5s"\n').rotation
    assert (rotation.start_jitter, rotation.spread) == (5.0, 416.7)
    listing = _load(tmp_path, HEAD + LOGIN + size + "[fetch]\nlist_metadata = true\n")
    assert listing.rotation.spread == 250.0
    told = _load(tmp_path, HEAD + LOGIN + size + "[fetch]\nacknowledge = true\n")
    assert (told.rotation.spread, told.fetch.acknowledge, listing.fetch.acknowledge) == (500.0, True, False)


def test_a_beacon_may_be_a_whole_fleets(tmp_path: Path) -> None:
    """Its polls are spread as the fleet's starts are, unless something else is given."""
    found = _load(tmp_path, f'{HEAD}{LOGIN}[rotation]\nfleet_size = 240\n[beacon]\nurl = "https://b/c"\n')
    assert found.beacon is not None
    assert found.beacon.spread == found.rotation.spread == 10.0


def test_a_budget_that_can_be_kept(tmp_path: Path) -> None:
    """One poll a day is the least, or one in half of what a value may be old; the reason is told."""
    assert _load(tmp_path, HEAD + LOGIN).budget.calls_per_month is None
    daily = _load(tmp_path, f"{HEAD}{LOGIN}[budget]\ncalls_per_month = 31\n").budget
    assert (daily.calls_per_month, daily.longest_interval) == (31, 86400.0)
    stale = '[staleness]\nmax_stale = "2h"\n[staleness.secrets]\nA = "never"\n'
    hourly = _load(tmp_path, f"{HEAD}{LOGIN}{stale}[budget]\ncalls_per_month = 744\n").budget
    assert hourly.longest_interval == 3600.0
    ((_, expected),) = _mistakes(tmp_path, f"{HEAD}{LOGIN}{stale}[budget]\ncalls_per_month = 700\n")
    assert expected == (
        "must be at least 744: polls are never further apart than 3600 s, half of the shortest max_stale"
    )


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Whoever writes the file mends it in one go."""
    text = (
        'vps_id = "a/b"\n[keystone]\nauth_url = "http://k.example"\nusername = "u"\npasword = "p"\n'
        '[rotation]\npoll_interval = 15\nprevious_grace = "-1s"\n[app]\nmode = "0888"\nsocket = "rel"\n'
        '[log]\nlevel = "loud"\n[[grant]]\nsecrets = []\n[[grant]]\nsecrets = ["*"]\nuser = "a b"\n[extra]\n'
    )
    assert _keys(tmp_path, text) == [
        *("app.mode", "app.socket", "container", "extra", "grant 1", "grant 1.secrets", "grant 2.user"),
        *("keystone.auth_url", "keystone.pasword", "keystone.project", "log.level"),
        *("rotation.poll_interval", "rotation.previous_grace", "vps_id"),
    ]


@pytest.mark.parametrize(
    ("login", "keys"),
    [
        ("", ["keystone", "keystone.auth_url"]),
        ('auth_url = "https://k"\nusername = "u"\nproject = "p"', None),
        ('auth_url = "https://k"\napplication_credential_id = "a"\nusername = "u"', ["keystone.username"]),
        ('cloud = "c"', None),
        ('cloud = "c"\nauth_url = "https://k"', ["keystone.auth_url"]),
        ('cloud = "c"\nproject = "p"', ["keystone.project"]),
        (
            'auth_url = "https://k"\napplication_credential_id = "a"\ncredential = "x"\ncredential_fd = 3',
            ["keystone.credential_fd"],
        ),
        ('auth_url = "https://k"\napplication_credential_id = "a"\npassword = "x"', ["keystone.password"]),
    ],
)
def test_one_way_to_log_in(login: str, keys: list[str] | None, tmp_path: Path) -> None:
    """Exactly one must be complete; mixtures name the keys; a secret in the file is refused."""
    text = f"{HEAD}[keystone]\n{login}\n"
    if keys is None:
        _load(tmp_path, text)
    else:
        assert _keys(tmp_path, text) == keys


@pytest.mark.parametrize(
    ("tables", "keys"),
    [
        ('[staleness]\nfresh_for = "10m"', ["staleness.fresh_for"]),
        ('[staleness]\nafter_max_stale = "serve-stale"', ["staleness.after_max_stale"]),
        ('[staleness]\nmax_stale = "1m"', ["staleness.max_stale"]),
        ('[staleness.secrets]\n"a/b" = "1h"', ["staleness.secrets.'a/b'"]),
        ('[rotation]\nbackoff_base = "30s"\nbackoff_cap = "2s"', ["rotation.backoff_cap"]),
        ('[fetch]\ntimeout = "2s"', ["fetch.connect_timeout"]),
        ("[app.limits]\nconnections = 10\nconnections_per_uid = 11", ["app.limits.connections_per_uid"]),
        ("[app.limits]\nconnections = true", ["app.limits.connections"]),
        ("[app.limits]\nrequests_per_second = nan", ["app.limits.requests_per_second"]),
        ('[control]\nsocket = "/run/vps-secrets/app.sock"', ["control.socket"]),
        (f'[app]\nsocket = "/{"a" * 107}"', ["app.socket"]),
        ("grant = 3", ["keystone.grant"]),
        ('[[grant]]\nuser = "u"\nsecrets = ["a/b"]', ["grant 1.secrets"]),
        ('[[grant]]\nunit = "u"\nsecrets = ["a"]', ["grant 1.unit"]),
        (GRANT + GRANT, ["grant 2"]),
        (GRANT + GRANT.replace('"*"', '"JWT_SECRET"'), ["grant 2"]),
        (GRANT.replace('"*"', '"JWT_SECRET"') + GRANT.replace('"*"', '"JWT_*"'), ["grant 1"]),
        (GRANT.replace("secrets", 'unit = "u.service"\nsecrets') + GRANT, ["grant 1"]),
        ("[log]\nlevel = 1", ["log.level"]),
        ("[budget]\ncalls_per_month = 30", ["budget.calls_per_month"]),
        ("[budget]\ncalls_per_month = 0", ["budget.calls_per_month"]),
        (
            '[staleness]\nmax_stale = "2h"\n[budget]\ncalls_per_month = 743',
            ["budget.calls_per_month"],
        ),
        (
            '[staleness.secrets]\nA = "2h"\n[budget]\ncalls_per_month = 743',
            ["budget.calls_per_month"],
        ),
        ('[budget]\ncurrency = "euro"', ["budget.currency"]),
        ("[budget]\nprice_per_1000_calls = -1", ["budget.price_per_1000_calls"]),
        ("app = 1", ["keystone.app"]),
    ],
)
def test_what_has_no_effect_or_no_sense_is_refused(tables: str, keys: list[str], tmp_path: Path) -> None:
    """Each with its key."""
    assert _keys(tmp_path, f"{HEAD}{LOGIN}{tables}\n") == keys


@pytest.mark.parametrize(
    "second",
    ['group = "u"\nsecrets = ["*"]', 'user = "v"\nsecrets = ["*"]', 'unit = "u.service"\nsecrets = ["*"]'],
)
def test_grants_that_add_something_are_right(second: str, tmp_path: Path) -> None:
    """Other callers, or the same with other names."""
    assert len(_load(tmp_path, f"{HEAD}{LOGIN}{GRANT}[[grant]]\n{second}\n").grants) == 2
    pair = GRANT.replace("*", "A_*") + GRANT.replace("*", "B_*")
    assert len(_load(tmp_path, f"{HEAD}{LOGIN}{pair}").grants) == 2


@pytest.mark.parametrize("text", ["vps_id = ", 'a = "\\x"', "[[[", "a = 1\na = 2"])
def test_a_file_that_is_not_toml(text: str, tmp_path: Path) -> None:
    """The place is told, the text is not quoted."""
    ((key, expected),) = _mistakes(tmp_path, text)
    assert key == "(file)"
    assert re.fullmatch(r"is not TOML, (line \d+, column \d+|end of document)", expected)


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    """Missing, binary, nested too deep: told, never a traceback."""
    with pytest.raises(ConfigurationError, match="can't be read"):
        load(tmp_path / "missing")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load(binary)
    assert _keys(tmp_path, "a = " + "[" * 100_000) == ["(file)"]


@pytest.mark.parametrize("kind", ["directory", "FIFO", "device without an end", "file that is too long"])
def test_what_is_no_plain_file(kind: str, tmp_path: Path) -> None:
    """It is refused, without waiting for a writer and without reading all of it."""
    path = tmp_path / "agent.toml"
    if kind == "directory":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "file that is too long":
        path.write_bytes(b"#" * (MAX_FILE + 1))
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ConfigurationError, match="is no plain file of at most 1048576 bytes"):
        load(path)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("15m", 900), ("2h", 7200), ("7d", 604800), ("1.5h", 5400), ("0s", 0)]
    + [(bad, None) for bad in ("", "15", "m", "-1s", "1 s", "1e3s", "\uff11s", "1s\n", "infs")],
)
def test_durations(text: str, seconds: float | None) -> None:
    """A number and a unit, nothing else."""
    assert duration(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    "text",
    [
        "http://k.example/v3",
        "https://u:p@k/v3",
        "https://k/?a",
        "ftp://k",
        "https://",
        "https://k:99999",
        " https://k",
    ],
)
def test_urls_to_which_no_credential_is_sent(text: str) -> None:
    """Clear text, embedded users, and what is no URL."""
    assert url(text) is None


def test_mistakes_elsewhere_are_passed_over(tmp_path: Path) -> None:
    """Fetch reads on although a grant or a socket is wrong; its own tables must be right."""
    path = tmp_path / "agent.toml"
    path.write_text(f'{HEAD}{LOGIN}[app]\nmode = "x"\n[app.limits]\nx = 1\n[[grant]]\npolll = 3\n')
    assert load(path, passing_over=NOT_FETCH).vps_id == "vps-prod-001"
    path.write_text(f'{HEAD}{LOGIN}regio = "x"\n[[grant]]\npolll = 3\n')
    with pytest.raises(ConfigurationError) as caught:
        load(path, passing_over=NOT_FETCH)
    assert [mistake.key for mistake in caught.value.mistakes] == ["keystone.regio"]


_values = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**62), 2**62),
        st.floats(),
        st.just("CANARY"),
        st.sampled_from(["1s", "never"]),
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


_KEYS = sorted(
    {match[1] for match in re.finditer(r"(?m)^(?:# )?([A-Za-z_]+) = ", EXAMPLE.read_text())}
    | {"password", "x"}
)
_TABLES = [
    "keystone",
    "fetch",
    "rotation",
    "staleness",
    "staleness.secrets",
    "budget",
    "app",
    "app.limits",
    "control",
    "log",
]


@given(
    st.dictionaries(st.sampled_from(_TABLES), st.dictionaries(st.sampled_from(_KEYS), _values, max_size=6))
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_value_is_ever_told(tmp_path: Path, tables: dict[str, dict[str, object]]) -> None:
    """Whatever stands under whatever key: a Config or a ConfigurationError without the value."""
    canary = secrets.token_hex(8)
    text = HEAD + "".join(
        f"[{table}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in keys.items())
        for table, keys in sorted(tables.items())
    ).replace("CANARY", canary)
    told = ""
    try:
        _load(tmp_path, text)
    except ConfigurationError as error:
        told = f"{error!s}{error!r}{error.__cause__}{error.__context__}"
    assert (canary in told) is False


@pytest.mark.parametrize(
    ("host", "straight"),
    [
        ("internal.example.org", True),
        ("Barbican.Internal.example.org.", True),
        ("notinternal.example.org", False),
        ("example.org", False),
        ("below.dotted.example", True),
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("[2001:db8::1]", True),
        ("2001:db9::1", False),
    ],
)
def test_who_is_reached_without_the_proxy(tmp_path: Path, host: str, *, straight: bool) -> None:
    """Names with all below them, addresses and networks; a name is never looked up to find out."""
    exempt = '["Internal.example.org", ".dotted.example", "10.0.0.0/8", "2001:db8::/32"]'
    proxy = _load(
        tmp_path, f'{HEAD}{LOGIN}proxy = "http://P.example:3128/"\nno_proxy = {exempt}\n'
    ).keystone.proxy
    assert proxy is not None
    assert (proxy.host, proxy.port, proxy.user) == ("p.example", 3128, None)
    assert is_exempt(proxy.exempt, host) is straight


@pytest.mark.parametrize(
    ("lines", "keys"),
    [
        ('proxy = "https://p.example:3128"', ["keystone.proxy"]),
        ('proxy = "http://p.example"', ["keystone.proxy"]),
        ('proxy = "http://u:canary@p.example:3128"', ["keystone.proxy"]),
        ('proxy = "http://p.example:3128/path"', ["keystone.proxy"]),
        ('no_proxy = ["a.example"]', ["keystone.no_proxy"]),
        ('proxy = "http://p:1"\nno_proxy = ["a.example:443"]', ["keystone.no_proxy"]),
        ('proxy = "http://p:1"\nno_proxy = ["10.0.0.1/8"]', ["keystone.no_proxy"]),
        ('proxy = "http://p:1"\nno_proxy = "a.example"', ["keystone.no_proxy"]),
        ('proxy = "http://p:1"\nproxy_user = "a:canary"', ["keystone.proxy_user"]),
        ('proxy = "http://p:1"\nproxy_credential = "x"', ["keystone.proxy_credential"]),
        (
            'proxy = "http://p:1"\nproxy_user = "u"\nproxy_credential = "x"\nproxy_credential_file = "/x"',
            ["keystone.proxy_credential_file"],
        ),
    ],
)
def test_a_proxy_that_is_written_wrong(tmp_path: Path, lines: str, keys: list[str]) -> None:
    """A password in the URL, a path, ports in no_proxy, what has no effect."""
    found = _mistakes(tmp_path, f"{HEAD}{LOGIN}{lines}\n")
    assert [key for key, _ in found] == keys
    assert "canary" not in str(found)
