"""The fast kernels against their definitions."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hubstore import kernels
from hubstore.errors import NonFiniteError, OptionError
from hubstore.kernels import reference
from hubstore.kernels.cpu import lens, match, tiles, topk

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 1), (2, 3), (37, 5), (64, 64), (130, 33), (201, 96)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of which the shapes above hold several, none of them whole."""
    monkeypatch.setattr(topk, "BLOCK_ROWS", 70)
    monkeypatch.setattr(topk, "QUERIES", 41)
    monkeypatch.setattr(match, "SIDE", 41)
    monkeypatch.setattr(lens, "STATES", 29)
    monkeypatch.setattr(lens, "TOKENS", 70)
    monkeypatch.setattr(tiles, "BLOCK", 1500)


def normal(n, width, seed=0, dtype=torch.float32):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def massive(n, width, seed=0, dtype=torch.float32):
    """States as large models have them: a few dimensions a thousand times the others, nearly constant."""
    rows = normal(n, width, seed)
    rows[:, : max(1, width // 16)] = 1000 + rows[:, : max(1, width // 16)]
    return rows.to(dtype)


def assert_same_neighbors(queries, rows, k):
    """Scores agree to float32, and no index stands before one whose float64 cosine is larger."""
    scores, indices = kernels.topk_cosine(queries, rows, k)
    expected, expected_indices = reference.topk_cosine(queries, rows, k)
    assert scores.dtype == torch.float32
    assert indices.dtype == torch.int64
    torch.testing.assert_close(scores, expected, rtol=0, atol=1.2e-7)
    assert (indices != expected_indices).float().mean() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "width"), SHAPES)
@pytest.mark.parametrize("states", [normal, massive])
def test_topk_is_the_reference(states, n, width, dtype):
    queries, rows = states(53, width, 1, dtype), states(n, width, 2, dtype)
    for k in (1, 10, n + 5):
        assert_same_neighbors(queries, rows, k)


def test_topk_marks_what_is_not_there():
    scores, indices = kernels.topk_cosine(normal(3, 8), normal(4, 8, 1), 6)
    assert (indices[:, 4:] == -1).all()
    assert (scores[:, 4:] == -torch.inf).all()
    scores, indices = kernels.topk_cosine(normal(3, 8), iter([]), 2)
    assert (indices == -1).all()


def test_topk_gives_equal_rows_by_index_however_many_and_wherever_they_are():
    rows = normal(300, 48)
    rows[torch.arange(3, 300, 2)] = rows[3].clone()
    queries = torch.cat([rows[3:4], normal(40, 48, 5)])
    _, indices = kernels.topk_cosine(queries, rows, 30)
    assert indices[0].tolist() == list(range(3, 63, 2))
    assert_same_neighbors(queries, rows, 200)
    _, indices = kernels.topk_cosine(queries, torch.ones(500, 48), 7)
    assert (indices == torch.arange(7)).all()


def test_topk_of_segments_in_any_order_is_topk_of_the_whole():
    queries, rows = normal(20, 24), normal(333, 24, 1)
    rows[200:] = rows[:133]
    bounds = [0, 1, 90, 91, 200, 333]
    segments = [(a, rows[a:b]) for a, b in itertools.pairwise(bounds)]
    whole = kernels.topk_cosine(queries, rows, 9)
    for order in (segments, segments[::-1]):
        scores, indices = kernels.topk_cosine(queries, iter(order), 9)
        assert torch.equal(scores, whole[0])
        assert torch.equal(indices, whole[1])
    _, shifted = kernels.topk_cosine(queries, ((a + 1000, s) for a, s in segments), 9)
    assert torch.equal(shifted, whole[1] + 1000)


