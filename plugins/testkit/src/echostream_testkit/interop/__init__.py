"""Crossing implementations: a listener and a dialer as two processes, described by environment variables alone.

Any two programs that keep to the contract of ``docs/interop.md`` can be crossed: another language, another version,
another Python. ``python -m echostream_testkit.interop`` is ours, and ``… matrix FILE.toml`` crosses all that a file
names. In the manner of quic-interop-runner (https://github.com/quic-interop/quic-interop-runner).

Nothing here needs pytest, and nothing beyond the public names of the kernel: the module of today also runs on top of
the kernel of yesterday, which is how a version is crossed with the one before it.
"""
