"""EchoStream beside its peers: one harness, one machine, one run.

``python -m benchmarks.run`` measures; ``python -m benchmarks.profile_calls`` proves that no hook runs per
call. README.md beside this file explains the method and says what the figures cannot tell.
"""