def test_topk_orders_cosines_that_float32_cannot_tell_apart():
    direction, noise = normal(1, 64), normal(400, 64, 1).double()
    rows = direction.double() + 1e-4 * noise
    queries = direction.double() + 1e-4 * normal(30, 64, 2).double()
    assert reference.topk_cosine(queries, rows, 400)[0].min() > 1 - 1e-6
    assert_same_neighbors(queries, rows, 10)


def assert_same_ranks(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture(params=["bfloat16", "float32"])
def product(request, monkeypatch):
    """The dtype of the first products, whichever this processor prefers."""
    monkeypatch.setattr(topk, "_bfloat16_is_fast", lambda: request.param == "bfloat16")
    return request.param


@pytest.fixture
def fine(monkeypatch):
    """A tile's entry for each time that bfloat16 could not tell its rows apart."""
    calls = []
    once = topk._Worker._products

    def products(worker, queries, rows):
        if queries.dtype != worker.products.dtype:
            calls.append(rows.first)
        return once(worker, queries, rows)

    monkeypatch.setattr(topk._Worker, "_products", products)
    return calls


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("states", [normal, massive])
def test_topk_of_many_rows_is_the_reference_from_cheap_products_alone(monkeypatch, product, fine, states, dtype):
    monkeypatch.setattr(topk, "BLOCK_ROWS", 700)
    assert_same_neighbors(states(60, 256, 1, dtype), states(3000, 256, 2, dtype), 10)
    assert_same_neighbors(states(1, 256, 3, dtype), states(3000, 256, 2, dtype), 10)
    assert not fine


def test_topk_of_one_query_that_is_a_row_finds_it(product):
    rows = massive(1000, 96, dtype=torch.float16)
    for row in (0, 500, 999):
        scores, indices = kernels.topk_cosine(rows[row : row + 1], rows, 3)
        assert indices[0, 0] == row
        assert scores[0, 0] == 1


@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-5])
def test_topk_turns_to_float32_where_bfloat16_cannot_tell_rows_apart(monkeypatch, product, fine, noise):
    monkeypatch.setattr(topk, "BLOCK_ROWS", 700)
    direction = normal(1, 128)
    clusters = normal(4, 128, 1).repeat(750, 1)
    rows = direction + clusters + noise * normal(3000, 128, 2)
    queries = direction + clusters[:41] + noise * normal(41, 128, 3)
    assert_same_neighbors(queries, rows, 10)
    assert bool(fine) == (product == "bfloat16")


def test_topk_of_rows_that_grow_ever_nearer_is_the_reference(product):
    rows = torch.linspace(-1, 1, 900)[:, None] * normal(1, 33) + 0.3 * normal(900, 33, 1)
    assert_same_neighbors(normal(45, 33), rows, 10)
    assert_same_neighbors(normal(45, 33), rows.flip(0), 10)


def test_topk_is_the_same_on_any_number_of_threads_and_from_several_at_once(product):
    queries, rows = normal(60, 48), normal(900, 48, 1)
    expected = reference.topk_cosine(queries, rows, 10)[1]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            with ThreadPoolExecutor(4) as pool:
                for _, indices in pool.map(lambda _: kernels.topk_cosine(queries, rows, 10), range(8)):
                    assert torch.equal(indices, expected)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_topk_draws_segments_as_it_needs_them():
    drawn = []

    def segments():
        for start in range(0, 50_000, 50):
            drawn.append(start)
            yield start, normal(50, 8, start)

    class StopError(Exception):
        pass

    def failing():
        for start, segment in segments():
            if start == 1000:
                raise StopError
            yield start, segment

    with pytest.raises(StopError):
        kernels.topk_cosine(normal(3, 8), failing(), 2)
    assert max(drawn) == 1000
    broken = ((start, segment * (torch.nan if start == 500 else 1)) for start, segment in segments())
    drawn.clear()
    with pytest.raises(NonFiniteError, match="row 500 of rows"):
        kernels.topk_cosine(normal(3, 8), broken, 2)
    assert max(drawn) < 2000


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "width"), SHAPES)
@pytest.mark.parametrize("states", [normal, massive])
def test_match_rank_is_the_reference(states, n, width, dtype):
    x = states(n, width, 1)
    y = (x + states(n, width, 2)).to(dtype)
    x = x.to(dtype)
    biases = dict(zip(("bias_x", "bias_y"), 0.01 * normal(2, n, 3).double(), strict=True))
    assert_same_ranks(kernels.match_rank(x, y), reference.match_rank(x, y))
    assert_same_ranks(kernels.match_rank(x, y, **biases), reference.match_rank(x, y, **biases))
    for name, bias in biases.items():
        assert_same_ranks(kernels.match_rank(x, y, **{name: bias}), reference.match_rank(x, y, **{name: bias}))


