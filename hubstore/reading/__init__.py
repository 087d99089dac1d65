"""From items to the arrays that a model is given, here or ahead of need in other processes; texts without torch."""
