"""The answers: from a snapshot and a question to a table or a record; they know nothing of HTTP."""
