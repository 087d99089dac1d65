"""What the experiments are done on: made here, or shipped in a folder with its license and origin, or the user's."""

from importlib.resources import files


def shipped_bytes(name: str) -> bytes:
    """The bytes of a file that ships, such as "mbpp/mbpp.jsonl.xz"."""
    return (files("hubstore.experiments.materials") / name).read_bytes()
