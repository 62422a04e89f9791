"""A typed stand-in for a service: calling its methods calls the peer."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import msgspec

from echostream_core.engine.handlers import make_route, method_mark, service_name

if TYPE_CHECKING:
    from echostream_core.client import RpcClient

__all__ = ["Proxy"]


class Proxy:
    """Calls ``service.method`` for each method of a service class, with its signature's payload shape."""

    def __init__(self, client: RpcClient, cls: type) -> None:
        self._client = client
        self._class = cls
        self._prefix = service_name(cls)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # ``copy`` and ``pickle`` ask before there is a ``_class``
            raise AttributeError(f"{type(self).__name__} has no {attribute}")
        function = getattr(self._class, attribute, None)
        mark = method_mark(function) if function is not None else None
        if function is None or mark is None:
            raise AttributeError(f"{self._class.__name__} has no handler {attribute!r}")
        name = f"{self._prefix}.{mark[0] or attribute}"
        is_static = isinstance(inspect.getattr_static(self._class, attribute), staticmethod)
        route = make_route(name, function if is_static else function.__get__(object()), mark[1])
        signature = route.signature
        names = [parameter for parameter, _, _ in signature.parameters]
        returns = None if signature.returns is inspect.Parameter.empty else signature.returns
        kind = route.kind

        def call(*args: Any, **kwargs: Any) -> Any:
            if len(args) > len(names):
                raise TypeError(f"{name} takes {len(names)} arguments, {len(args)} were given")
            given = dict(zip(names, args, strict=False))
            for key, value in kwargs.items():
                if key not in names or key in given:
                    raise TypeError(f"{name} got an unexpected or repeated argument {key!r}")
                given[key] = value
            for name_, _, default in signature.parameters:
                if default is msgspec.NODEFAULT and name_ not in given:
                    raise TypeError(f"{name} is missing the argument {name_!r}")
            if signature.shape == "one":
                payload: Any = next(iter(given.values()), None)
            else:
                payload = given if names else None
            if kind == "generator":
                return self._client.stream(name, payload, returns=returns)
            if kind == "stream":
                return self._client.open_stream(name, payload)
            return self._client.request(name, payload, returns=returns)

        self.__dict__[attribute] = call
        return call
