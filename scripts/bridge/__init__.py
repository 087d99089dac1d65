"""Bridges into frozen language models: their data, their parts, their training and what came of it."""
