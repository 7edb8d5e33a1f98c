"""Nearest neighbours in the bank: three ways to the same distances.

`ScreenedSearch` is the fast one on processors that multiply 16-bit floats. It is no approximation:
a bound on the rounding tells which patches 16-bit products cannot rule out, and only those are
looked at in full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from toolkit.errors import MissingExtraError

if TYPE_CHECKING:
    from torch import Tensor

SearchName: TypeAlias = Literal["torch", "faiss"]

_CHUNK = 1024
"""Queries per matrix product, which bounds the memory to this many times the bank's length."""
_GROUP = 16
"""Patches of the bank whose smallest 16-bit distance is kept."""
_HEAD = 0.98
"""Share of the variance in the coordinates that are compared before all are."""
_MANY = 64
"""Groups per query, on average, beyond which looking at each costs more than the full product."""
_BFLOAT_STEP = 2.0**-8
"""At least the relative rounding error of a bfloat16, rounded or cut."""
_FLOAT_STEP = 2.0**-24
_DIRECT = "donot_use_mm_for_euclid_dist"
_FAR = 1e30
"""Half the squared length of the patches that fill the last group."""


class Search(Protocol):
    """Finds how far queries are from a bank."""

    def distances(self, queries: Tensor, k: int) -> Tensor:
        """Return the mean Euclidean distance of each query to its k nearest patches.

        Args:
            queries: float32 tensor (n, d).
            k: neighbours, at most the bank's length.

        Returns:
            float32 tensor (n,).
        """


def make_search(features: Tensor, name: SearchName) -> Search:
    """Return a search in a bank.

    Args:
        features: float32 tensor (m, d). Distances stay the same around another origin, and squares
            keep more digits near it, so best centred.
        name: `torch`, or `faiss` (which needs the extra of this name).

    Raises:
        MissingExtraError: faiss is not installed.
    """
    if name == "faiss":
        return FaissSearch(features)
    if features.device.type == "cpu" and multiplies_16_bit():
        return ScreenedSearch(features)
    return ExactSearch(features)


def multiplies_16_bit() -> bool:
    """Whether the processor has instructions for products of 16-bit floats."""
    import torch

    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch does not tell
        return False
    told = torch.cpu.get_capabilities()
    return bool(told.get("avx512_bf16") or told.get("amx_bf16"))


class ExactSearch:
    """All distances from one matrix product in float32."""

    def __init__(self, features: Tensor) -> None:
        self._features = features
        self._half_squares = features.square().sum(dim=1).mul_(0.5)

    def distances(self, queries: Tensor, k: int) -> Tensor:
        """Return mean distances; see `Search.distances`."""
        import torch

        return torch.cat([self._of_chunk(part, k) for part in torch.split(queries, _CHUNK)])

    def _of_chunk(self, queries: Tensor, k: int) -> Tensor:
        import torch

        # Half the squared distance without the query's own square, which orders alike. Only the
        # smallest values are taken: their places cost more than the product.
        partial = torch.addmm(self._half_squares, queries, self._features.T, alpha=-1.0)
        squares = _smallest(partial, k).mul_(2.0) + queries.square().sum(dim=1, keepdim=True)
        return squares.clamp_min_(0.0).sqrt_().mean(dim=1)


