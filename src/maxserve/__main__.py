"""`python -m maxserve`, the same as `max`."""

from __future__ import annotations

from maxserve.core.cli import main

if __name__ == "__main__":
    main()
