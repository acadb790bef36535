"""From a client's body to the parts of an answer, whatever the wording of the route that took it.

Routes of any plugin build on this: they bring a body in their own wording to the fields here, and put the parts that
come back into their own events.
"""
