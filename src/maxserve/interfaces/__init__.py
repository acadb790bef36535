"""What a plugin sees, one module per kind: its declaration, what its build is given, and what it gives."""
