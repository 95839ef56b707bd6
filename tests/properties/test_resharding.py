"""Whatever ranks wrote a state, and however it was cut, any other ranks read the same bits."""

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.run_states import cut, random_state
from unimol_scale.checkpoints.run.shares import MEAN, MOMENT, SQUARE, WEIGHT, ShareReader, write_share


@st.composite
def cases(draw):
    """Sizes, cuts among writers, owners of the pieces, and the runs that readers ask for."""
    sizes = {f"layer.{index}/odd": size for index, size in enumerate(draw(st.lists(st.integers(1, 40), max_size=4)))}
    sizes = sizes or {"alone": 1}
    writers, readers = draw(st.integers(1, 4)), draw(st.integers(1, 5))

    def bounds(size, most):
        return [0, *sorted(draw(st.lists(st.integers(0, size), max_size=most))), size]

    cuts = {name: bounds(size, 4) for name, size in sizes.items()}
    asked = {name: bounds(size, readers) for name, size in sizes.items()}
    owners = draw(st.lists(st.integers(0, writers - 1), min_size=30, max_size=30))
    kinds = (WEIGHT, MOMENT, SQUARE, MEAN)[: draw(st.integers(1, 4))]
    return sizes, kinds, writers, cuts, owners, asked, draw(st.randoms(use_true_random=False))


@given(cases())
@settings(max_examples=60)
def test_any_readers_get_what_any_writers_wrote(case):
    sizes, kinds, writers, cuts, owners, asked, random = case
    state = random_state(sizes, kinds)
    shares = [[] for _ in range(writers)]
    for fragment, owner in zip(cut(state, cuts), owners, strict=False):
        shares[owner].append(fragment)
    with tempfile.TemporaryDirectory() as folder:
        for rank in random.sample(range(writers), writers):
            random.shuffle(shares[rank])
            write_share(Path(folder), rank, writers, shares[rank])
        reader = ShareReader(Path(folder))
        assert reader.kinds == set(kinds)
        assert reader.sizes == sizes
        for name, size in sizes.items():
            for kind in kinds:
                runs = zip(asked[name], asked[name][1:], strict=False)
                read = torch.cat([reader.read(name, kind, first, last) for first, last in runs])
                assert torch.equal(read, state[name][kind])
                assert torch.equal(reader.full(name, kind, (size, 1)), state[name][kind].view(size, 1))
