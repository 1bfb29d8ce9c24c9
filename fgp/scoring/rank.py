"""The rank of many small matrices at once."""

import torch
from torch import Tensor

_AT_ONCE = 2**20  # numbers in one chunk: its float64 copies stay small


def matrix_ranks(matrices: Tensor) -> Tensor:
    """Return what `torch.linalg.matrix_rank` returns for each matrix, without the singular values of most: int64 (...).

    Most feature maps are, but for rows and columns of zeros, of full rank, and a Cholesky factorisation proves that at a fraction
    of the cost. Only the others get their singular values computed.

    Args:
        matrices: (..., H, W), floats.
    """
    height, width = matrices.shape[-2:]
    if matrices.dtype != torch.float32:
        return torch.linalg.matrix_rank(matrices)
    parts = matrices.reshape(-1, height, width).split(max(1, _AT_ONCE // (height * width)))
    return torch.cat([_ranks(part) for part in parts]).view(matrices.shape[:-2])


def _ranks(matrices: Tensor) -> Tensor:
    filled = matrices != 0
    rows, columns = filled.any(2).sum(1), filled.any(1).sum(1)
    ranks = torch.minimum(rows, columns)
    wide = rows <= columns
    doubtful = torch.empty_like(wide)
    doubtful[wide] = ~_independent(matrices[wide])
    doubtful[~wide] = ~_independent(matrices[~wide].mT)
    ranks[doubtful] = torch.linalg.matrix_rank(matrices[doubtful])
    return ranks


def _independent(matrices: Tensor) -> Tensor:
    """Tell of which matrices (N, H, W) the rows that are not zero are surely independent by the measure of `matrix_rank`: (N,).

    That is, their smallest singular value is above twice a bound of its tolerance max(H, W) eps sigma_max, and so far above the
    smallest float that no digits are lost there: the product A A^T less the square of that limit is positive definite. In
    float64 it holds all digits that the question needs.
    """
    floats = torch.finfo(matrices.dtype)
    rows = matrices.double()
    product = rows @ rows.mT
    diagonal = product.diagonal(dim1=1, dim2=2)
    bound = diagonal.sum(1, keepdim=True)  # of sigma_max^2
    limit = ((2 * max(matrices.shape[1:]) * floats.eps) ** 2 * bound).clamp(min=(floats.tiny / floats.eps) ** 2)
    diagonal.copy_(torch.where(diagonal > 0, diagonal - limit, 1))
    return torch.linalg.cholesky_ex(product).info == 0
