"""How batches are cut: bit-equal to the cuts of the releases before, so that runs resume on the very same micro-batches."""

import hashlib

import numpy as np
import pytest

from unimol_scale.data.steps.micro_batches import plan_micro_batches

# (sizes, molecules, ranks, data.max_pairs) → hash of the cuts of three batches, as the exhaustive search made them.
FROZEN = {
    ("drugs", 1, 1, 40000): "30f217fbbdc76af4",
    ("drugs", 7, 3, 40000): "2b3fb1a001b24701",
    ("drugs", 32, 1, 16000): "e6e19971b9a546dc",
    ("drugs", 64, 2, 16000): "9302da9504d533cc",
    ("drugs", 64, 8, 40000): "3eeb524889dcc7d6",
    ("drugs", 256, 1, 40000): "8a2f3d10176cc2fd",
    ("drugs", 256, 16, 20000): "c5fa92d0e2f1ee6d",
    ("drugs", 1024, 1, 40000): "74251a8fc3d5d211",
    ("drugs", 1024, 8, 24000): "2521553254597095",
    ("drugs", 1024, 64, 40000): "00abc68a66ff6c3a",
    ("drugs", 1024, 64, 110000): "00abc68a66ff6c3a",
    ("drugs", 1000, 7, 40000): "7d21742896ff14b0",
    ("drugs", 2048, 128, 40000): "2d63b4bcb5317c69",
    ("drugs", 1024, 256, 40000): "1752ff9c3e209a59",
    ("drugs", 4096, 16, 40000): "975cf46375f31890",
    ("mixed", 1, 1, 40000): "30f217fbbdc76af4",
    ("mixed", 7, 3, 40000): "6e287fad6f6360bb",
    ("mixed", 32, 1, 16000): "1291aad1b84f2ca8",
    ("mixed", 64, 2, 16000): "2f11d3adc42b8ec6",
    ("mixed", 64, 8, 40000): "a22f83d135b25f67",
    ("mixed", 256, 1, 40000): "a068b49d213aa798",
    ("mixed", 256, 16, 20000): "0bf6b8a1da2e9d1d",
    ("mixed", 1024, 1, 40000): "090bce54b4742bef",
    ("mixed", 1024, 8, 24000): "17f1db327717e2a3",
    ("mixed", 1024, 64, 40000): "1d17b07a817149e8",
    ("mixed", 1024, 64, 110000): "1d17b07a817149e8",
    ("mixed", 1000, 7, 40000): "719bea8e339163a3",
    ("mixed", 2048, 128, 40000): "7e16388cc7a47d8b",
    ("mixed", 1024, 256, 40000): "e7f8cf78dcf47c18",
    ("mixed", 4096, 16, 40000): "3c3991cc5ee17efb",
    ("flat", 1, 1, 40000): "30f217fbbdc76af4",
    ("flat", 7, 3, 40000): "c6bfbbd4e67227e2",
    ("flat", 32, 1, 16000): "5370aa21febe248a",
    ("flat", 64, 2, 16000): "4364ee99888212ae",
    ("flat", 64, 8, 40000): "b07179fbd2d8176b",
    ("flat", 256, 1, 40000): "09430bf72518193a",
    ("flat", 256, 16, 20000): "fc5650b11292b053",
    ("flat", 1024, 1, 40000): "7b7cdb989a495e16",
    ("flat", 1024, 8, 24000): "1b3c81d3fefc45ca",
    ("flat", 1024, 64, 40000): "2978b915fae1a400",
    ("flat", 1024, 64, 110000): "8f0bbba06773741a",
    ("flat", 1000, 7, 40000): "f2c0eb511cf70786",
    ("flat", 2048, 128, 40000): "6c56ff735e536ecf",
    ("flat", 1024, 256, 40000): "d04476b8acd58473",
    ("flat", 4096, 16, 40000): "02809e45782cf772",
    ("equal", 1, 1, 40000): "30f217fbbdc76af4",
    ("equal", 7, 3, 40000): "6be847c2295dcaa1",
    ("equal", 32, 1, 16000): "f93a73863c53061c",
    ("equal", 64, 2, 16000): "b59f1637b031f543",
    ("equal", 64, 8, 40000): "ea61751dd5d031c6",
    ("equal", 256, 1, 40000): "93e1d83bc0de4c80",
    ("equal", 256, 16, 20000): "d684055153f9a440",
    ("equal", 1024, 1, 40000): "1d90f4ca6d38f5f4",
    ("equal", 1024, 8, 24000): "b368684fc75717d3",
    ("equal", 1024, 64, 40000): "32dd3457b10afb2d",
    ("equal", 1024, 64, 110000): "32dd3457b10afb2d",
    ("equal", 1000, 7, 40000): "f1f2a94e30946658",
    ("equal", 2048, 128, 40000): "690a2d663fdae043",
    ("equal", 1024, 256, 40000): "76d0802a2a7ac430",
    ("equal", 4096, 16, 40000): "ee6f8e606988b4d5",
}


def batch_of(kind, seed, count):
    draw = np.random.default_rng([seed, count])
    if kind == "drugs":
        return np.clip(draw.normal(25, 5, count).round(), 2, 60).astype(np.int32)
    if kind == "mixed":
        return np.minimum(2 + draw.geometric(0.06, count), 122).astype(np.int32)
    if kind == "flat":
        return draw.integers(1, 100, count).astype(np.int32)
    return np.full(count, 20, np.int32)


def digest(plan):
    text = ";".join(",".join(map(str, members.tolist())) for members in plan.members)
    return hashlib.sha256(f"{plan.world_size}|{text}".encode()).hexdigest()[:16]


@pytest.mark.parametrize("case", FROZEN)
def test_cuts_stay_what_they_were(case):
    kind, count, ranks, max_pairs = case
    digests = [digest(plan_micro_batches(batch_of(kind, seed, count), ranks, max_pairs)) for seed in range(3)]
    assert hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16] == FROZEN[case]
