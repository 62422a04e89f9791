"""The callee's side: each call gets exactly one answer, whatever its handler does."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Sequence

import pytest

from echostream_core import (
    Context,
    DeadlineExceeded,
    RemoteError,
    RpcError,
    StatusCode,
    handler,
)
from echostream_core.engine.incoming import MAX_STARTS_PER_TURN
from echostream_core.wire.frames import encode_cancel
from tests.support.handlers import BASIC, Watched, add, echo
from tests.support.pairs import Pair, connected, leftovers
from tests.support.raw_peer import call, dialled, raw_setup
from tests.support.waiting import settle, until

LOOPS = ("virtual",)


async def failure(pair: Pair, method: str, payload: object = None, **keywords: object) -> RpcError:
    """The error that calling ``method`` ends with; the session must survive it and nothing be left over."""
    with pytest.raises(RpcError) as caught:
        await pair.client.request(method, payload, **keywords)  # type: ignore[arg-type]  # the tests' own
    assert await pair.client.request("add", {"a": 1, "b": 2}) == 3
    await pair.at_rest()
    return caught.value


# Which handler


async def test_an_unknown_method_is_answered_with_a_hint() -> None:
    async with connected(*BASIC) as pair:
        error = await failure(pair, "ad", {"a": 1, "b": 2})
        assert isinstance(error, RemoteError)
        assert error.code is StatusCode.UNIMPLEMENTED
        assert error.not_processed
        assert "no method 'ad'; did you mean 'add'?" in error.message


@pytest.mark.parametrize("method", ["count", "collect"])
async def test_a_stream_cannot_be_requested_as_a_call(method: str) -> None:
    async with connected(*BASIC) as pair:
        error = await failure(pair, method, 3)
        assert error.code is StatusCode.UNIMPLEMENTED
        assert "is a stream: use stream() or open_stream()" in error.message


async def test_a_payload_that_does_not_fit_names_the_field() -> None:
    async with connected(add) as pair:
        error = await failure(pair, "add", {"a": 1, "b": "two"})
        assert error.code is StatusCode.INVALID_ARGUMENT
        assert error.not_processed
        assert error.details == (("BadField", {"path": "$.b", "problem": "Expected `int`, got `str` - at `$.b`"}),)


# What a handler raises


async def test_a_handler_chooses_the_status_by_raising() -> None:
    @handler("refuse")
    async def refuse() -> None:
        raise RpcError(
            StatusCode.FAILED_PRECONDITION,
            "not yet",
            details=[("Account", {"id": 5}), ("Tags", ["a", "b"])],
            retryable=True,
            retry_after=2.5,
        )

    async with connected(add, refuse) as pair:
        error = await failure(pair, "refuse")
        assert isinstance(error, RemoteError)
        assert error.code is StatusCode.FAILED_PRECONDITION
        assert error.message == "not yet"
        assert error.details == (("Account", {"id": 5}), ("Tags", ["a", "b"]))
        assert error.retryable
        assert error.retry_after == 2.5
        assert not error.not_processed


@pytest.mark.parametrize("code", [code for code in StatusCode if code])
async def test_every_status_arrives_as_it_was_raised(code: StatusCode) -> None:
    @handler("refuse")
    async def refuse() -> None:
        raise RpcError(code, "as told")

    async with connected(add, refuse) as pair:
        assert (await failure(pair, "refuse")).code is code


@pytest.mark.parametrize("in_place", [False, True])
async def test_another_exception_becomes_internal_with_an_id_and_the_traceback_stays_here(
    in_place: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def work() -> None:
        raise KeyError("the secret of the house")

    @handler("broken")
    async def broken() -> None:
        work()

    @handler("broken")
    def broken_in_place() -> None:
        work()

    async with connected(add, broken_in_place if in_place else broken) as pair:
        error = await failure(pair, "broken")
    assert error.code is StatusCode.INTERNAL
    assert "secret" not in str(error)
    mark = error.message.removeprefix("internal error ")
    assert len(mark) == 8
    (record,) = [record for record in caplog.records if record.name == "echostream.handler"]
    assert f"[{mark}]" in record.getMessage()
    assert record.exc_info is not None
    assert "the secret of the house" in str(record.exc_info[1])


class Weird(RpcError):
    """An error with nonsense inside, as only Python lets one make."""

    def __init__(self, **attributes: object) -> None:
        super().__init__(StatusCode.ABORTED, "x")
        for name, value in attributes.items():
            setattr(self, name, value)


NONSENSE = [
    Weird(code="ABORTED"),
    Weird(code=70_000),
    Weird(message=5),
    Weird(message=None),
    Weird(retry_after=float("inf")),
    Weird(retry_after=float("nan")),
    Weird(retry_after=-1.0),
    Weird(details=["no pair"]),
    Weird(details=[("name", object())]),
    Weird(details=[(5, 5)]),
]


@pytest.mark.parametrize("error", NONSENSE, ids=range(len(NONSENSE)))
@pytest.mark.parametrize("in_place", [False, True])
async def test_an_error_with_nonsense_inside_is_still_answered(error: RpcError, in_place: bool) -> None:
    @handler("nonsense")
    async def nonsense() -> None:
        raise error

    @handler("nonsense")
    def nonsense_in_place() -> None:
        raise error

    async with connected(add, nonsense_in_place if in_place else nonsense) as pair:
        answer = await failure(pair, "nonsense")
        assert isinstance(answer, RemoteError)
        assert answer.code in (StatusCode.INTERNAL, StatusCode.ABORTED, StatusCode.UNKNOWN)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("what", ["object", "endless", "large integer", "lone surrogate", "complex"])
async def test_an_answer_that_cannot_be_sent_is_internal(what: str, in_place: bool) -> None:
    @handler("strange")
    async def strange() -> object:
        return unsendable(what)

    @handler("strange")
    def strange_in_place() -> object:
        return unsendable(what)

    async with connected(add, strange_in_place if in_place else strange) as pair:
        answer = await failure(pair, "strange")
        assert answer.code is StatusCode.INTERNAL
        assert not answer.not_processed


def unsendable(what: str) -> object:
    endless: list[object] = []
    endless.append(endless)
    values: dict[str, object] = {
        "object": object(),
        "endless": endless,
        "large integer": 2**80,
        "lone surrogate": "\ud800",
        "complex": {1j},
    }
    return values[what]


@pytest.mark.parametrize("in_place", [False, True])
async def test_a_cancellation_of_the_handlers_own_doing_is_answered_cancelled(in_place: bool) -> None:
    def give_up() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        future.result()

    @handler("give_up")
    async def own() -> None:
        give_up()

    @handler("give_up")
    def own_in_place() -> None:
        give_up()

    async with connected(add, own_in_place if in_place else own) as pair:
        error = await failure(pair, "give_up")
        assert error.code is StatusCode.CANCELLED


async def test_calls_behind_a_cancelled_one_in_the_same_read_are_answered() -> None:
    @handler("give_up")
    def give_up() -> None:
        raise asyncio.CancelledError

    async with connected(add, give_up) as pair:
        both = pair.client.request("give_up"), pair.client.request("add", {"a": 1, "b": 2})
        answers = await asyncio.gather(*both, return_exceptions=True)
        assert isinstance(answers[0], RemoteError)
        assert answers[1] == 3


# What does not pass on


@handler("outer")
async def outer(method: str, ctx: Context) -> object:
    """Call the caller back and let whatever happens pass."""
    return await ctx.session.request(method, timeout=5)


@handler("outer_unsendable")
async def outer_unsendable(ctx: Context) -> object:
    return await ctx.session.request("inner", object())


@handler("outer_metadata")
async def outer_metadata(ctx: Context) -> object:
    return await ctx.session.request("inner", metadata={"NOT OK": "x"})


@handler("outer_too_large")
async def outer_too_large(ctx: Context) -> object:
    return await ctx.session.request("inner", bytes(5_000_000))


@handler("outer_returns")
async def outer_returns(ctx: Context) -> object:
    return await ctx.session.request("inner_text", returns=int)


@handler("inner_text")
def inner_text() -> str:
    return "no number"


@handler("inner_refuses")
async def inner_refuses() -> None:
    raise RpcError(
        StatusCode.UNAVAILABLE, "later", details=[("D", 1)], retryable=True, not_processed=True, retry_after=9.0
    )


@pytest.mark.parametrize(
    ("method", "payload"),
    [
        ("outer", "inner_refuses"),
        ("outer", "no_such_method"),
        ("outer_unsendable", None),
        ("outer_metadata", None),
        ("outer_too_large", None),
        ("outer_returns", None),
    ],
)
async def test_a_nested_error_that_passes_becomes_internal_and_says_nothing_of_retries(
    method: str, payload: object, caplog: pytest.LogCaptureFixture
) -> None:
    nested = (outer, outer_unsendable, outer_metadata, outer_too_large, outer_returns)
    async with connected(add, *nested, client_handlers=(inner_refuses, inner_text)) as pair:
        error = await failure(pair, method, payload)
        assert error.code is StatusCode.INTERNAL
        assert (error.not_processed, error.retryable, error.retry_after) == (False, False, 0.0)
        assert error.details == ()
        assert "later" not in error.message
    assert any(record.name == "echostream.handler" and record.exc_info for record in caplog.records)


async def test_an_expired_nested_call_is_an_expired_call() -> None:
    waiting = Watched()

    @handler("outer")
    async def hurried(ctx: Context) -> object:
        return await ctx.session.request("watched.wait", timeout=1)

    async with connected(add, hurried, client_handlers=(waiting,)) as pair:
        error = await failure(pair, "outer", timeout=10)
        assert isinstance(error, DeadlineExceeded)
        assert not error.not_processed


async def test_a_handler_that_catches_a_nested_error_may_answer_as_it_likes() -> None:
    @handler("careful")
    async def careful(ctx: Context) -> str:
        try:
            await ctx.session.request("inner_refuses")
        except RemoteError as error:
            return error.message
        return "unexpected"

    async with connected(add, careful, client_handlers=(inner_refuses,)) as pair:
        assert await pair.client.request("careful") == "later"


# A real task


TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


async def use_timeout() -> str:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await asyncio.Event().wait()
    return "timed out"


async def use_task_group() -> str:
    async def number(value: int) -> int:
        await asyncio.sleep(0)
        return value

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(number(value)) for value in range(3)]
    assert [task.result() for task in tasks] == [0, 1, 2]
    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(number("x"))  # type: ignore[arg-type]  # any task
            raise ValueError("one fails")
    return "grouped"


async def use_current_task() -> str:
    task = asyncio.current_task()
    assert task is not None
    assert task in asyncio.all_tasks()
    assert task.cancelling() == 0
    await asyncio.sleep(0)
    assert asyncio.current_task() is task
    return "one task"


async def use_own_cancel() -> str:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    task.uncancel()
    return "uncancelled"


async def use_context_variables() -> str:
    assert TENANT.get() == "nobody"
    token = TENANT.set("ada")
    await asyncio.sleep(0)
    assert TENANT.get() == "ada"
    TENANT.reset(token)
    TENANT.set("grace")
    return TENANT.get()


@pytest.mark.parametrize("suspend_first", [False, True])
@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (use_timeout, "timed out"),
        (use_task_group, "grouped"),
        (use_current_task, "one task"),
        (use_own_cancel, "uncancelled"),
        (use_context_variables, "grace"),
    ],
)
async def test_a_handler_may_use_all_of_asyncio(
    use: Callable[[], Awaitable[str]], expected: str, suspend_first: bool
) -> None:
    @handler("use")
    async def run() -> str:
        if suspend_first:
            await asyncio.sleep(0)
        return await use()

    async with connected(add, run) as pair:
        answers = await asyncio.gather(*(pair.client.request("use") for _ in range(5)))
        assert answers == [expected] * 5
        await pair.at_rest()


@pytest.mark.parametrize("in_place", [False, True])
async def test_each_call_has_its_own_copy_of_the_context(in_place: bool) -> None:
    seen = []

    def step(name: str) -> str:
        seen.append(TENANT.get())
        TENANT.set(name)
        return TENANT.get()

    @handler("name")
    async def name_in_task(name: str) -> str:
        return step(name)

    @handler("name")
    def name_in_place(name: str) -> str:
        return step(name)

    async with connected(name_in_place if in_place else name_in_task) as pair:
        answers = await asyncio.gather(*(pair.client.request("name", name) for name in "abc"))
    assert answers == ["a", "b", "c"]
    assert seen == ["nobody"] * 3
    assert TENANT.get() == "nobody"


async def test_two_calls_in_one_read_do_not_share_a_task() -> None:
    tasks = []

    @handler("task")
    async def task() -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        tasks.append(asyncio.current_task())

    async with connected(task) as pair:
        await asyncio.gather(pair.client.request("task"), pair.client.request("task"))
    assert len(set(tasks)) == 2
    assert None not in tasks


# Cancelling


async def test_cancelling_at_the_caller_ends_the_handler() -> None:
    watched = Watched()
    async with connected(add, watched) as pair:
        calling = asyncio.ensure_future(pair.client.request("watched.wait"))
        await watched.reached(begun=1)
        calling.cancel()
        await watched.reached(cancelled=1)
        assert calling.cancelled()
        await pair.at_rest()


async def test_a_deadline_ends_the_handler_here_too() -> None:
    watched = Watched()
    async with connected(add, watched) as pair:
        await pair.ready()
        peer = await dialled(pair.server.addresses[0], raw_setup())
        peer.control.send(call(0, "watched.wait", b"null", timeout_ms=2_000))
        await watched.reached(begun=1)
        assert watched.contexts[0].remaining() == pytest.approx(2.0)
        await watched.reached(cancelled=1)
        (answer,) = await peer.answered()
        assert int.from_bytes(answer.body[8:10], "little") == StatusCode.DEADLINE_EXCEEDED
        peer.connection.close(0, "")


async def test_a_handler_that_is_cancelled_twice_can_still_clean_up() -> None:
    """The caller's CANCEL and the handler's own deadline come at about the same time: one cancellation is enough."""
    begun = asyncio.Event()
    cleaned = asyncio.Event()

    @handler("careful")
    async def careful() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            cleaned.set()

    async with connected(add, careful) as pair:
        await pair.ready()
        calling = asyncio.ensure_future(pair.client.request("careful", timeout=2))
        await begun.wait()
        await asyncio.sleep(1.5)
        calling.cancel()
        await cleaned.wait()
        await pair.at_rest()


async def test_a_handler_that_ignores_cancellation_is_reported_after_the_grace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = asyncio.Event()

    @handler("stubborn")
    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with connected(add, stubborn, server={"limits": {"cancel_grace_s": 3}}) as pair:
        with pytest.raises(DeadlineExceeded):
            await pair.client.request("stubborn", timeout=1)
        await pair.client.ping()
        assert pair.far.incoming.running == 1, "it keeps its slot"
        await asyncio.sleep(2)
        assert not reports(caplog)
        await asyncio.sleep(2)
        (report,) = reports(caplog)
        assert "stubborn: the handler of call" in report
        await pair.at_rest()
        release.set()


def reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    return [message for message in messages if "after it was cancelled" in message]


async def test_an_answer_after_a_cancellation_is_the_only_one() -> None:
    """A handler may answer although it was cancelled: then that is the call's one final frame."""
    begun = asyncio.Event()

    @handler("late")
    async def late() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "better late"
        return "never"

    async with connected(add, late) as pair:
        await pair.ready()
        peer = await dialled(pair.server.addresses[0], raw_setup())
        peer.control.send(call(0, "late", b"null", timeout_ms=1_000))
        (answer,) = await peer.answered()
        assert answer.body[8:] == b'"better late"'
        await asyncio.sleep(20)
        assert len(peer.responses()) == 1
        peer.connection.close(0, "")


