"""End tokens, and what grammars know of a vocabulary."""