def test_match_rank_is_where_the_match_stands_in_each_direction():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]])
    y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    forward, backward = kernels.match_rank(x, y)
    assert forward.tolist() == [0, 2, 2]  # y[1] is as near to x[0] as y[0] and comes after it
    assert backward.tolist() == [0, 2, 1]
    forward, backward = kernels.match_rank(x, y, bias_y=torch.tensor([2.0, 0.0, 0.0]))
    assert forward.tolist() == [2, 1, 1]
    assert backward.tolist() == [0, 2, 1]


def test_match_rank_counts_equal_rows_of_smaller_index():
    y = normal(150, 40)
    y[[20, 70, 100, 149]] = y[3].clone()
    expected = torch.zeros(150, dtype=torch.int64)
    expected[[20, 70, 100, 149]] = torch.tensor([1, 2, 3, 4])
    assert_same_ranks(kernels.match_rank(y, y), (expected, expected))
    assert torch.equal(kernels.match_rank(normal(130, 8), torch.ones(130, 8))[0], torch.arange(130))
    assert torch.equal(kernels.match_rank(torch.ones(130, 8), normal(130, 8))[1], torch.arange(130))


def test_match_rank_resolves_cosines_that_differ_by_one_in_ten_million():
    common = 30 * normal(1, 64).double()
    x = common + 1e-2 * normal(200, 64, 1).double()
    y = x + 2e-2 * normal(200, 64, 2).double()
    expected = reference.match_rank(x, y)
    assert kernels.paired_cosine(x, y).cosines.min() > 1 - 1e-6
    assert 0.05 < (expected[0] == 0).float().mean() < 1
    assert_same_ranks(kernels.match_rank(x, y), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "width"), SHAPES)
@pytest.mark.parametrize("states", [normal, massive])
def test_match_ranks_of_both_directions_and_csls_are_the_reference(states, n, width, dtype):
    x = states(n, width, 1)
    y = (x + states(n, width, 2)).to(dtype)
    for k in (1, 10, n + 1):
        fast, slow = kernels.match_ranks(x, y, neighbors=k), reference.match_ranks(x, y, neighbors=k)
        for name in ("forward", "backward", "csls_forward", "csls_backward"):
            assert torch.equal(getattr(fast, name), getattr(slow, name)), name


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize(("n", "width"), SHAPES)
def test_paired_cosine_is_the_reference_for_one_layer_and_for_many(n, width, dtype):
    x = torch.stack([massive(n, width, seed, dtype) for seed in range(3)])
    y = torch.stack([massive(n, width, seed + 3, dtype) for seed in range(3)])
    many, expected = kernels.paired_cosine(x, y), reference.paired_cosine(x, y)
    for name in ("cosines", "sum_x", "sum_y"):
        torch.testing.assert_close(getattr(many, name), getattr(expected, name), rtol=1e-13, atol=1e-13)
        one = getattr(kernels.paired_cosine(x[1], y[1]), name)
        torch.testing.assert_close(one, getattr(expected, name)[1], rtol=1e-13, atol=1e-13)


