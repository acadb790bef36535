"""Short prompts first; waiting buys priority, so that long ones are not starved."""

from __future__ import annotations

from dataclasses import dataclass

from maxserve import ConfigSection, Scheduler, hookimpl


@dataclass(frozen=True, slots=True)
class Config:
    aging: float = 50.0  # prompt tokens forgiven per second waited


class ShortestFirst:
    """Decode all that run, then prefill by what is left to do."""

    def __init__(self, ctx):
        self.aging = ctx.config(Config).aging

    def plan(self, view, plan):
        plan.add_each(view.running, 1)
        for request in sorted(view.waiting, key=lambda r: r.todo - self.aging * r.waited):
            if not plan.tokens_left:
                break
            plan.add(request, min(request.todo, plan.tokens_left))


@hookimpl
def maxserve_schedulers():
    yield Scheduler(name="shortest-first", build=ShortestFirst, summary="short prompts first, with aging")


@hookimpl
def maxserve_config():
    yield ConfigSection(name="shortest-first", schema=Config)
