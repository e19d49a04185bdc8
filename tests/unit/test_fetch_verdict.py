"""agent/fetch/verdict.py and classify.py: what an answer, or an exception, means for what is held."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import ssl
import time
from dataclasses import replace
from email.utils import formatdate

import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from keystoneauth1 import exceptions as keystone_errors

from agent.config.model import FetchSettings
from agent.core.errors import CloudError, Failure, Fault, Step
from agent.fetch import classify
from agent.fetch.framing import FramingError
from agent.fetch.transport import Transport
from agent.fetch.verdict import Answer, Promise, clock_hint, promise, retry_after_of, skew_of
from common.untrusted_json import MalformedError

NOW = 1_795_000_000.0
CANARY = secrets.token_hex(16)
PROMISED = Promise(200, "application/json")


def answer(status: int, body: object = None, *, keystone: bool = False, **headers: str) -> Answer:
    """Return an answer in the service's own form, or another where a body is given."""
    if body is None:
        body = {"error": {"code": status, "title": CANARY}} if keystone else {"code": status, "title": CANARY}
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(keystone, "GET http://x/", PROMISED, status, named, encoded, None, NOW)


@given(st.integers(100, 599), st.binary(max_size=50), st.booleans())
def test_only_the_services_own_words_deny(status: int, body: bytes, keystone: bool) -> None:  # noqa: FBT001
    """No page of a front end can take access away, whatever its status."""
    failure = answer(status, body, keystone=keystone).judge()
    assert failure is None or failure.fault is Fault.TRANSIENT


@pytest.mark.parametrize("keystone", [True, False])
@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("title", [{}, {"title": None}, {"title": 1}])
def test_a_gateways_json_denies_nothing(
    status: int, title: dict[str, object], *, wrapped: bool, keystone: bool
) -> None:
    """As of gateways that write a code and a message: no title, so it is not the service's own word."""
    body = {"code": status, "message": CANARY, "status": "NOT_FOUND", **title}
    failure = answer(status, {"error": body} if wrapped else body, keystone=keystone).judge()
    assert failure is not None
    assert failure.fault is Fault.TRANSIENT


@pytest.mark.parametrize("body", [{"code": 404}, {"error": {"code": 404}}, {"error": 1}, {"error": None}, []])
def test_another_code_in_the_body_denies_nothing(body: object) -> None:
    """A 403 whose body speaks of something else is not the service's own."""
    failure = answer(403, body).judge()
    assert failure is not None
    assert failure.fault is Fault.TRANSIENT


@pytest.mark.parametrize(
    "body",
    [
        b'{"code": 404, "code": 403, "title": "x"}',
        b'{"code": 403, "title": "x", "at": NaN}',
        b'{"error": {"code": 403, "title": "x"}, "error": {"code": 403, "title": "x"}}',
        '{"code": 403, "title": "x"}'.encode("utf-16"),
    ],
)
def test_what_is_no_json_of_the_service_denies_nothing(body: bytes) -> None:
    """A member that comes twice, a number that is none, another encoding: neither service writes such."""
    failure = answer(403, body).judge()
    assert failure is not None
    assert failure.fault is Fault.TRANSIENT


@given(st.integers(300, 599), st.booleans())
def test_every_refusal_is_judged(status: int, keystone: bool) -> None:  # noqa: FBT001  # hypothesis
    """Only Barbican's 401 is left to the libraries; nothing of the body is in the text."""
    failure = answer(status, keystone=keystone).judge()
    if not keystone and status == 401:
        assert failure is None
        return
    assert failure is not None
    assert failure.status == status
    assert (failure.fault is Fault.DENIED) is (status in ({401, 404} if keystone else {403, 404}))
    assert (CANARY in str(failure)) is False


