"""A chat room for terminals, over any transport. README.md says how to use it.

``service.py`` is the server: rooms, and the one call by which something is said. ``conversation.py`` is the client,
``screen.py`` what it needs of a terminal or a pipe, ``editor.py`` the line that is typed, ``cli.py`` the commands.
"""
