"""The routes: what each takes from a request, and which answer it gives."""
