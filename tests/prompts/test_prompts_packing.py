"""Packed rows: every token sees its own prompt and nothing else, and no beginning stands twice."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from refusal_plugin.prompts.packing import pack
from refusal_plugin.prompts.tree import in_batches

ROWS = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=9), min_size=1, max_size=12)


@given(prompts=ROWS, head=st.sampled_from([1, 16, 10**6]), most=st.integers(9, 60))
def test_a_packed_token_sees_its_own_prompt_alone(prompts: list[list[int]], head: int, most: int) -> None:
    packed = pack(prompts, width=64, head=head, most=most)
    assert packed is not None and packed.ids.shape[1] <= most
    for prompt, row, column in zip(prompts, packed.rows.tolist(), packed.columns.tolist(), strict=True):
        seen = packed.visible[row, column].nonzero().flatten()
        assert packed.ids[row, seen].tolist() == prompt
        assert packed.positions[row, seen].tolist() == list(range(len(prompt)))
        for depth, place in enumerate(seen.tolist()):
            assert packed.visible[row, place].nonzero().flatten().tolist() == seen[: depth + 1].tolist()
    assert packed.visible.any(2).all(), "a token that sees nothing has no attention"


@given(prompts=ROWS)
def test_a_beginning_stands_once_in_a_row(prompts: list[list[int]]) -> None:
    packed = pack(prompts, width=10**9, head=64, most=10**4)  # so wide that long rows cost nothing
    assert packed is not None
    for row, whole in enumerate(packed.visible):
        here = [prompt for prompt, of in zip(prompts, packed.rows.tolist(), strict=True) if of == row]
        beginnings = {tuple(prompt[:n]) for prompt in here for n in range(1, len(prompt) + 1)}
        real = torch.zeros(len(whole), dtype=torch.bool)
        for column, of in zip(packed.columns.tolist(), packed.rows.tolist(), strict=True):
            if of == row:
                real |= whole[column]
        assert int(real.sum()) == len(beginnings)


def test_a_prompt_longer_than_a_row_may_be() -> None:
    assert pack([[1, 2, 3], [1]], width=8, head=4, most=2) is None
    assert pack([[1, 2, 3], [1]], width=8, head=4, most=3) is not None


@given(prompts=ROWS, budget=st.integers(1, 200))
def test_last_tokens_come_last_and_every_prompt_once(prompts: list[list[int]], budget: int) -> None:
    """Other columns, the same tokens in sight; batches within their budget, unless a row is longer."""
    packed = pack(prompts, width=64, head=16, most=60)
    assert packed is not None
    found = list(in_batches(packed, budget=budget, dtype=None))
    assert sorted(k for rows, _ in found for k in rows) == list(range(len(prompts)))
    for rows, trees in found:
        n_rows, length = trees.inputs["input_ids"].shape
        assert n_rows == 1 or trees.n_tokens <= budget
        assert int(trees.ends[:, 1].min()) >= length - trees.tail
        for k, (row, column) in zip(rows, trees.ends.tolist(), strict=True):
            seen = trees.inputs["attention_mask"][row, 0, column].nonzero().flatten()
            places = trees.inputs["position_ids"][row, seen]
            assert trees.inputs["input_ids"][row, seen[places.argsort()]].tolist() == prompts[k]
            assert sorted(places.tolist()) == list(range(len(prompts[k])))
