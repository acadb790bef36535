"""The interfaces of plugins: one file per kind, with its declaration, its context and its Protocol."""
