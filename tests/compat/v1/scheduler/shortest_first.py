"""Short prompts first; waiting buys priority, so that long ones are not starved."""

from maxserve import Scheduler, hookimpl

AGING = 50.0  # prompt tokens forgiven per second waited


class ShortestFirst:
    """Decode all that run, then prefill by what is left to do."""

    def plan(self, view, plan):
        plan.add_each(view.running, 1)
        for request in sorted(view.waiting, key=lambda r: r.todo - AGING * r.waited):
            plan.add(request, request.todo)


@hookimpl
def maxserve_schedulers():
    yield Scheduler(name="shortest-first", build=lambda ctx: ShortestFirst(), summary="short prompts first, with aging")
