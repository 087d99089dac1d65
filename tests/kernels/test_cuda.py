"""The Triton kernels against their definitions: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("triton")

from hubstore.errors import NonFiniteError, OptionError
from hubstore.kernels import cuda, reference
from hubstore.kernels.cuda import candidates, eight_bits, float32_pass, lens, pairs, small_batch, sweep, topk

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
pytestmark = [pytest.mark.gpu] if ON_GPU else []
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# The interpreter reads tiles of bfloat16 as integers; a GPU does not.
SWEPT_DTYPES = DTYPES if ON_GPU else [torch.float32, torch.float16]
MANY = 5 if ON_GPU else 3
"""Queries that are swept for: more than the few for which rows are read."""

SHAPES = [(1, 1), (37, 5), (130, 33), (201, 96)]


def grid(*axes, cpu):
    """Every combination on a GPU; in the interpreter, which takes seconds for each, the boundaries' of `cpu` alone."""
    return [(*shape, *rest) for shape, *rest in itertools.product(*axes)] if ON_GPU else cpu


def sized(gpu, cpu):
    """A size on a GPU, and one in the interpreter that crosses the same borders of its smaller tiles."""
    return gpu if ON_GPU else cpu


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """In the interpreter, tiles of which the shapes above hold several, none of them whole."""
    if not ON_GPU:
        sizes = {"TILE_M": 16, "TILE_N": 64, "TILE_K": 16, "WIDE_TILE_N": 64, "WIDE_TILE_K": 16}
        for name, size in {**sizes, "EIGHT_TILE_N": 64, "EIGHT_TILE_K": 32}.items():
            monkeypatch.setattr(sweep, name, size)
        for queries in small_batch.TILES:
            monkeypatch.setitem(small_batch.TILES, queries, small_batch.Tile(16, 32, 4, 1))
        monkeypatch.setattr(small_batch, "PARTS", 4)
        monkeypatch.setattr(float32_pass, "ROWS", 4)
        for module in (small_batch, topk):
            monkeypatch.setattr(module, "FEW", 2)


