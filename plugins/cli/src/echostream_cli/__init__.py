"""The ``echostream`` command. The parts are imported by the command that needs them, so that each starts quickly."""
