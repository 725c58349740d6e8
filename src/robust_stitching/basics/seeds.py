"""Random numbers: streams that depend on seeds and on what they are for, and on nothing else."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def generators_kept() -> Iterator[None]:
    """The generators of torch, NumPy and Python are afterwards as they were before."""
    numpys, pythons = np.random.get_state(), random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)


def generator_for(*seeds: int | str) -> torch.Generator:
    """A generator whose stream depends on all of `seeds`, numbers below 2⁶⁴ and names of what it is
    for, and differs for any other tuple."""
    numbers = [int.from_bytes(s.encode()[:8], "big") if isinstance(s, str) else s for s in seeds]
    words = [word for number in numbers for word in (number & 0xFFFFFFFF, number >> 32)]
    state = np.random.SeedSequence([len(seeds), *words]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