class ScreenedSearch:
    """A bound below each distance from short 16-bit products; in full only what may be nearest.

    Features are turned to their principal axes and cut after the first ones; what is cut off is
    kept as its length alone. Such short features are never further apart than the whole ones
    (triangle inequality). With q' and b' the short query and patch in 16 bits,
    q·b - q'·b' = (q - q')·b + q'·(b - b'), so the product is off by at most
    |q - q'| max|b| + |q'| max|b - b'|, by what float32 sums round, and by the rounding of the
    result to 16 bits. The patch that is nearest by it has a true distance, and whatever is further
    away than that by more than the error cannot be the nearest.
    """

    def __init__(self, features: Tensor) -> None:
        import torch

        count = len(features)
        self._features = features
        self._exact = ExactSearch(features)
        self._groups = -(-count // _GROUP)
        self._axes, shares = principal_axes(features)
        self._head = min(int((shares < _HEAD).sum()) + 1, features.shape[1])
        short = torch.zeros(self._groups * _GROUP, self._head + 1)
        short[:count] = self._shortened(features)
        low = short.bfloat16()
        half_squares = torch.full((len(low),), _FAR)
        half_squares[:count] = features.square().sum(dim=1) / 2
        one = torch.ones(len(low), 3, dtype=torch.bfloat16)
        # The squares ride along as further columns, so that one product is half the squared
        # distance: small where it matters, and its rounding small with it.
        self._bank = torch.cat([-low, _in_three(half_squares), one], dim=1)
        self._longest = features.norm(dim=1).max()
        self._rounding = (short - low.float()).norm(dim=1).max()

    def distances(self, queries: Tensor, k: int) -> Tensor:
        """Return mean distances; see `Search.distances`."""
        import torch

        if k > self._groups:  # of a bank so small that nothing is gained by screening
            direct = torch.cdist(queries, self._features, compute_mode=_DIRECT)
            return _smallest(direct, k).mean(dim=1)
        # In one place for all products: fresh pages for each would cost a third of its time.
        place = torch.empty(min(_CHUNK, len(queries)), len(self._bank), dtype=torch.bfloat16)
        parts = torch.split(queries, _CHUNK)
        return torch.cat([self._of_chunk(part, k, place[: len(part)]) for part in parts])

    def _of_chunk(self, queries: Tensor, k: int, rough: Tensor) -> Tensor:
        import torch

        slack = self._rough(queries, rough)
        grouped = rough.view(len(queries), _GROUP, self._groups)
        # Half squared distances are not negative, but for their rounding, and floats above zero
        # are ordered as the integers with the same bits, whose minimum takes a quarter of the time.
        bits = grouped.view(torch.int16).amin(dim=1)
        least = bits.view(torch.bfloat16).float()
        # The k best of k groups are not always the nearest, but the nearest are no further away.
        if k == 1:
            groups = least.argmin(dim=1, keepdim=True)
        else:
            groups = least.topk(k, dim=1, largest=False).indices
        members = grouped.gather(2, groups[:, None].expand(-1, _GROUP, -1)).float().argmin(dim=1)
        tried = self._features[members * self._groups + groups]
        reach = (queries[:, None] - tried).square_().sum(dim=2).amax(dim=1) / 2
        limit = (reach + slack) * (1 + 2 * _BFLOAT_STEP)
        rows, groups = (least <= limit[:, None]).nonzero(as_tuple=True)
        if len(rows) > _MANY * len(queries):
            return self._exact.distances(queries, k)
        patches = groups[:, None] + torch.arange(_GROUP) * self._groups
        near = rough.view(-1)[rows[:, None] * rough.shape[1] + patches] <= limit[rows][:, None]
        rows, patches = rows[:, None].expand_as(patches)[near], patches[near]
        squares = (queries[rows] - self._features[patches]).square_().sum(dim=1)
        # One line per query, as long as the longest: the n-th candidate of a query at place n.
        counts = torch.bincount(rows, minlength=len(queries))
        places = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        table = torch.full((len(queries), max(k, int(counts.max()))), torch.inf)
        table[rows, places] = squares
        return _smallest(table, k).sqrt_().mean(dim=1)

    def _rough(self, queries: Tensor, out: Tensor) -> Tensor:
        """Put half squared distances into `out`, bfloat16; return how far off they may be, (n,)."""
        import torch

        short = self._shortened(queries)
        low = short.bfloat16()
        squares = queries.square().sum(dim=1)
        one = torch.ones(len(queries), 3, dtype=torch.bfloat16)
        wide = torch.cat([low, one, _in_three(squares / 2)], dim=1)
        torch.mm(wide, self._bank.T, out=out)
        slack: Tensor = (
            (short - low.float()).norm(dim=1) * self._longest
            + low.float().norm(dim=1) * self._rounding
            + 4 * queries.shape[1] * _FLOAT_STEP * (squares.sqrt() + self._longest).square()
        )
        return slack

    def _shortened(self, features: Tensor) -> Tensor:
        """Return the first coordinates along the axes, and the length of the others, (n, h + 1)."""
        import torch

        turned = features @ self._axes
        rest = turned[:, self._head :].norm(dim=1, keepdim=True)
        return torch.cat([turned[:, : self._head], rest], dim=1)


class FaissSearch:
    """The search of the library faiss: all distances, on the CPU."""

    def __init__(self, features: Tensor) -> None:
        try:
            import faiss
        except ImportError as error:
            raise MissingExtraError(
                "faiss-cpu", extra="faiss", purpose="search with --search faiss"
            ) from error
        self._device = features.device
        self._index = faiss.IndexFlatL2(features.shape[1])
        self._index.add(features.cpu().numpy())

    def distances(self, queries: Tensor, k: int) -> Tensor:
        """Return mean distances; see `Search.distances`."""
        import torch

        squares, _ = self._index.search(queries.cpu().numpy(), k)
        found = torch.from_numpy(squares).clamp_min_(0.0).sqrt_().mean(dim=1)
        return found.to(self._device)


def principal_axes(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the directions in which features vary, and how much of their variance the first hold.

    Args:
        features: float32 tensor (m, d), centred.

    Returns:
        Axes as columns, float32 (d, d), by falling variance, and cumulated shares, float64 (d,),
        all 1 where nothing varies.
    """
    import torch

    # Not about the mean: the features come centred, and one alone has no covariance.
    products = features.double().T @ features.double()
    variances, axes = torch.linalg.eigh(products)
    held = variances.flip(0).clamp_min(0).cumsum(0)
    shares = held / held[-1] if held[-1] > 0 else torch.ones_like(held)
    return axes.flip(1).float().contiguous(), shares


def _smallest(values: Tensor, k: int) -> Tensor:
    """Return the k smallest of each line, ascending, (n, k)."""
    if k == 1:  # in a tenth of the time
        return values.amin(dim=1, keepdim=True)
    return values.topk(k, dim=1, largest=False).values


def _in_three(values: Tensor) -> Tensor:
    """Return float32 values (n,) as three bfloat16 columns that add up to them."""
    import torch

    high = values.bfloat16()
    rest = values - high.float()
    middle = rest.bfloat16()
    return torch.stack([high, middle, (rest - middle.float()).bfloat16()], dim=1)
