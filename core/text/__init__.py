"""Tokenizer, detokenizer, special and end tokens."""
