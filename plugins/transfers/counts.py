"""What is counted of transfers."""

from __future__ import annotations

import msgspec


class Counts(msgspec.Struct):
    """Totals since the worker's start."""

    transfers: int = 0
    seconds: float = 0.0
    bytes: int = 0
    failures: int = 0
    leases_expired: int = 0

    @property
    def series(self) -> tuple[tuple[str, float], ...]:
        """By the names of their series."""
        return (
            ("kv_transfers", self.transfers),
            ("kv_transfer_seconds", self.seconds),
            ("kv_transfer_bytes", self.bytes),
            ("kv_transfer_failures", self.failures),
            ("kv_transfer_leases_expired", self.leases_expired),
        )
