"""A teacher behind a URL: asked patiently, refused clearly, and its key told to nobody."""

import threading
import time

import pytest

from adaptive_moe.config.loading import load_settings
from adaptive_moe.errors import ConfigurationError, TeacherError, TrainingInterruptedError
from adaptive_moe.training.interruption import interruptible
from adaptive_moe.training.service import ServiceTeacher
from tests.support.teacher_server import TeacherServer, completion, status

KEY = "sesame-4711"


@pytest.fixture
def serve(socket_enabled, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TEACHER_KEY", KEY)
    servers = []

    def start(*script, speak=str.upper):
        servers.append(TeacherServer(speak, script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def teacher(url, *more):
    overrides = [f"teacher={url}", "teacher_model=wise-1", "teacher_key=TEACHER_KEY", *more]
    settings = load_settings(overrides=[f"training.{each}" for each in overrides]).training
    return ServiceTeacher(settings.teacher, settings, seed=3)


def ask(someone, *texts):
    return someone.answer([[{"role": "user", "content": text}] for text in texts])


def test_replies_come_in_the_order_of_the_conversations(serve):
    server = serve()
    asked = [f"text {number}" for number in range(9)]
    assert ask(teacher(f"{server.url}/"), *asked) == [text.upper() for text in asked]
    assert {body["path"] for body in server.bodies} == {"/v1/chat/completions"}
    assert {body["model"] for body in server.bodies} == {"wise-1"}
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert all("seed" not in body for body in server.bodies)  # greedy


def test_sampling_sends_temperature_and_seed(serve):
    server = serve()
    ask(teacher(server.url, "teacher_temperature=0.5"), "a")
    (body,) = server.bodies
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.5, 3, 512)


def test_a_busy_service_is_asked_again_when_it_says(serve):
    server = serve(status(429, Retry_After="0"), status(503, Retry_After="0"))
    assert ask(teacher(server.url), "a") == ["A"]
    assert len(server.bodies) == 3


def test_after_the_last_try_the_error_says_where_and_what_and_not_the_key(serve):
    server = serve(*[status(500, f"no luck with {KEY}", Retry_After="0")] * 5)
    with pytest.raises(TeacherError) as raised:
        ask(teacher(server.url, "teacher_retries=2"), "a")
    assert f"{server.url}/chat/completions does not answer: status 500" in str(raised.value)
    assert "asked 3 times" in str(raised.value)
    assert KEY not in str(raised.value)
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (status(401, "who are you"), "status 401, who are you; the key is refused"),
        (status(404), "write the URL up to, and without, /chat/completions"),
        (status(302, Location="http://127.0.0.1:9/"), "status 302"),
        ((200, {}, b"<html>welcome</html>"), "no chat completion"),
        ((200, {}, b'{"choices": []}'), "no chat completion"),
        ((200, {}, b"[" * 100_000), "no chat completion"),
    ],
    ids=["key", "path", "redirect", "page", "empty", "nested"],
)
def test_what_trying_again_cannot_mend_is_told_at_once(serve, reply, told):
    server = serve(reply)
    with pytest.raises(TeacherError, match=told):
        ask(teacher(server.url), "a")
    assert len(server.bodies) == 1


def test_the_beginning_of_a_key_is_masked_too(serve):
    quoted = f"{'x' * 190} {KEY[:9]} and {KEY} no"
    server = serve(status(401, quoted))
    with pytest.raises(TeacherError) as caught:
        ask(teacher(server.url), "a")
    assert KEY[:8] not in str(caught.value)
    assert "x *** and" in str(caught.value)


def test_replies_that_came_are_kept_though_another_fails(serve):
    server = serve(completion("one"), completion("two"), status(404))
    kept = {}
    asked = [[{"role": "user", "content": text}] for text in "abc"]
    alone = teacher(server.url, "teacher_concurrency=1")
    with pytest.raises(TeacherError):
        alone.answer(asked, keep=lambda place, reply: kept.update({place: reply}))
    assert kept == {0: "one", 1: "two"}


def test_a_reply_without_content_is_an_empty_text(serve):
    server = serve((200, {}, b'{"choices": [{"message": {"content": null}}]}'))
    assert ask(teacher(server.url), "a") == [""]


def test_a_reply_that_breaks_off_is_not_taken_for_the_whole(serve):
    whole = completion("whole")[2]
    server = serve((200, {"Content-Length": str(len(whole) + 9)}, whole))
    with pytest.raises(TeacherError, match="IncompleteRead"):
        ask(teacher(server.url, "teacher_retries=0"), "a")


def test_a_service_that_hangs_is_given_up(serve):
    server = serve()
    server.slow.set()
    with pytest.raises(TeacherError, match=r"no reply within 0\.2 seconds \(asked 1 times\)"):
        ask(teacher(server.url, "teacher_timeout_seconds=0.2", "teacher_retries=0"), "a")


def test_a_closed_port_is_named(serve):
    server = serve()
    url = server.url
    server.close()
    with pytest.raises(TeacherError, match=f"{url}/chat/completions does not answer: .*refused"):
        ask(teacher(url, "teacher_retries=0"), "a")


def test_no_more_requests_are_under_way_than_allowed(serve):
    server = serve(speak=lambda text: time.sleep(0.02) or text)
    ask(teacher(server.url, "teacher_concurrency=2"), *"abcdefgh")
    assert server.at_once == 2


def test_a_cancelled_training_does_not_wait_for_the_service(serve):
    server = serve()
    server.slow.set()
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    started = time.monotonic()
    with (
        interruptible(stop.is_set, at="while the teacher was asked"),
        pytest.raises(TrainingInterruptedError, match="while the teacher was asked, nothing"),
    ):
        ask(teacher(server.url), *"abcdefgh")
    assert time.monotonic() - started < 5
    assert len(server.bodies) == 4  # those under way at once, and no further one


def test_a_key_that_is_not_there_is_told_before_anything_is_sent(serve, monkeypatch):
    server = serve()
    monkeypatch.delenv("TEACHER_KEY")
    with pytest.raises(ConfigurationError, match="variable TEACHER_KEY is not set"):
        teacher(server.url)
    assert server.bodies == []


def test_neither_name_nor_identity_holds_the_key(serve):
    someone = teacher(serve().url)
    assert someone.name == "service wise-1"
    assert KEY not in someone.identity


@pytest.mark.parametrize(
    "value",
    [
        "chalk",
        "ftp://host/v1",
        "http://ann:pa55word@host/v1",
        "https://host?key=pa55word",
    ],
)
def test_what_names_no_teacher_is_refused_without_repeating_a_password(value):
    with pytest.raises(
        ConfigurationError, match=r"training\.teacher: write base, model:ID"
    ) as error:
        load_settings(overrides=[f"training.teacher={value}", "training.teacher_model=wise-1"])
    assert "pa55word" not in str(error.value)


def test_a_url_needs_the_name_of_a_model_and_a_key_goes_by_its_variable():
    with pytest.raises(ConfigurationError, match=r"name the model in training\.teacher_model"):
        load_settings(overrides=["training.teacher=http://host/v1"])
    with pytest.raises(ConfigurationError, match="name of an environment variable") as error:
        load_settings(overrides=["training.teacher_key=sk-pa55word"])
    assert "pa55word" not in str(error.value)
