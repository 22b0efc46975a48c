"""Counters of one pool process in Prometheus' text format (version 0.0.4)."""

import threading
from bisect import bisect_left
from collections import defaultdict

STAGES = ("queue", "decode", "inference", "encode")
_SECONDS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64)


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str, labels: str = "") -> list[str]:
        out, running = [], 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            running += count
            out.append(f'{name}_bucket{{{labels}{"," if labels else ""}le="{bound}"}} {running}')
        braces = f"{{{labels}}}" if labels else ""
        return [*out, f"{name}_sum{braces} {self.total:.6f}", f"{name}_count{braces} {running}"]


class PoolMetrics:
    """Safe across threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: defaultdict[str, int] = defaultdict(int)
        self._stages = {stage: _Histogram(_SECONDS_BOUNDS) for stage in STAGES}
        self._batches = _Histogram(_BATCH_BOUNDS)

    def count_request(self, outcome: str) -> None:
        """One request ended; `outcome` is ok or the kind of error."""
        with self._lock:
            self._requests[outcome] += 1

    def observe_stage(self, stage: str, seconds: float) -> None:
        """One request spent `seconds` in one of STAGES."""
        with self._lock:
            self._stages[stage].add(seconds)

    def observe_batch(self, requests: int) -> None:
        """The device took this many requests at once."""
        with self._lock:
            self._batches.add(requests)

    def render(self, gauges: dict[str, float]) -> str:
        """The text page; `gauges` are values of this moment, by name without prefix."""
        with self._lock:
            lines = ["# TYPE sam3_pool_requests_total counter"]
            lines += [
                f'sam3_pool_requests_total{{outcome="{outcome}"}} {count}'
                for outcome, count in sorted(self._requests.items())
            ]
            lines.append("# TYPE sam3_pool_stage_seconds histogram")
            for stage, histogram in self._stages.items():
                lines += histogram.lines("sam3_pool_stage_seconds", f'stage="{stage}"')
            lines.append("# TYPE sam3_pool_batch_requests histogram")
            lines += self._batches.lines("sam3_pool_batch_requests")
        for name, value in gauges.items():
            lines += [f"# TYPE sam3_pool_{name} gauge", f"sam3_pool_{name} {value:g}"]
        return "\n".join(lines) + "\n"