def normal(n, width, seed=0, dtype=torch.float32):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def massive(n, width, seed=0, dtype=torch.float32):
    """States as large models have them: a few dimensions a thousand times the others, nearly constant."""
    rows = normal(n, width, seed)
    rows[:, : max(1, width // 16)] += 1000
    return rows.to(dtype)


def assert_same_neighbors(queries, rows, k):
    """Scores agree to float32, and what is found where float64 finds another is as near."""
    scores, indices = cuda.topk_cosine(queries, rows, k)
    expected, expected_indices = reference.topk_cosine(queries.cpu(), rows.cpu(), k)
    assert scores.dtype == torch.float32
    assert indices.dtype == torch.int64
    torch.testing.assert_close(scores.cpu(), expected, rtol=0, atol=1.2e-7)
    assert torch.equal(indices.cpu(), expected_indices)


@pytest.mark.parametrize(
    ("n", "width", "states", "dtype"),
    grid(
        SHAPES,
        [normal, massive],
        DTYPES,
        cpu=[
            (1, 1, normal, torch.float32),
            (37, 5, normal, torch.bfloat16),
            (130, 33, massive, torch.float16),
        ],
    ),
)
def test_topk_is_the_reference(n, width, states, dtype):
    queries, rows = states(MANY, width, 1, dtype), states(n, width, 2, dtype)
    assert_same_neighbors(queries, rows, 3)


def test_topk_of_more_than_there_is_and_of_nothing():
    scores, indices = cuda.topk_cosine(normal(6, 8), normal(4, 8, 1), 6)
    assert (indices[:, 4:] == -1).all()
    assert (scores[:, 4:] == -torch.inf).all()
    assert sorted(indices[0, :4].tolist()) == [0, 1, 2, 3]
    scores, indices = cuda.topk_cosine(normal(6, 8), iter([]), 2)
    assert (indices == -1).all()
    assert cuda.topk_cosine(normal(0, 8), normal(4, 8), 2)[0].shape == (0, 2)


def test_topk_gives_equal_rows_by_index_however_many_there_are():
    n, k = sized((300, 30), (100, 5))
    rows = normal(n, 24)
    rows[torch.arange(3, n, 2)] = rows[3].clone()
    queries = torch.cat([rows[3:4], normal(MANY - 1, 24, 5)])
    _, indices = cuda.topk_cosine(queries, rows, k)
    assert indices[0].tolist() == list(range(3, 3 + 2 * k, 2))
    _, indices = cuda.topk_cosine(queries, torch.ones(n, 24, device=DEVICE), sized(7, 3))
    assert (indices.cpu() == torch.arange(indices.shape[1])).all()


def test_topk_where_the_nearest_rows_stand_side_by_side():
    """All of the best in one group of sixteen: more than the two that a sweep keeps of it."""
    n, k = sized((260, 20), (100, 5))
    queries = normal(MANY, 24, 1)
    rows = normal(n, 24, 2)
    rows[n // 2 : n // 2 + 32] = queries[2] + 0.01 * normal(32, 24, 3)
    assert_same_neighbors(queries, rows, k)


def test_topk_of_negative_cosines():
    queries = normal(MANY, 24, 1).abs()
    assert_same_neighbors(queries, -normal(sized(150, 70), 24, 2).abs(), 3)


def test_topk_of_segments_is_topk_of_the_whole(monkeypatch):
    monkeypatch.setattr(topk, "BLOCK_BYTES", 100 * 24 * 4)
    k = sized(9, 4)
    queries, rows = normal(MANY, 24), normal(203, 24, 1)
    rows[150:] = rows[:53]
    bounds = sized([0, 1, 90, 91, 150, 203], [0, 1, 110, 203])
    segments = [(a, rows[a:b]) for a, b in itertools.pairwise(bounds)]
    whole = cuda.topk_cosine(queries, rows, k)
    for order in sized([segments, segments[::-1]], []):
        scores, indices = cuda.topk_cosine(queries, iter(order), k)
        assert torch.equal(scores, whole[0])
        assert torch.equal(indices, whole[1])
    scores, shifted = cuda.topk_cosine(queries, ((a + 1000, s.cpu()) for a, s in segments[::-1]), k)
    assert torch.equal(scores, whole[0])
    assert torch.equal(shifted, whole[1] + 1000)


def test_topk_sweeps_queries_and_rows_in_parts(monkeypatch):
    at_once = sized(64, 16)
    monkeypatch.setattr(topk, "QUERIES", at_once)
    monkeypatch.setattr(topk, "CANDIDATE_BYTES", at_once * 8 * sweep.TILE_N // 16)
    queries, rows = normal(at_once + 3, 16, 1), normal(2 * sweep.TILE_N + 5, 16, 2)
    assert_same_neighbors(queries, rows, 2)


def test_many_candidates_are_chosen_in_pytorch_as_few_are_in_one_kernel(monkeypatch):
    queries, rows = normal(MANY, 24, 1), normal(sized(200, 130), 24, 2)
    rows[100:110] = rows[50]
    expected = cuda.topk_cosine(queries, rows, 5)
    monkeypatch.setattr(candidates, "FEW", 0)
    monkeypatch.setattr(pairs, "RANKED", 0)
    found = cuda.topk_cosine(queries, rows, 5)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("states", sized([normal, massive], [massive]))
def test_few_queries_find_what_many_do(monkeypatch, states):
    queries, rows = states(small_batch.FEW, 40, 1), states(sized(210, 130), 40, 2)
    found = cuda.topk_cosine(queries, rows, 5)
    monkeypatch.setattr(topk, "FEW", 0)
    expected = cuda.topk_cosine(queries, rows, 5)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.fixture
def tried_in_8_bits(monkeypatch):
    """Every search is tried in 8 bits; gives those sweeps that were made in them."""
    monkeypatch.setattr(eight_bits, "LEAST_WORK", 0)
    monkeypatch.setattr(eight_bits, "LEAST_WIDTH", 0)
    monkeypatch.setattr(eight_bits, "ASKED", sized(256, 3))
    monkeypatch.setattr(eight_bits, "SEARCHED", 1 << 15 if ON_GPU else 64)
    monkeypatch.setattr(eight_bits, "PIECE", sized(1024, 16))
    monkeypatch.setattr(topk, "FEW", 0)
    swept = []
    engine_sweep = sweep.sweep

    def record(left, right, *rest):
        swept.append((right.dtype, len(right)))
        engine_sweep(left, right, *rest)

    monkeypatch.setattr(sweep, "sweep", record)
    return swept


def one_large(n, width, seed=0, dtype=torch.float32):
    """States about a mean, each with one element eighteen times the others', as Gemma's middle layers have."""
    rows = normal(n, width, seed)
    rows[:, 1] = 18 * rows[:, 1].sign()
    return (rows + normal(1, width, 9)).to(dtype)


@pytest.mark.parametrize(
    ("n", "width", "states", "dtype"),
    grid(
        [(5001, 96), (70_001, 384)],
        [normal, massive, one_large],
        [*DTYPES, torch.float64],
        cpu=[
            (69, 33, one_large, torch.float32),
            (90, 40, massive, torch.float16),
        ],
    ),
)
def test_neighbors_that_8_bits_choose_are_the_reference(tried_in_8_bits, n, width, states, dtype):
    rows = states(n, width, 2, dtype)
    rows[n // 2] = rows[3]
    queries = torch.cat([rows[3:4], states(sized(600, 3), width, 1, dtype)])
    assert_same_neighbors(queries, rows, sized(10, 3))
    assert (torch.int8, n) in tried_in_8_bits
    assert {dtype for dtype, _ in tried_in_8_bits} == {torch.int8}


def test_a_search_stays_at_16_bits_where_8_lose_a_neighbor(monkeypatch, tried_in_8_bits, caplog):
    monkeypatch.setattr(eight_bits, "ASKED", 5)
    width, n = 64, sized(5000, 260)
    monkeypatch.setattr(eight_bits, "SEARCHED", n)
    direction = normal(1, width, 3)
    rows = direction + 0.03 * normal(n, width, 2)
    rows[::2] *= -1  # of which the mean is nothing: what most of them have in common stays
    queries = direction + 0.03 * normal(sized(600, 6), width, 1)
    with caplog.at_level("INFO"):
        assert_same_neighbors(queries, rows, 3)
    assert [dtype for dtype, _ in tried_in_8_bits] == [torch.int8, *[torch.float16] * (len(tried_in_8_bits) - 1)]
    assert "stays at 16 bits" in caplog.text


def test_what_8_bits_cannot_hold_is_named_by_its_row(tried_in_8_bits):
    rows = normal(sized(5000, 90), 32)
    rows[77, 5] = torch.nan
    with pytest.raises(NonFiniteError, match="row 77 of rows"):
        cuda.topk_cosine(normal(sized(600, 6), 32, 1), rows, 3)


@pytest.mark.parametrize("states", [normal, massive, one_large])
def test_rows_in_8_bits_are_within_half_a_step_of_what_they_hold(states):
    rows = states(sized(300, 21), 40, 4, torch.float16)
    rows[5] = 0
    direction = cuda.rows.common_direction(rows)
    found = eight_bits.quantized(rows, direction)
    wide = rows.double()
    unit = wide / wide.norm(dim=1, keepdim=True).clamp_min(1e-300)
    center = (direction.unit.double() * direction.level).float().double()
    error = found.values.double() * found.scale.double()[:, None] - (unit - center)
    assert (error.abs() <= 0.501 * found.scale.double()[:, None]).all()
    if direction.nonzero:
        torch.testing.assert_close(found.along.double(), (unit - center) @ center, rtol=1e-6, atol=1e-9)
    assert not int(found.bad)


@pytest.mark.parametrize(
    ("q", "width", "states", "dtypes"),
    grid(
        [(1, 24), (3, 33), (17, 296), (64, 40)],
        [normal, massive],
        [*((dtype, dtype) for dtype in DTYPES), (torch.float32, torch.float16)],
        cpu=[
            (1, 24, normal, (torch.float16, torch.float16)),
            (3, 33, normal, (torch.float16, torch.float16)),
            (17, 24, normal, (torch.float16, torch.float16)),
            (2, 24, massive, (torch.float32, torch.float16)),
            (2, 24, normal, (torch.float32, torch.float32)),
            (3, 24, normal, (torch.float32, torch.float32)),
        ],
    ),
)
def test_what_one_pass_answers_for_few_queries_is_the_reference(monkeypatch, q, width, states, dtypes):
    monkeypatch.setattr(small_batch, "PARTS", 8)  # of several tiles each, none of which the rows fill
    monkeypatch.setattr(small_batch, "SLACK", 1)  # fewer groups are chosen than there are
    queries, rows = states(q, width, 1, dtypes[0]), states(sized(5003, 251), width, 2, dtypes[1])
    rows[100:104] = queries[0] + 1e-3 * rows[100:104]  # side by side, more than one of a group
    rows[[7, 150]] = rows[100].clone()
    found = small_batch.small_batch_topk(queries, rows, 5, torch.float64)
    if states is normal:
        assert found is not None
    if found is not None:
        scores, indices = reference.topk_cosine(queries.cpu(), rows.cpu(), 5)
        torch.testing.assert_close(found[0].float().cpu(), scores, rtol=0, atol=1.2e-7)
        assert torch.equal(found[1].cpu(), indices)


def test_searches_that_repeat_read_the_rows_and_queries_of_their_time():
    rows = normal(sized(3000, 70), 24, 2, torch.float16)
    for turn in range(sized(5, 2)):
        for q in sized((1, 3, 4, 40), (1, 2)):
            assert_same_neighbors(normal(q, 24, 10 * turn + q, torch.float16), rows, 3)
        rows[turn * 10] = -rows[turn * 10]


def test_rows_that_products_do_not_tell_apart_are_searched_for_anew(monkeypatch):
    monkeypatch.setattr(small_batch, "SLACK", 1)
    queries, rows = normal(3, 24, 1), normal(1, 24, 2) + 1e-6 * normal(sized(900, 100), 24, 3)
    assert small_batch.small_batch_topk(queries, rows, 3, torch.float64) is None
    assert_same_neighbors(queries, rows, 3)


@pytest.mark.parametrize(
    ("n", "width", "dtype"),
    grid(
        SHAPES,
        SWEPT_DTYPES,
        cpu=[(1, 1, torch.float16), (37, 5, torch.float16), (70, 33, torch.float32)],
    ),
)
def test_match_rank_is_the_reference(n, width, dtype):
    x = normal(n, width, 1)
    y = (x + normal(n, width, 2)).to(dtype)
    x = x.to(dtype)
    bias_x, bias_y = (0.01 * normal(1, n, seed)[0].double() for seed in (3, 4))
    for biases in ({}, {"bias_x": bias_x, "bias_y": bias_y}):
        expected = reference.match_rank(x.cpu(), y.cpu(), **{name: bias.cpu() for name, bias in biases.items()})
        for found, wanted in zip(cuda.match_rank(x, y, **biases), expected, strict=True):
            # Rows of odd width are rounded to 16 bits: candidates as near as the match may change sides.
            assert (found.cpu() != wanted).float().mean() < 0.03
            assert (found.cpu() - wanted).abs().max() <= 1


@pytest.mark.parametrize("dtype", sized(SWEPT_DTYPES, [torch.float16]))
def test_match_rank_of_crowded_states_is_off_where_cosines_are_alike_alone(dtype):
    n = sized(201, 101)
    x = massive(n, 96, 1)
    y = (x + normal(n, 96, 2)).to(dtype)
    x = x.to(dtype)
    expected = reference.match_rank(x.cpu(), y.cpu())
    for found, wanted in zip(cuda.match_rank(x, y), expected, strict=True):
        assert (found.cpu() != wanted).float().mean() < 0.02
        assert (found.cpu() - wanted).abs().max() <= 1


def test_match_rank_counts_equal_rows_of_smaller_index():
    n = sized(150, 80)
    equal = [20, 63, 64, n - 1]
    y = normal(n, 24)
    y[equal] = y[3].clone()
    expected = torch.zeros(n, dtype=torch.int64)
    expected[equal] = torch.tensor([1, 2, 3, 4])
    for ranks in cuda.match_rank(y, y):
        assert torch.equal(ranks.cpu(), expected)
    ones = torch.ones(n, 8, device=DEVICE)
    assert torch.equal(cuda.match_rank(normal(n, 8), ones)[0].cpu(), torch.arange(n))


@pytest.mark.parametrize(("states", "dtype"), [(massive, torch.float32), (normal, torch.float16)][: sized(2, 1)])
def test_match_rank_of_rows_in_blocks(monkeypatch, states, dtype):
    from hubstore.kernels.cuda import match

    monkeypatch.setattr(match, "COPIED_BYTES", 1)
    monkeypatch.setattr(match, "STORED_ROWS", sweep.TILE_N)
    n = sweep.TILE_N * sized(2, 1) + 7
    x = states(n, 16, 1)
    y = (x + 20 * normal(n, 16, 2)).to(dtype)
    x = x.to(dtype)
    for found, wanted in zip(cuda.match_rank(x, y), reference.match_rank(x.cpu(), y.cpu()), strict=True):
        assert (found.cpu() - wanted).abs().max() <= 3


def test_match_ranks_of_both_directions_and_csls_are_the_reference():
    n, k = sized((40, 5), (9, 2))
    x = normal(n, 24, 1)
    y = x + normal(n, 24, 2)
    fast, slow = cuda.match_ranks(x, y, neighbors=k), reference.match_ranks(x.cpu(), y.cpu(), neighbors=k)
    for name in ("forward", "backward", "csls_forward", "csls_backward"):
        assert torch.equal(getattr(fast, name).cpu(), getattr(slow, name)), name


@pytest.mark.parametrize(
    ("n", "width", "dtype"),
    grid(
        SHAPES,
        [*DTYPES, torch.float64],
        cpu=[
            (1, 1, torch.float32),
            (37, 5, torch.float16),
            (40, 33, torch.bfloat16),
            (20, 5, torch.float64),
        ],
    ),
)
def test_paired_cosine_is_the_reference_for_one_layer_and_for_many(n, width, dtype):
    x = torch.stack([massive(n, width, seed, dtype) for seed in range(3)])
    y = torch.stack([massive(n, width, seed + 3, dtype) for seed in range(3)])
    tolerance = 1e-6 if dtype in (torch.float16, torch.bfloat16) else 1e-12
    many, expected = cuda.paired_cosine(x, y), reference.paired_cosine(x.cpu(), y.cpu())
    one = cuda.paired_cosine(x[1], y[1])
    for name in ("cosines", "sum_x", "sum_y"):
        wanted = getattr(expected, name)
        assert getattr(many, name).dtype == torch.float64
        torch.testing.assert_close(getattr(many, name).cpu(), wanted, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(getattr(one, name).cpu(), wanted[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("n", "width", "vocabulary", "dtype"),
    grid(
        [(1, 1, 2), (37, 24, 300), (20, 16, 128), (33, 20, 65)],
        SWEPT_DTYPES,
        cpu=[
            (1, 1, 2, torch.float32),
            (17, 20, 65, torch.float16),
        ],
    ),
)
def test_lens_sweep_is_the_reference(n, width, vocabulary, dtype):
    hidden, unembedding = normal(n, width, 1, dtype), normal(vocabulary, width, 2, dtype)
    hidden[n // 2] = 0
    if vocabulary > 60:
        unembedding[50:60] = unembedding[5].clone()  # ties, within a tile and across tiles
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(0, vocabulary, (n, 4), generator=generator)
    targets[:, 0] = min(55, vocabulary - 1)
    groups = torch.rand(vocabulary, 3, generator=generator)
    k = min(7, vocabulary)
    found = cuda.lens_sweep(hidden, unembedding, targets=targets.to(DEVICE), k=k, groups=groups.to(DEVICE))
    wanted = reference.lens_sweep(hidden.cpu(), unembedding.cpu(), targets=targets, k=k, groups=groups)
    for name in ("target_ranks", "top_tokens"):
        assert torch.equal(getattr(found, name).cpu(), getattr(wanted, name)), name
    for name in ("log_partition", "entropy", "target_log_probabilities", "top_log_probabilities", "group_mass"):
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(wanted, name), rtol=3e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "width", "vocabulary"), grid([(37, 24, 300), (33, 20, 65)], cpu=[(17, 20, 65)]))
def test_float32_states_of_any_size_are_read_through_float16_numbers(n, width, vocabulary):
    scales = torch.tensor([1e-25, 1.0, 1e3]).repeat(n)[:n, None]  # of states: each row has a power of two of its own
    hidden, unembedding = normal(n, width, 1), normal(vocabulary, width, 2) * 1e-3
    hidden = (hidden.cpu() * scales).to(DEVICE)
    unembedding[50:60] = unembedding[5].clone()
    targets = torch.randint(0, vocabulary, (n, 4), generator=torch.Generator().manual_seed(3))
    targets[:, 0] = 55
    groups = torch.rand(vocabulary, 3, generator=torch.Generator().manual_seed(3))
    found = cuda.lens_sweep(hidden, unembedding, targets=targets.to(DEVICE), k=7, groups=groups.to(DEVICE))
    wanted = reference.lens_sweep(hidden.cpu(), unembedding.cpu(), targets=targets, k=7, groups=groups)
    for name in ("target_ranks", "top_tokens"):
        assert torch.equal(getattr(found, name).cpu(), getattr(wanted, name)), name
    for name in ("log_partition", "entropy", "target_log_probabilities", "top_log_probabilities", "group_mass"):
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(wanted, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_state_that_is_not_finite_is_named_among_many(bad):
    hidden, unembedding = normal(40, 8, 1), normal(70, 8, 2)
    hidden[23, 4] = bad
    with pytest.raises(NonFiniteError, match="row 23 of hidden"):
        cuda.lens_sweep(hidden, unembedding)
    with pytest.raises(NonFiniteError, match="row 23 of unembedding"):
        cuda.lens_sweep(unembedding, hidden)


@pytest.mark.parametrize("vocabulary", sized([65, 128], [65]))
def test_lens_sweep_of_capped_logits_is_the_reference(vocabulary):
    n = sized(33, 17)
    hidden, unembedding = normal(n, 16, 1), normal(vocabulary, 16, 2)
    options = {"targets": torch.arange(n)[:, None], "k": 5, "groups": torch.eye(vocabulary)[:, :3], "softcap": 5.0}
    on_device = {
        name: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for name, value in options.items()
    }
    found = cuda.lens_sweep(hidden, unembedding, **on_device)
    wanted = reference.lens_sweep(hidden.cpu(), unembedding.cpu(), **options)
    assert torch.equal(found.top_tokens.cpu(), wanted.top_tokens)
    for name in ("log_partition", "entropy", "target_log_probabilities", "top_log_probabilities", "group_mass"):
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(wanted, name), rtol=1e-5, atol=1e-5)


def test_lens_sweep_sums_the_mass_of_more_groups_than_one_sweep_takes():
    hidden, unembedding = normal(19, 16, 1), normal(150, 16, 2)
    groups = torch.rand(150, 16 * lens.PANELS + 7, generator=torch.Generator().manual_seed(3)) * 1e6
    found = cuda.lens_sweep(hidden, unembedding, k=3, groups=groups.to(DEVICE))
    wanted = reference.lens_sweep(hidden.cpu(), unembedding.cpu(), k=3, groups=groups)
    assert torch.equal(found.top_tokens.cpu(), wanted.top_tokens)
    torch.testing.assert_close(found.group_mass.cpu(), wanted.group_mass, rtol=3e-5, atol=0)


@pytest.mark.parametrize("t", sized([3, 6], [6]))
def test_lens_sweep_counts_the_ranks_of_more_targets_than_one_sweep_takes(t):
    hidden, unembedding = normal(19, 16, 1), normal(150, 16, 2)
    targets = torch.randint(0, 150, (19, t), generator=torch.Generator().manual_seed(3))
    found = cuda.lens_sweep(hidden, unembedding, k=3, targets=targets.to(DEVICE))
    wanted = reference.lens_sweep(hidden.cpu(), unembedding.cpu(), k=3, targets=targets)
    for name in ("target_ranks", "top_tokens"):
        assert torch.equal(getattr(found, name).cpu(), getattr(wanted, name)), name
    quick = cuda.lens_sweep(hidden, unembedding, targets=targets.to(DEVICE), ranks=False)
    assert quick.target_ranks.shape == (19, 0)
    assert torch.equal(quick.target_log_probabilities, found.target_log_probabilities)


def test_lens_sweep_of_no_targets_tokens_or_groups():
    found = cuda.lens_sweep(normal(5, 16), normal(70, 16, 1))
    assert found.log_partition.shape == (5,)
    for name in ("target_log_probabilities", "target_ranks", "top_log_probabilities", "top_tokens", "group_mass"):
        assert getattr(found, name).shape == (5, 0)


def test_lens_sweep_of_two_dtypes_keeps_the_digits_of_both():
    hidden, unembedding = normal(9, 16, 1), normal(70, 16, 2).half()
    wanted = reference.lens_sweep(hidden.cpu(), unembedding.cpu(), k=3)
    found = cuda.lens_sweep(hidden, unembedding, k=3)
    torch.testing.assert_close(found.top_log_probabilities.cpu(), wanted.top_log_probabilities, rtol=1e-5, atol=1e-5)


def test_a_row_of_zeros_has_cosine_zero():
    x = normal(5, 8)
    x[2] = 0
    assert cuda.paired_cosine(x, x).cosines.tolist() == pytest.approx([1, 1, 0, 1, 1])
    scores, indices = cuda.topk_cosine(x, x, 5)
    assert (scores[2] == 0).all()
    assert indices[2].tolist() == [0, 1, 2, 3, 4]
    assert cuda.match_rank(x, x)[0][[0, 1, 3, 4]].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("dtype", sized([torch.float32, torch.bfloat16], [torch.bfloat16]))
def test_values_whose_squares_leave_float32_are_no_trouble(dtype):
    x, y = normal(9, 8, 1, dtype), normal(9, 8, 2, dtype)
    scale = torch.tensor([1e30, 1e-30, 1.0], device=DEVICE).repeat(3)[:, None].to(dtype)
    expected = reference.paired_cosine((x * scale).cpu(), y.cpu()).cosines
    torch.testing.assert_close(cuda.paired_cosine(x * scale, y).cosines.cpu(), expected, rtol=0, atol=1e-6)
    assert_same_neighbors(x, y * scale, 3)


@pytest.mark.parametrize(
    ("n", "dtype", "few_queries"),
    grid(
        [(20,), (80,)],
        [torch.float32, torch.bfloat16, torch.float64],
        [True, False],
        cpu=[(12, torch.bfloat16, True), (12, torch.bfloat16, False), (12, torch.float64, True)],
    ),
)
def test_rows_whose_squares_vanish_in_float32_are_no_rows_of_zeros(n, dtype, few_queries):
    sizes = torch.tensor([1e-25, 1e-36, 1.0, 0.0], device=DEVICE).repeat(n // 4)[:, None].double()
    if dtype == torch.float64:
        sizes = sizes**6  # beyond the range of float64's own squares
    x, y = normal(n, 8, 1).to(dtype), (normal(n, 8, 2).double() * sizes).to(dtype)
    if few_queries:
        assert_same_neighbors(x[:2], y, 3)
        assert_same_neighbors(y[:2], x, 3)
        return
    assert_same_neighbors(x[:MANY], y, 3)
    wanted = reference.paired_cosine(x.cpu(), y.cpu())
    assert (wanted.cosines != 0).sum() == n * 3 // 4
    for layers in (1, 2):
        found = cuda.paired_cosine(x.expand(layers, -1, -1), y.expand(layers, -1, -1))
        torch.testing.assert_close(found.cosines[-1].cpu(), wanted.cosines, rtol=0, atol=1e-6)
    if dtype in SWEPT_DTYPES:
        kept = sizes[:, 0].cpu() > 0
        for ranks, expected in zip(cuda.match_rank(x, y), reference.match_rank(x.cpu(), y.cpu()), strict=True):
            assert (ranks.cpu() - expected).abs()[kept].max() <= 1


@pytest.mark.parametrize("bad", [0, -1])
def test_a_number_of_neighbors_that_is_none_is_refused_before_any_kernel_runs(bad):
    x = normal(5, 8)
    with pytest.raises(OptionError, match=f"k is {bad}; ask for 1 at least"):
        cuda.topk_cosine(x, x, bad)
    with pytest.raises(OptionError, match=f"neighbors is {bad}; ask for 1 at least"):
        cuda.match_ranks(x, x, neighbors=bad)


def test_what_is_read_of_a_state_does_not_depend_on_the_states_beside_it_nor_is_more_probable_than_certain():
    unembedding = normal(70, 16, 2)
    hidden = torch.cat([8 * unembedding[:12], massive(8, 16, 1)])
    targets = torch.arange(20, device=DEVICE)[:, None]
    whole = cuda.lens_sweep(hidden, unembedding, targets=targets, k=3)
    assert -1e-6 < whole.top_log_probabilities.max() <= 0
    assert whole.target_log_probabilities.max() <= 0
    assert whole.entropy.min() >= 0
    for some in sized([slice(0, 1), slice(11, 19)], [slice(11, 13)]):
        part = cuda.lens_sweep(hidden[some], unembedding, targets=targets[some], k=3)
        for name, value in vars(part).items():
            assert torch.equal(value, getattr(whole, name)[some]), name


@pytest.mark.parametrize(
    ("bad", "dtype"),
    sized(
        list(itertools.product([torch.nan, torch.inf, -torch.inf], [torch.float32, torch.float16])),
        [(torch.nan, torch.float32)],
    ),
)
def test_nan_and_infinity_are_refused_and_their_row_is_named(bad, dtype):
    x, y = normal(40, 8, 1, dtype), normal(40, 8, 2, dtype)
    y[23, 4] = bad
    for call in (
        lambda: cuda.paired_cosine(x, y),
        lambda: cuda.match_rank(x, y),
        lambda: cuda.match_rank(y, x),
    ):
        with pytest.raises(NonFiniteError, match=r"row 23 of [xy] holds NaN or infinity"):
            call()
    with pytest.raises(NonFiniteError, match="row 1023 of rows"):
        cuda.topk_cosine(x[:MANY], [(1000, y)], 3)
    with pytest.raises(NonFiniteError, match="row 23 of rows"):
        cuda.topk_cosine(x[:2], y, 3)
    with pytest.raises(NonFiniteError, match="row 23 of queries"):
        cuda.topk_cosine(y, x, 3)
    with pytest.raises(NonFiniteError, match="layer 1 of y, row 23"):
        cuda.paired_cosine(torch.stack([x, x]), torch.stack([x, y]))
    with pytest.raises(NonFiniteError, match="row 23 of unembedding"):
        cuda.lens_sweep(x[:3], y)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(3, 8\) is not \(4, 8\)"):
        cuda.match_rank(normal(3, 8), normal(4, 8))
    with pytest.raises(ValueError, match=r"\(3, 8\) against \(4, 7\)"):
        cuda.topk_cosine(normal(3, 8), normal(4, 7), 2)
