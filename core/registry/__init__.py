"""Finding plugins: where they come from, how they are imported, who gives way when two declare one name."""

from __future__ import annotations
