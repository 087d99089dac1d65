"""What the paper's released code computes for its similarity curves, said again plainly, as an oracle.

Their experiment takes the cosine of every x with every y and subtracts the mean of the cells off the diagonal
from those on it (Wu et al., 2025, Equation 1).
"""

import torch


def difference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Matched cosine less the mean mismatched one, of states [n, layers, width]: [layers]."""
    curves = []
    for layer in range(x.shape[1]):
        cells = torch.stack([torch.cosine_similarity(row[None], y[:, layer], dim=-1) for row in x[:, layer]])  # [n, n]
        mismatched = cells[~torch.eye(len(cells), dtype=torch.bool)]
        curves.append((cells.diagonal() - mismatched.mean()).mean())
    return torch.stack(curves)
