"""The fixtures of maxserve's kit."""

pytest_plugins = ["maxserve.testing"]
