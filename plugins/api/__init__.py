"""HTTP APIs, one folder per dialect, and what they have in common."""
