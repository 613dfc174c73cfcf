"""When a call that comes now would be answered, and when to come back if that is too late. Pure; in seconds.

The queue drains in batches of `batch_rows` rows over `instances` instances, each of which takes s(n) = a + b·n. With one
instance the prediction is exact for calls that come and go in order; with more it is that of a fluid (work divided by
instances) with the call's own batch as full as it may be, so that a promise is kept rather than broken.
"""

from __future__ import annotations

from .cost import CostModel

__all__ = ["predicted_wait", "retry_after"]

_LONGEST = 86400.0
"""Seconds that no prediction exceeds: whoever reads one wants a number."""


def predicted_wait(
    queued_rows: int,
    running_rows_residual_seconds: float,
    rows: int,
    cost: CostModel,
    instances: int,
    batch_rows: int,
) -> float:
    """Seconds until a call of `rows` rows that comes now would be answered: what is before it, and its own batch.

    `running_rows_residual_seconds` is what is left of the batches that run, added up over the instances. With `rows` = 0:
    when all that waits now is done. While `cost` is unmeasured only what runs is known. Never more than a day.
    """
    instances, batch_rows = max(instances, 1), max(batch_rows, 1)
    waiting = max(queued_rows, 0) + max(rows, 0)
    batches = -(-waiting // batch_rows)
    work = cost.fixed * batches + cost.per_row * waiting
    own = cost.seconds(min(waiting, batch_rows)) if waiting else 0.0
    residual = max(running_rows_residual_seconds, 0.0)
    seconds = (residual + max(work - own, 0.0)) / instances + own
    return seconds if seconds < _LONGEST else _LONGEST


def retry_after(
    queued_rows: int,
    running_rows_residual_seconds: float,
    rows: int,
    cost: CostModel,
    instances: int,
    batch_rows: int,
    *,
    allowed: float,
) -> float:
    """Seconds until a call of `rows` rows that may take `allowed` seconds would be admitted, if nobody else comes; 0.0: now.

    A call that takes longer than it may even when nothing else is there is told when that will be the case: by then the model
    may have become quicker, and nothing before has a chance.
    """
    state = (running_rows_residual_seconds, rows, cost, instances, batch_rows)
    if predicted_wait(queued_rows, *state) <= allowed:
        return 0.0
    drained = predicted_wait(queued_rows, running_rows_residual_seconds, 0, cost, instances, batch_rows)
    alone = predicted_wait(0, 0.0, rows, cost, instances, batch_rows)
    # Not the wait less what is allowed: a call that comes when the queue has been taken shares no batch with it.
    return min(drained, max(drained + alone - max(allowed, 0.0), 0.0))