def test_a_row_of_zeros_has_cosine_zero():
    x = normal(5, 8)
    x[2] = 0
    assert kernels.paired_cosine(x, x).cosines.tolist() == pytest.approx([1, 1, 0, 1, 1])
    scores, indices = kernels.topk_cosine(x, x, 5)
    assert (scores[2] == 0).all()
    assert indices[2].tolist() == [0, 1, 2, 3, 4]
    assert [ranks[[0, 1, 3, 4]].tolist() for ranks in kernels.match_rank(x, x)] == [[0, 0, 0, 0]] * 2


def test_values_whose_squares_leave_float32_are_no_trouble():
    x, y = normal(9, 8, 1), normal(9, 8, 2)
    scale = torch.tensor([1e30, 1e-30, 1.0]).repeat(3)[:, None]
    expected = kernels.paired_cosine(x, y).cosines
    torch.testing.assert_close(kernels.paired_cosine(x * scale, y).cosines, expected, rtol=0, atol=1e-6)
    assert torch.equal(kernels.topk_cosine(x, y * scale, 3)[1], kernels.topk_cosine(x, y, 3)[1])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_are_refused_and_their_row_is_named(bad):
    x, y = normal(200, 8, 1), normal(200, 8, 2)
    y[123, 4] = bad
    for call in (
        lambda: kernels.paired_cosine(x, y),
        lambda: kernels.match_rank(x, y),
        lambda: kernels.match_ranks(x, y),
        lambda: kernels.match_rank(y, x),
    ):
        with pytest.raises(NonFiniteError, match=r"row 123 of [xy] holds NaN or infinity"):
            call()
    with pytest.raises(NonFiniteError, match="row 1123 of rows"):
        kernels.topk_cosine(x, [(1000, y)], 3)
    with pytest.raises(NonFiniteError, match="row 123 of queries"):
        kernels.topk_cosine(y, x, 3)
    with pytest.raises(NonFiniteError, match="layer 1 of y, row 123"):
        kernels.paired_cosine(torch.stack([x, x]), torch.stack([x, y]))


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(3, 8\) is not \(4, 8\)"):
        kernels.match_rank(normal(3, 8), normal(4, 8))
    with pytest.raises(ValueError, match=r"\(3, 8\) against \(4, 7\)"):
        kernels.topk_cosine(normal(3, 8), normal(4, 7), 2)
    with pytest.raises(ValueError, match=r"bias_y must be \[3\], one for each row: it is \[4\]"):
        kernels.match_rank(normal(3, 8), normal(3, 8), bias_y=torch.zeros(4))


