"""Statistics in the log."""

from __future__ import annotations

import logging

from maxserve.interfaces.observer import ObserverContext, RequestStats, StepStats

log = logging.getLogger("maxserve.stats")

INTERVAL = 5.0  # seconds between lines


class LogLine:
    """One line every few seconds while requests run or wait; silent when idle."""

    def __init__(self, context: ObserverContext) -> None:
        self._since: StepStats | None = None
        self._steps = 0  # of the worker, when it was last heard

    def on_step(self, stats: StepStats) -> None:
        began_anew = stats.steps < self._steps
        self._steps = stats.steps
        if self._since is None or began_anew:
            self._since = stats
            return
        if stats.time - self._since.time < INTERVAL:
            return
        if stats.running or stats.waiting:
            log.info("%s", _line(self._since, stats))
        self._since = stats

    def on_request(self, stats: RequestStats) -> None:
        """Requests have their own line in the access log."""


def _line(before: StepStats, now: StepStats) -> str:
    seconds = now.time - before.time
    queries = now.prefix_queries - before.prefix_queries
    hits = now.prefix_hits - before.prefix_hits
    return (
        f"{now.running} running, {now.waiting} waiting; "
        f"{(now.prompt_tokens - before.prompt_tokens) / seconds:.0f} prompt and "
        f"{(now.generated_tokens - before.generated_tokens) / seconds:.0f} generated tokens/s; "
        f"cache {now.cache.owned / max(now.cache.total, 1):.0%} in use, "
        f"{hits / max(queries, 1):.0%} of prompt tokens found in it{_drafts(before, now)}"
    )


def _drafts(before: StepStats, now: StepStats) -> str:
    """How many drafts stood, by their position; empty where there were none."""
    drafts, tokens = now.drafts - before.drafts, now.draft_tokens - before.draft_tokens
    if not drafts:
        return ""
    earlier = (*before.accepted_by_depth, *(0 for _ in now.accepted_by_depth))
    stood = [new - old for new, old in zip(now.accepted_by_depth, earlier, strict=False)]
    shares = " ".join(f"{count / drafts:.0%}" for count in stood)
    return f"; {sum(stood) / tokens:.0%} of {tokens} drafts stood, by position {shares}"
