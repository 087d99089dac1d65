"""What the API serves, a file for each kind of thing: its schema, what answers it, and its routes.

torch, and what needs it, is imported where a request needs it, so that a server listens at once.
"""