@given(st.integers(100, 299), st.booleans())
def test_only_the_promised_status_is_a_success(status: int, keystone: bool) -> None:  # noqa: FBT001
    """Everything else below 300 is malformed: nothing is known by it, and nothing is dropped for it."""
    made = answer(status, {}, keystone=keystone, Content_Type="application/json")
    failure = made.judge()
    assert (failure is None) is (status == 200) is (made.outcome() == "ok")
    if failure is not None:
        assert failure.fault is Fault.TRANSIENT
        assert failure.step is (Step.KEYSTONE if keystone else Step.BARBICAN)
        assert (failure.status, str(status) in failure.advice) == (status, True)


@pytest.mark.parametrize(
    ("promised", "received", "good"),
    [
        ("application/json", "application/json", True),
        ("application/json", "Application/JSON; charset=UTF-8", True),
        ("application/json", "application/json;charset=utf-8", True),
        ("application/json", "text/html", False),
        ("application/json", "text/html; x=application/json", False),
        ("application/json", "application/jsonp", False),
        ("application/json", "application/json, text/html", False),
        ("application/json", "", False),
        ("application/octet-stream", "application/octet-stream", True),
        ("application/octet-stream", "text/html", False),
        ("application/octet-stream", "text/plain; charset=utf-8", False),
        ("application/octet-stream", "multipart/byteranges; boundary=x", False),
        ("application/octet-stream", "*/*", False),
        ("", "", False),
    ],
)
def test_only_the_type_that_was_asked_for_is_a_success(promised: str, received: str, *, good: bool) -> None:
    """A login page of a proxy is no secret, with whatever status it comes."""
    made = replace(answer(200, {}, Content_Type=received), promise=promise("GET", promised, keystone=False))
    assert (made.judge() is None) is good is (made.outcome() == "ok")


def test_what_makes_something_answers_201() -> None:
    """Keystone's token; all else is 200."""
    assert promise("POST", "application/json", keystone=True) == Promise(201, "application/json", token=True)
    assert promise("GET", "application/octet-stream", keystone=False) == Promise(
        200, "application/octet-stream"
    )
    for method in ("POST", "DELETE"):  # of a consumer
        assert promise(method, "application/json", keystone=False) == Promise(200, "application/json")


@pytest.mark.parametrize(
    ("header", "good"),
    [(None, False), ("", False), (" ", False), ("a b", False), ("é", False), ("gAAAA_-=", True)],
)
def test_a_login_gives_a_token(header: str | None, *, good: bool) -> None:
    """Without one Barbican's refusal would follow, and seem to be that access was taken away."""
    headers = {"Content_Type": "application/json"} | ({} if header is None else {"X_Subject_Token": header})
    login = promise("POST", "application/json", keystone=True)
    made = replace(answer(201, {"token": {}}, keystone=True, **headers), promise=login)
    assert (made.judge() is None) is good


def test_middleware_names_itself_in_a_header() -> None:
    """An older keystonemiddleware answers 401 in plain text."""
    plain = answer(401, b"Authentication required", WWW_Authenticate='Keystone uri="http://k"')
    assert plain.judge() is None
    assert answer(401, b"Authentication required", WWW_Authenticate="Basic").judge() is not None


def test_the_request_id_is_told() -> None:
    """With it the operator of the cloud finds the request; anything else in that header is not told."""
    request_id = "req-0b5a7c5e-2d0e-4c1c-9b0a-3f6f7d7d0b11"
    for header, told in ((request_id, True), (request_id + "\n", False), (CANARY, False)):
        failure = answer(500, X_Openstack_Request_Id=header).judge()
        assert failure is not None
        assert (header in failure.tried) is told


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("7", 7.0),
        ("0", 0.0),
        ("-7", None),
        ("7.5", None),
        ("soon", None),
        ("", None),
        ("²", None),
        ("9" * 500, 30 * 86400.0),
        (formatdate(NOW + 60, usegmt=True), 60.0),
        (formatdate(NOW - 60, usegmt=True), 0.0),
        (formatdate(NOW + 1e8, usegmt=True), 30 * 86400.0),
        ("Mon, 99 Foo 2026 00:00:00 GMT", None),
    ],
)
def test_retry_after(header: str | None, expected: float | None) -> None:
    """Seconds or a date, never more than the wire takes."""
    assert retry_after_of(header, NOW) == expected


