"""The sessions of one client, one after the other.

A lost session is followed by a new one. A server that goes away says so first: then the new session is dialled while
the old one finishes what runs in it, and what it did not take any more is done in the new one. Source: decision 0020.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from echostream_core.dialing import Dialer
from echostream_core.engine.datagram_handlers import DatagramHandler
from echostream_core.engine.gate import Gate
from echostream_core.engine.leftovers import Leftovers
from echostream_core.engine.outgoing import Action
from echostream_core.engine.pipeline import Pipeline
from echostream_core.engine.session import Session
from echostream_core.engine.subscriptions import Subscription
from echostream_core.errors import (
    CallError,
    CloseCode,
    ConfigError,
    ConnectFailed,
    DeadlineExceeded,
    Disconnected,
    EchoStreamError,
    EndOfStream,
    RpcError,
    StatusCode,
    TransportError,
)
from echostream_core.reconnect import Reconnect, is_permanent
from echostream_core.transport import Connection

__all__ = ["ClientSessions"]

MAX_LEAVING: Final = 8
"""Sessions that finish what runs in them while their servers go away. Beyond it the oldest is closed: a server that
sends everybody away and never goes itself must not have us pile them up."""

_logger = logging.getLogger("echostream.client")


class ClientSessions:
    """Dials, and dials again; knows what has to go on in the next session."""

    def __init__(self, dialer: Dialer, pipeline: Pipeline, reconnect: Reconnect | None) -> None:
        self.dialer = dialer
        self.pipeline = pipeline
        """What the next session serves."""
        self.reconnects = 0
        """How often a session was followed by a new one."""
        self.current: Session | None = None
        """The newest session; None: there is none, perhaps not yet again."""
        self.leaving: list[Session] = []
        """Those before it whose server goes away, and that finish what runs in them."""
        self._coming: Session | None = None  # dialled again, and has not spoken yet
        self.closed = False
        """The client was closed: nothing is dialled any more."""
        self.datagram_handlers: dict[int, DatagramHandler] = {}
        self.after_reconnect: list[Callable[[], None]] = []
        self.subscriptions: list[Subscription] = []
        """What every session subscribes to."""
        self._last: Session | None = None
        self._reconnect = reconnect
        self._redial: asyncio.Task[None] | None = None
        self._gate: Gate | None = None
        self._problem: EchoStreamError | None = None
        self._leftovers = Leftovers()
        self.again = None if reconnect is None else self._again
        """Repeats what a session did not take to its peer; None where there is no next session."""

    # -- the first one, and how each begins

    async def begin(self) -> None:
        """Open the first session. Raises ConnectFailed and ConfigError; then it can be tried again."""
        if self.current is not None:
            raise ConfigError("connected already: go on with the client that the first await has returned")
        try:
            await self._dial()
        except BaseException:
            if self._redial is not None:  # the server has said that it goes away before it was found to be of no use
                self._redial.cancel()
            raise

    async def _dial(self) -> None:
        await self.dialer.dial(self._begin)

    async def _begin(self, connection: Connection, url: str) -> None:
        """Make the session over ``connection`` ours; a TransportError says that it is of no use after all."""
        session = Session(connection, self.pipeline, dialer=True, on_closed=self._on_closed)
        session.departure.on_announced = self._on_announced
        session.datagrams.add(self.datagram_handlers)
        try:
            session.start()
        except BaseException:  # SETUP cannot be encoded
            connection.abort()
            raise
        if self._last is not None:
            await self._until_it_speaks(session, url)
        if self.current is not None:
            self.leaving.append(self.current)
        self.current = self._last = session
        if session.closed.done():  # for good, or it would not have come this far
            self._on_closed(session, session.closed.result())
            return
        if len(self.leaving) > MAX_LEAVING:
            oldest = self.leaving[0]
            _logger.warning("%s has not gone away, as have %d others: hanging up", oldest.peer, MAX_LEAVING)
            oldest.close_now(CloseCode.OK, "you have said that you go away")
        try:
            await self._settle(session, url)
        except TransportError:
            if self.current is session:
                self._step_back()
            raise

    async def _until_it_speaks(self, session: Session, url: str) -> None:
        """A proxy accepts connections also when nobody is behind it: until the server's SETUP is here, nothing is given
        to ``session``, and the one before it keeps what it has. ConnectFailed when it ends before that.
        """
        self._coming = session
        try:
            await session.wait_for_peer(float("inf"))
        except Disconnected:
            pass  # as when it ends in this very turn
        except BaseException:
            session.abort()
            self.leaving.append(session)  # who closes the client waits for its end
            raise
        finally:
            self._coming = None
        if session.disconnected:
            await asyncio.wait({session.closed})
            error: EchoStreamError | None = session.closed.result()
            if not is_permanent(error):
                text = str(error or "the session was closed")
                raise ConnectFailed(text if url in text else f"{url}: {text}") from error

    async def _settle(self, session: Session, url: str) -> None:
        """Where datagrams are to be emulated, wait until the server has said whether it does, too."""
        settings = self.dialer.settings
        if not settings.emulate_datagrams or session.capabilities.streams != "muxed":
            return
        try:
            await session.wait_for_peer(session.loop.time() + self.dialer.connect_timeout)
            settings.check_negotiated(session.connection, url)
        except Disconnected:
            return  # as when it is lost a moment later: ``_on_closed`` knows what to do
        except DeadlineExceeded as error:
            session.abort()
            raise ConnectFailed(f"{url}: {error.message}") from error
        except BaseException:
            session.abort()
            raise

    def _step_back(self) -> None:
        """The newest session is gone: the one before it goes on, if it has not ended yet."""
        self.current = self.leaving.pop() if self.leaving else None

    # -- which one there is

    @property
    def session(self) -> Session:
        """The newest session; while there is none, the one that was. ConfigError before the first."""
        session = self.current or self._last
        if session is None:
            raise ConfigError("not connected: await RpcClient.connect(...) or use it in 'async with'")
        return session

    def check(self) -> None:
        """ConfigError before the first session."""
        _ = self.session

    @property
    def connected(self) -> bool:
        """Whether there is a session right now."""
        return self.current is not None and not self.current.disconnected

    @property
    def all(self) -> list[Session]:
        """Every session, the newest first; it may be at its end, or not have begun yet."""
        newest = [session for session in (self._coming, self.current) if session is not None]
        return [*newest, *self.leaving]

    @property
    def _dialling(self) -> bool:
        return self._redial is not None and not self._redial.done()

    async def wait(self, timeout: float | None) -> Session:
        """The session to use, waiting for the next one while there is none; DeadlineExceeded when it takes too long."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    session = self.current
                    usable = session is not None and not session.disconnected and not session.departure.announced
                    if session is not None and (usable or not self._dialling):
                        return session
                    if self.closed:
                        raise Disconnected("the client is closed", not_processed=True)
                    self.check()
                    assert self._gate is not None  # there has been a session, and it is being dialled
                    await self._gate.wait()
        except TimeoutError as error:
            text = f"not connected within {max(timeout or 0.0, 0.0):.3g} s: {self._problem}"
            raise DeadlineExceeded(text, not_processed=True) from error

    async def run(self, action: Action, timeout: float | None, *, patience: float | None = None) -> Any:
        """``action`` in the session that there is, or will be; and in the next one if the peer did not process it.

        ``timeout`` in seconds for all of it; where it is None, ``patience`` for each waiting.
        """
        loop = asyncio.get_running_loop()
        end = None if timeout is None else loop.time() + timeout
        while True:
            left = None if end is None else end - loop.time()
            session = await self.wait(patience if left is None else left)
            left = None if end is None else end - loop.time()
            try:
                return await action(session, left)
            except Disconnected as error:
                if self._reconnect is None or not error.not_processed:
                    raise
                await self._gone_from(session, error, left)

    async def _again(self, session: Session, error: Disconnected, action: Action, left: float | None) -> Any:
        """``action`` was refused by ``session`` with ``error``, not processed: do it in the next one."""
        begin = session.loop.time()
        await self._gone_from(session, error, left)
        return await self.run(action, None if left is None else left - (session.loop.time() - begin))

    async def _gone_from(self, session: Session, error: Disconnected, left: float | None) -> None:
        """Wait until it is known what follows ``session``, ``left`` seconds at most; ``error`` if nothing does, and if
        the session goes on: then it was not the session that refused, but a middleware, and would do so again.
        """
        if not session.disconnected and not session.departure.announced:
            raise error
        if session.disconnected and not session.closed.done():
            await asyncio.wait({session.closed}, timeout=left)
        if self.closed or (session is self.current and not self._dialling):
            raise error

    # -- the next one

    def _on_announced(self, session: Session) -> None:
        if self._reconnect is None or self.closed or session is not self.current:
            return
        self._problem = Disconnected(f"{session.peer} is shutting down", not_processed=True)
        _logger.info("%s is shutting down; connecting again", session.peer)
        self._dial_soon(session.loop, self._reconnect)

    def _on_closed(self, session: Session, error: EchoStreamError | None) -> None:
        self._leftovers.add(session.connection)
        if session in self.leaving:
            self.leaving.remove(session)
            return
        if self._reconnect is None or self.closed or session is not self.current:
            return
        announced = session.departure.announced
        if (error is None and not session.departure.as_asked) or is_permanent(error):
            if error is not None:
                _logger.error("%s has ended the session for good: %s", session.peer, error)
            if announced and self._redial is not None:
                self._redial.cancel()
            self.end_subscriptions(session.closed_error())  # else the application has closed the session itself
            return
        self._step_back()
        self._problem = error
        if not announced:
            _logger.warning("the session with %s is lost (%s); connecting again", session.peer, error or "closed")
        self._dial_soon(session.loop, self._reconnect)

    def _dial_soon(self, loop: asyncio.AbstractEventLoop, reconnect: Reconnect) -> None:
        if self._gate is None:
            self._gate = Gate(loop)
        if not self._dialling:  # else it is at it already, and will see
            self._redial = loop.create_task(self._dial_again(reconnect))

    async def _dial_again(self, reconnect: Reconnect) -> None:
        try:
            while self.current is None or self.current.departure.announced:
                if not await self._dial_until_it_works(reconnect):
                    return
                await self._subscribe_again(self.session)
                await self._see_its_end()
            if self.current.disconnected:
                return
            self.reconnects += 1
            _logger.info("connected again, to %s", self.current.peer)
        finally:
            if self._gate is not None:
                self._gate.open_all()
        self._tell_reconnected()

    async def _see_its_end(self) -> None:
        """A session that has failed is not ours any more as soon as its connection is gone too: wait for that."""
        if self.current is not None and self.current.disconnected:
            await asyncio.wait({self.current.closed})

    async def _dial_until_it_works(self, reconnect: Reconnect) -> bool:
        """Dial until there is a session with the peer's SETUP; False when it is time to give up."""
        before = self.current
        for delay in reconnect.delays(self.pipeline.randomness):
            await asyncio.sleep(delay)
            try:
                await self._dial()
            except EchoStreamError as error:
                self._problem = error
                _logger.info("connecting again: %s", error)
            except Exception as error:  # a transport that breaks its contract
                self._problem = TransportError(f"{type(error).__name__}: {error}")
                _logger.exception("connecting again: a transport has failed")
            await self._see_its_end()
            if self.current is not None and self.current is not before:
                return not self.current.disconnected  # else it was ended for good
        _logger.error("not connected any more after %d attempts: %s", reconnect.attempts or 0, self._problem)
        if self.current is None:
            self.current = self._last
            self.end_subscriptions(Disconnected(f"not connected any more: {self._problem}", not_processed=True))
        return False

    def _tell_reconnected(self) -> None:
        for callback in list(self.after_reconnect):
            try:
                callback()
            except Exception:
                _logger.exception("a callback of on_reconnect failed")

    # -- what goes on in each

    async def subscribe(self, subscription: Subscription, patience: float | None) -> None:
        """Subscribe in the session that there is, and in all that follow; ``patience`` in seconds for the waiting."""
        subscription.lasting = self._reconnect is not None
        await self.run(lambda session, _: session.events.attach(subscription), None, patience=patience)
        self.subscriptions.append(subscription)
        current = self.current
        if self.closed or (current is not None and current.closed.done()):  # for good, in this very turn
            self.end_subscriptions(self.session.closed_error())
        elif current is not None and not current.departure.announced:
            try:
                await self._renew(current, subscription)  # another one than it was asked in, perhaps
            except BaseException:  # given up: the owner never gets it
                self._drop(subscription)
                raise

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Subscribe to it no more, in any session."""
        telling = self._drop(subscription)
        for problem in await asyncio.gather(*(asyncio.shield(task) for task in telling)):
            if problem is not None:
                raise problem

    def _drop(self, subscription: Subscription) -> list[asyncio.Task[RpcError | None]]:
        if subscription in self.subscriptions:
            self.subscriptions.remove(subscription)
        telling = [session.events.drop(subscription) for session in self.all]
        return [task for task in telling if task is not None]

    async def _subscribe_again(self, session: Session) -> None:
        """All at once: a thousand subscriptions must not take a thousand round trips."""
        await asyncio.gather(*(self._renew(session, subscription) for subscription in self.subscriptions))

    async def _renew(self, session: Session, subscription: Subscription) -> None:
        if subscription.ended or session.events.has(subscription):
            return
        try:
            await session.events.attach(subscription)
            return
        except EchoStreamError as error:
            if isinstance(error, Disconnected) and (session.disconnected or session.departure.announced):
                return  # lost again: the next session will have it
            problem = error
        except Exception as error:  # a middleware that fails
            problem = CallError(StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
            problem.__cause__ = error
        _logger.error(
            "the subscription to %r could not be renewed: %s", subscription.pattern, problem, exc_info=problem.__cause__
        )
        subscription.end(problem)
        self._drop(subscription)

    def end_subscriptions(self, error: EchoStreamError) -> None:
        """No session follows that could go on with them."""
        subscriptions, self.subscriptions = self.subscriptions, []
        for subscription in subscriptions:
            subscription.end(error)

    async def flush(self, timeout: float | None) -> None:
        """Wait until the servers have handled all events emitted so far; see ``Session.flush``."""
        earlier = [session for session in self.leaving if session.events.unacknowledged]
        await asyncio.gather(*(self._handled(session, timeout) for session in (*earlier, self.session)))

    async def _handled(self, session: Session, timeout: float | None) -> None:
        try:
            await session.flush(timeout)
        except Disconnected:
            if not session.departure.as_asked:  # which it ends only when all of them were handled
                raise

    # -- the end

    async def close(self, flush: float) -> None:
        """End every session, and connect no more; see ``RpcClient.close``."""
        self.closed = True
        try:
            if self._redial is not None:
                self._redial.cancel()
                await asyncio.wait({self._redial})
            if self._gate is not None:
                self._gate.open_all()
            if flush > 0:
                await asyncio.gather(*(self._flush(session, flush) for session in self.all))
        finally:
            sessions = self.all
            for session in sessions:
                session.close_now(CloseCode.OK)
            self.end_subscriptions(EndOfStream("the client was closed"))
        for session in sessions:
            await session.close(CloseCode.OK)
        await self._leftovers.clear()

    async def _flush(self, session: Session, timeout: float) -> None:
        try:
            if session.events.unacknowledged and not session.disconnected:
                await session.events.flush(timeout)
        except TimeoutError:
            _logger.warning("%s: the last events were not handled within %g s", session.peer, timeout)
        except Disconnected as error:
            _logger.warning("%s: the last events may be lost: %s", session.peer, error)