def assert_same_lens(hidden, unembedding, atol=3e-5, **options):
    found = kernels.lens_sweep(hidden, unembedding, **options)
    expected = reference.lens_sweep(hidden, unembedding, **options)
    for name, value in vars(expected).items():
        got = getattr(found, name)
        assert got.dtype == value.dtype, name
        if value.dtype == torch.int64:
            assert torch.equal(got, value), name
        else:
            torch.testing.assert_close(got, value, rtol=1e-6, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def drawn(n, t, vocabulary):
    return torch.randint(vocabulary, (n, t), generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize(("n", "width"), SHAPES)
def test_lens_sweep_is_the_reference(n, width, dtype):
    for vocabulary in (1, 64, 333):
        hidden, unembedding = normal(n, width, 1, dtype), normal(vocabulary, width, 2, dtype)
        groups = normal(vocabulary, 3, 3).softmax(1)
        targets = drawn(n, 4, vocabulary)
        assert_same_lens(hidden, unembedding, targets=targets, k=min(11, vocabulary), groups=groups)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lens_sweep_of_capped_logits_is_the_reference(dtype):
    hidden, unembedding = normal(41, 33, 1, dtype), normal(333, 33, 2, dtype)
    groups = normal(333, 3, 3).softmax(1)
    options = {"targets": drawn(41, 4, 333), "k": 11, "groups": groups}
    assert_same_lens(hidden, unembedding, softcap=8.0, **options)
    capped = 8 * torch.tanh(hidden.double() @ unembedding.double().T / 8)
    found = kernels.lens_sweep(hidden, unembedding, softcap=8.0)
    torch.testing.assert_close(found.log_partition.double(), capped.logsumexp(1), rtol=1e-6, atol=3e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lens_sweep_of_states_with_huge_dimensions_is_the_reference(dtype):
    hidden, unembedding = massive(53, 96, 1, dtype), 0.05 * normal(500, 96, 2)
    unembedding = unembedding.to(dtype)
    assert_same_lens(hidden, unembedding, targets=drawn(53, 9, 500), k=20, groups=torch.eye(500)[:, :5])


def test_lens_sweep_gives_nothing_where_nothing_is_asked():
    swept = kernels.lens_sweep(normal(5, 8), normal(30, 8, 1))
    for name in ("target_log_probabilities", "target_ranks", "top_log_probabilities", "top_tokens", "group_mass"):
        assert getattr(swept, name).shape == (5, 0)
    assert kernels.lens_sweep(normal(0, 8), normal(30, 8, 1), k=3).top_tokens.shape == (0, 3)


def test_lens_sweep_puts_the_smaller_of_equal_tokens_first_and_a_target_never_before_itself():
    unembedding = normal(300, 48)
    unembedding[torch.arange(3, 300, 2)] = unembedding[3].clone()
    hidden = torch.cat([unembedding[3:4], normal(20, 48, 5), torch.zeros(1, 48)])
    targets = torch.arange(300).repeat(22, 1)
    swept = kernels.lens_sweep(hidden, unembedding, targets=targets, k=300)
    assert swept.top_tokens[0, :30].tolist() == list(range(3, 63, 2))
    assert swept.top_tokens[-1].tolist() == list(range(300))
    assert torch.equal(swept.target_ranks, swept.top_tokens.argsort(1))
    assert_same_lens(hidden, unembedding, targets=targets, k=40)


def test_lens_sweep_of_logits_beyond_the_range_of_exp():
    hidden, unembedding = normal(9, 16), 300 * normal(200, 16, 1)
    assert kernels.lens_sweep(hidden, unembedding).log_partition.max() > 1000
    assert_same_lens(hidden, unembedding, atol=1e-3, targets=drawn(9, 3, 200), k=5)


def test_kernels_run_in_inference_mode_on_several_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            hidden, unembedding = normal(2000, 32), normal(500, 32, 1)
            swept = kernels.lens_sweep(hidden, unembedding, k=3)
            scores, _ = kernels.topk_cosine(hidden, unembedding.repeat(40, 1), 3)
            kernels.match_rank(hidden, hidden)
    finally:
        torch.set_num_threads(threads)
    assert swept.top_tokens.shape == scores.shape == (2000, 3)


def test_lens_sweep_without_ranks_has_the_same_log_probabilities():
    hidden, unembedding, targets = normal(9, 8), normal(70, 8, 1), drawn(9, 5, 70)
    for sweep in (kernels.lens_sweep, reference.lens_sweep):
        whole, quick = (sweep(hidden, unembedding, targets=targets, ranks=ranks) for ranks in (True, False))
        assert quick.target_ranks.shape == (9, 0)
        assert torch.equal(whole.target_log_probabilities, quick.target_log_probabilities)


def test_lens_sweep_takes_parameters():
    unembedding = torch.nn.Parameter(normal(30, 8))
    assert not kernels.lens_sweep(normal(5, 8), unembedding, k=2).top_log_probabilities.requires_grad


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_lens_sweep_refuses_and_names_what_is_not_finite(bad):
    hidden, unembedding = normal(200, 8, 1), normal(200, 8, 2)
    broken = hidden.clone()
    broken[123, 4] = bad
    with pytest.raises(NonFiniteError, match="row 123 of hidden holds NaN or infinity"):
        kernels.lens_sweep(broken, unembedding)
    with pytest.raises(NonFiniteError, match="row 123 of unembedding"):
        kernels.lens_sweep(hidden, broken)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"k": 31}, r"k is 31; ask for 0 to 30 tokens of a vocabulary \(30, 8\)"),
        ({"targets": torch.tensor([[0, 30]]).repeat(5, 1)}, r"targets \(5, 2\) has 30 at \[0, 1\]"),
        ({"targets": torch.tensor([[-1]]).repeat(5, 1)}, r"has -1 at \[0, 0\]"),
        ({"targets": torch.zeros(4, 2, dtype=torch.int64)}, r"\[5, t\], tokens for each state: they are \(4, 2\)"),
        ({"targets": torch.zeros(5, 2)}, r"must be integers: \(5, 2\) of torch.float32"),
        ({"groups": torch.zeros(29, 2)}, r"groups must be \[30, g\].*\(29, 2\)"),
        ({"unembedding": torch.zeros(30, 7)}, r"\(5, 8\) against \(30, 7\)"),
        ({"softcap": 0.0}, r"softcap is 0.0; it must be above 0"),
    ],
)
def test_lens_sweep_names_what_does_not_fit(options, named):
    with pytest.raises(ValueError, match=named):
        kernels.lens_sweep(**{"hidden": normal(5, 8), "unembedding": normal(30, 8), **options})


