"""Where the models that fetch_models.py knows come from, and how each is made a folder that transformers loads."""