async def test_a_call_that_is_cancelled_in_the_turn_it_came_is_answered_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A task that is cancelled before its first step never runs: somebody else has to answer."""
    async with connected(*BASIC) as pair:
        peer = await dialled(pair.server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        frames = [call(2 * number, "echo", b"1") + encode_cancel(2 * number) for number in range(20)]
        peer.control.send(*frames)
        assert len(await peer.answered(20)) == 20
        assert asyncio.get_running_loop().time() < 1
        await asyncio.sleep(20)
        assert len(peer.responses()) == 20
        assert not reports(caplog)
        peer.connection.close(0, "")


async def test_cancelling_what_was_never_open_or_is_answered_changes_nothing() -> None:
    async with connected(echo) as pair:
        await pair.client.request("echo", 1)
        for number in (0, 2, 4, 1_000_000):
            pair.far.incoming.cancel(number)
        assert await pair.client.request("echo", 2) == 2


# Many at once


async def test_handlers_start_in_portions() -> None:
    running: list[int] = []
    seen: list[int] = []

    @handler("count")
    def count() -> None:
        running.append(1)

    @handler("after")
    def after() -> None:
        seen.append(len(running))

    async with connected(count, after, echo, server={"limits": {"max_concurrent_calls": 2_048}}) as pair:
        await pair.ready()
        total = 4 * MAX_STARTS_PER_TURN
        calls = [asyncio.ensure_future(pair.client.request("count")) for _ in range(total)]
        portions: list[int] = []
        while not all(task.done() for task in calls):
            before = len(running)
            await asyncio.sleep(0)
            portions.append(len(running) - before)
        assert sum(portions) == total
        assert max(portions) <= MAX_STARTS_PER_TURN
        await pair.at_rest()


@pytest.mark.parametrize("in_place", [False, True])
async def test_a_call_that_is_cancelled_before_it_began_never_begins(in_place: bool) -> None:
    began: list[int] = []

    @handler("begin")
    async def begin(number: int) -> None:
        began.append(number)

    @handler("begin")
    def begin_in_place(number: int) -> None:
        began.append(number)

    async with connected(begin_in_place if in_place else begin) as pair:
        await pair.ready()
        peer = await dialled(pair.server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        count = MAX_STARTS_PER_TURN + 10
        frames = [call(2 * number, "begin", str(number).encode()) for number in range(count)]
        peer.control.send(*frames, encode_cancel(2 * (count - 1)))
        answers = await peer.answered(count)
        assert len(answers) == count
        assert began == list(range(count - 1))
        peer.connection.close(0, "")


async def test_a_closed_session_cancels_its_handlers_and_answers_nothing() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        calls: Sequence[asyncio.Task[object]] = [
            asyncio.ensure_future(pair.client.request("watched.wait")) for _ in range(3)
        ]
        await watched.reached(begun=3)
        far = pair.far
        await pair.client.close()
        await watched.reached(cancelled=3)
        await settle()
        assert leftovers(far) == {}
        assert all(isinstance(result, RpcError) for result in await asyncio.gather(*calls, return_exceptions=True))