@pytest.mark.parametrize("bad", [0, -1, -(2**40), 1.5, True, None])
def test_a_number_of_neighbors_that_is_none_is_refused_before_any_kernel_runs(bad):
    x = normal(5, 8)
    for kernel in (kernels, reference):
        with pytest.raises(OptionError, match=rf"k is {bad}; ask for 1 at least"):
            kernel.topk_cosine(x, x, bad)
        with pytest.raises(OptionError, match=rf"neighbors is {bad}; ask for 1 at least"):
            kernel.match_ranks(x, x, neighbors=bad)


def test_tensors_that_are_not_floating_are_refused():
    x, whole = normal(5, 8), torch.ones(5, 8, dtype=torch.complex64)
    for call in (
        lambda: kernels.topk_cosine(x, whole, 1),
        lambda: kernels.topk_cosine(x.int(), x, 1),
        lambda: kernels.match_rank(whole, whole),
        lambda: kernels.lens_sweep(x, whole),
    ):
        with pytest.raises(ValueError, match=r"\(5, 8\) of torch.(complex64|int32) must be floating"):
            call()


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e200, 1e300])
def test_float64_rows_whose_squares_leave_float64_have_cosines(size):
    x, y = normal(9, 8, 1).double(), normal(9, 8, 2).double()
    for kernel in (kernels, reference):
        for expected, found in zip(kernel.topk_cosine(x, y, 3), kernel.topk_cosine(x * size, y * size, 3), strict=True):
            torch.testing.assert_close(found, expected)
        torch.testing.assert_close(kernel.paired_cosine(x * size, y).cosines, kernel.paired_cosine(x, y).cosines)
        assert torch.equal(kernel.match_rank(x, y * size)[0], kernel.match_rank(x, y)[0])


def certain(n, width, vocabulary):
    """States of which most hold one token for certain, a thousandth part of them more massive than the rest."""
    unembedding = normal(vocabulary, width, 2)
    hidden = 4 * unembedding[drawn(n, 1, vocabulary)[:, 0]]
    hidden[::3, 5] += 900
    return hidden, unembedding


