"""The SDK: functions called like functions, and many at once. Run it with `python examples/app/app.py`."""

import math
import platform

from quilt_fn import App

app = App("primes")


@app.function(memory_mb=128, timeout_s=20, max_instances=8)
def count(start, stop):
    """How many primes there are from `start` to below `stop`."""
    return sum(n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1)) for n in range(start, stop))


@app.function(memory_mb=128)
def where():
    return platform.node()


if __name__ == "__main__":
    print("here:", count(0, 1000), "there:", count.remote(0, 1000), "on", where.remote())
    ranges = [(n, n + 5_000) for n in range(0, 50_000, 5_000)]
    print("in each 5,000:", list(count.starmap(ranges)))
    print("ten hosts:", sorted(set(where.starmap([()] * 10, order_outputs=False))))
