"""What a plugin sees: one file per kind, with its declaration, what its build is given and what it gives."""