@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("kernel", [kernels, reference], ids=["cpu", "reference"])
def test_no_probability_is_above_one_and_no_entropy_below_zero(kernel, softcap):
    hidden, unembedding = certain(53, 33, 200)
    found = kernel.lens_sweep(hidden, unembedding, targets=drawn(53, 2, 200), k=3, softcap=softcap)
    assert found.top_log_probabilities.max() <= 0
    assert softcap or found.top_log_probabilities.max() > -1e-6
    assert found.target_log_probabilities.max() <= 0
    assert found.entropy.min() >= 0


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize(("width", "vocabulary"), [(33, 333), (96, 64), (640, 1001)])
def test_what_is_read_of_a_state_does_not_depend_on_the_states_beside_it(monkeypatch, width, vocabulary, dtype):
    monkeypatch.setattr(lens, "STATES", 128)
    hidden = torch.cat([massive(90, width, 1), normal(90, width, 3), *(9 * part for part in certain(20, width, 40))])
    hidden, unembedding = hidden.to(dtype), 0.1 * normal(vocabulary, width, 2).to(dtype)
    targets, groups = drawn(len(hidden), 2, vocabulary), normal(vocabulary, 3, 3).softmax(1)
    whole = kernels.lens_sweep(hidden, unembedding, targets=targets, k=5, groups=groups)
    for some in (slice(0, 1), slice(95, 97), slice(130, 200), slice(60, 240, 7)):
        part = kernels.lens_sweep(hidden[some], unembedding, targets=targets[some], k=5, groups=groups)
        for name, value in vars(part).items():
            assert torch.equal(value, getattr(whole, name)[some]), name


def test_of_sparse_states_only_what_is_far_above_their_other_elements_is_massive():
    sparse = (normal(50, 96) - 0.5).relu()
    sparse[3, 7] = 900
    sparse[4] = 0
    columns, elements, rest = lens._split(sparse)
    assert columns.tolist() == [7]
    assert elements[:, 0].nonzero()[:, 0].tolist() == [3]
    assert torch.equal(rest[:50, 8:], sparse[:, 8:])


def lattice(n, width, seed=0, dtype=torch.float32):
    """Rows of few distinct values, many of them equal, and others as near without being equal."""
    rows = torch.randint(-1, 2, (n, width), generator=torch.Generator().manual_seed(seed))
    return rows.to(dtype)


def identical(n, width, seed=0, dtype=torch.float32):
    return torch.ones(n, width).to(dtype)


def dense(edges, n):
    weights = torch.zeros(n, n, dtype=torch.float64)
    weights[edges.rows, edges.columns] = edges.weights
    return weights


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("states", [normal, massive, lattice, identical])
def test_neighbor_weights_are_the_reference_with_equal_credit_for_ties(states, dtype):
    rows = states(30, 3, 4, dtype)
    for k in (1, 4, 28, 29):
        found = kernels.neighbor_weights(rows, k)
        weights = dense(found.edges, 30)
        torch.testing.assert_close(weights, reference.neighbor_weights(rows, k), rtol=0, atol=1e-12)
        torch.testing.assert_close(weights.sum(1), torch.full((30,), float(k), dtype=torch.float64))
        heirs = dense(found.heirs, 30)
        assert heirs.sum(1).tolist() == pytest.approx([float(k < 29)] * 30)
        assert not heirs[weights == 1].any(), "a neighbor takes nobody's place"


def test_of_many_tied_neighbors_some_are_drawn_and_the_credit_stays():
    rows = torch.ones(40, 4)
    found = [kernels.neighbor_weights(rows, 6, most_tied=12, seed=seed) for seed in range(60)]
    for one in found:
        assert len(one.edges.rows) == 40 * 12
        assert dense(one.edges, 40).sum(1).tolist() == pytest.approx([6.0] * 40)
    mean = torch.stack([dense(one.edges, 40) for one in found]).mean(0)
    assert mean[~torch.eye(40, dtype=torch.bool)].sub(6 / 39).abs().max() < 0.15


@pytest.mark.parametrize("k", [0, 5])
def test_neighbors_that_cannot_be_are_refused(k):
    with pytest.raises(OptionError, match="k"):
        kernels.neighbor_weights(normal(5, 3), k)