@given(st.text(max_size=40))
def test_dates_of_a_service_are_not_trusted(text: str) -> None:
    """Whatever stands there, nothing breaks."""
    skew_of(text, NOW)
    retry_after_of(text, NOW)


def test_clocks() -> None:
    """Small differences are nobody's business; large ones are told with their direction."""
    assert clock_hint(None) == clock_hint(skew_of(formatdate(NOW + 60, usegmt=True), NOW)) == ""
    assert "60 minutes behind" in clock_hint(skew_of(formatdate(NOW + 3600, usegmt=True), NOW))
    assert "60 minutes ahead of" in clock_hint(-3600.0)


def wrapped(error: BaseException) -> requests.ConnectionError:
    """Wrap an error as urllib3 and requests do."""
    reason = urllib3.exceptions.ProtocolError(CANARY, error)
    return requests.ConnectionError(urllib3.exceptions.MaxRetryError(None, CANARY, reason))  # type: ignore[arg-type]  # no pool is needed


def test_network_errors_are_told_apart() -> None:
    """By what is at the bottom, however deep; their own texts are left behind."""
    unverified = ssl.SSLCertVerificationError(CANARY)
    unverified.verify_code = 10
    for error, step, text in (
        (socket.gaierror(-2, CANARY), Step.DNS, "resolve"),
        (unverified, Step.TLS, "expired"),
        (ssl.SSLError(1, CANARY), Step.TLS, "handshake"),
        (ConnectionRefusedError(111, CANARY), Step.CONNECTION, "ECONNREFUSED"),
        (TimeoutError(CANARY), Step.CONNECTION, "in time"),
        (OSError(CANARY), Step.CONNECTION, "broke off"),
        (http.client.RemoteDisconnected(CANARY), Step.CONNECTION, "broke off"),
        (http.client.BadStatusLine(CANARY), Step.BARBICAN, "not HTTP"),
        (http.client.LineTooLong("header line"), Step.BARBICAN, "not HTTP"),
        (FramingError("a header of the answer is malformed"), Step.BARBICAN, "a header of the answer"),
    ):
        failure = classify.network(wrapped(error), "GET x", Step.BARBICAN)
        assert (failure.step, failure.fault) == (step, Fault.TRANSIENT)
        assert text in failure.advice
        assert (CANARY in str(failure)) is False


def test_a_loop_of_causes_ends() -> None:
    """Exceptions may name each other."""
    one, two = OSError(), OSError()
    one.__cause__, two.__cause__ = two, one
    assert classify.network(one, "x", Step.BARBICAN).step is Step.CONNECTION


def test_other_errors_are_told_by_their_type_alone() -> None:
    """Whatever a library raises, its text stays inside."""
    transport = Transport("http://k/v3", FetchSettings(), time.monotonic() + 9)
    transport.end(answer(200, {}))
    known = Failure(Step.TLS, Fault.TRANSIENT, "x", "y")
    assert classify.failure(CloudError(known), None) is known
    for error, step in (
        (keystone_errors.EndpointNotFound(CANARY), Step.CATALOG),
        (keystone_errors.EmptyCatalog(CANARY), Step.CATALOG),
        (MalformedError("a rule"), Step.BARBICAN),
        (keystone_errors.NotAcceptable(CANARY), Step.BARBICAN),
        (KeyError(CANARY), Step.FETCH),
        (ValueError(CANARY), Step.FETCH),
    ):
        failure = classify.failure(error, transport.answer)
        assert (failure.step, failure.fault) == (step, Fault.TRANSIENT)
        assert (CANARY in str(failure)) is False
    assert classify.failure(RuntimeError(CANARY), None).step is Step.FETCH
    transport.end(answer(401))
    second = classify.failure(KeyError("title"), transport.answer)
    assert (second.step, second.fault, second.status) == (Step.PERMISSION, Fault.DENIED, 401)
    transport.end(answer(201, {}, keystone=True))
    assert classify.failure(KeyError("X-Subject-Token"), transport.answer).step is Step.KEYSTONE
