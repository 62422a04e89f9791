"""The hooks: all that a plugin can tell the kernel.

Hooks register and decide, objects do the work. Every hook is synchronous, runs at start-up or at a change of
configuration, and hands over frozen specs with factories. None is called per message, frame, datagram or timer tick.
A plugin is a module (or object) named in the entry-point group ``echostream.v1.plugins``, with functions marked
``@hookimpl``; a function named ``echostream_…`` that is no hook of this page is an error (E-HOOK).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from echostream_core.codec import CodecSpec
    from echostream_core.components import ComponentSpec
    from echostream_core.discovery import DiscoverySpec
    from echostream_core.kernel import ConfigDiff, Kernel, StateEvent
    from echostream_core.middleware import MiddlewareSpec
    from echostream_core.transport import TransportSpec

__all__ = ["API_VERSION", "HookSpecs", "hookimpl", "hookspec"]

API_VERSION = 1
"""The major version of this page and of the contracts; it stands in the entry-point group's name."""

hookspec = pluggy.HookspecMarker("echostream")
hookimpl = pluggy.HookimplMarker("echostream")
"""Marks a plugin's function as the implementation of the hook of the same name."""


class HookSpecs:
    """The hook specifications, one method each."""

    @hookspec
    def echostream_transports(self) -> Sequence[TransportSpec]:
        """Offer transports, one spec per URL scheme.

        When: once, when the plugin is registered, before any connection. Order between plugins: without meaning.
        Return: all specs, a new or constant sequence; pure, no I/O. A scheme that the plugin's index entries
        (group ``echostream.v1.transports``) name and no spec provides is E-INDEX.
        Errors: an exception disables this plugin only (E-HOOK). Since 0.1.
        """
        raise NotImplementedError

    @hookspec
    def echostream_codecs(self) -> Sequence[CodecSpec]:
        """Offer codecs, one spec per name.

        When, order, return and errors: as for ``echostream_transports``; index group ``echostream.v1.codecs``. Since
        0.1.
        """
        raise NotImplementedError

    @hookspec
    def echostream_discovery(self) -> Sequence[DiscoverySpec]:
        """Offer discovery backends, one spec per name.

        When, order, return and errors: as for ``echostream_transports``; index group ``echostream.v1.discovery``.
        Since 0.1.
        """
        raise NotImplementedError

    @hookspec
    def echostream_middleware(self) -> Sequence[MiddlewareSpec]:
        """Offer middleware, one spec per name.

        When, order, return and errors: as for ``echostream_transports``; index group ``echostream.v1.middleware``.
        Since 0.1.
        """
        raise NotImplementedError

    @hookspec
    def echostream_components(self) -> Sequence[ComponentSpec]:
        """Offer everything of another kind: authenticators, commands, extensions and so on.

        When, order, return and errors: as for ``echostream_transports``; index group ``echostream.v1.<kind>``. Since
        0.1.
        """
        raise NotImplementedError

    @hookspec
    def echostream_validate_config(self, diff: ConfigDiff) -> Sequence[str] | None:
        """Object to a configuration before it takes effect.

        When: each time a configuration is checked or loaded, after the schemas have accepted it. Order: without
        meaning. Return: problems, one sentence each that names its key; None or nothing when content. All answers are
        collected. Errors: an exception counts as a problem of this plugin. Since 0.1.
        """
        raise NotImplementedError

    @hookspec(historic=True)
    def echostream_kernel_ready(self, kernel: Kernel) -> None:
        """The registry is complete and the configuration valid.

        When: once per kernel and plugin; a plugin registered later is called at once (historic). Must not do I/O.
        Return: ignored. Errors: an exception disables this plugin only (E-HOOK). Since 0.1.
        """

    @hookspec
    def echostream_state_changed(self, event: StateEvent) -> None:
        """A server, client endpoint or plugin changed its state (``starting``, ``serving``, ``draining``,
        ``stopped``, …).

        When: at each change, on the event loop's thread; must return at once. Order: without meaning.
        Return: ignored. Errors: logged, never raised. Since 0.1.
        """
