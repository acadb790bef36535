"""What HTTP dialects have in common: from a chat to the parts of an answer."""
