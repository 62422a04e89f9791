"""Send and fetch files over any transport; what was interrupted goes on where it stopped. README.md says how to use it.

``protocol.py`` is what both ends agree on, ``landing.py`` a file while it arrives (at the server for uploads, at the
client for downloads), ``service.py`` the server, ``transfer.py`` the client, ``cli.py`` the commands.
"""
