"""What it costs: ``python -m benchmarks.speed``, ``python -m benchmarks.pipeline``. Weights are random; nothing is loaded."""
