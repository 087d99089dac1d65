"""python -m hubstore."""

from hubstore.cli import main

main()
