"""Events from one publisher to many subscribers, ours beside the peers': ``python -m benchmarks.fanout``."""
