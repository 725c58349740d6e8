"""A device that is none: its tensors say "pretend" and are computed with on the CPU.

What holds tensors of two devices together fails here as it does on a GPU, and what makes a program
wait for one is counted. Values are those of the CPU where the same operations run.
"""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
PACKAGE = "/robust_stitching/"
ACROSS = ("_to_copy", "copy_")
"""Operations that go from one device to another."""

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal")
"""Operations whose result has to be known before the program goes on, or whose size has."""

INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")


class Mismatch(AssertionError):
    """Tensors of two devices in one operation."""


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def _register() -> torch.device:
    """Tell torch of the device, once in a process."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        backend_registration._setup_privateuseone_for_python_backend(NAME, _Backend())
    return torch.device(NAME, 0)


class There(Tensor):
    """A tensor on the device; its values lie in `here`."""

    @staticmethod
    def __new__(cls, here: Tensor):
        return Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=_register(),
        )

    def __init__(self, here: Tensor):
        self.here = here

    def __repr__(self) -> str:
        return f"There({self.here!r})"

    def __getitem__(self, which: Any) -> Tensor:
        return super().__getitem__(_as_tensors(which))  # torch would make them without asking us

    def tolist(self) -> Any:
        """As of any tensor, which torch refuses to subclasses."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, Counter())


def _as_tensors(which: Any) -> Any:
    if isinstance(which, list):
        return torch.tensor(which)
    return tuple(map(_as_tensors, which)) if type(which) is tuple else which


class _Device(TorchDispatchMode):
    """While it is on, what is made on the device, or moved to it, is `There`."""

    def __init__(self, waits: Counter):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, self.waits)


_register()


@contextmanager
def device() -> Iterator[tuple[torch.device, Counter]]:
    """The device, and what is waited for within the block: the line of the library to how often."""
    waits: Counter = Counter()
    where = _register()
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # else torch.tensor(…) would go there without us
    try:
        with _Device(waits):
            yield where, waits
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)


def _run(func: Any, args: Any, kwargs: dict[str, Any], waits: Counter) -> Any:
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, There)]
    here = [tensor for tensor in tensors if not isinstance(tensor, There)]
    _check(name, func, args, there, here)
    asked = kwargs.get("device")
    on_device = bool(there) if asked is None else torch.device(asked).type == NAME
    if name == "copy_":
        on_device = isinstance(args[0], There)
    if _waits(name, args, there, on_device):
        waits[_line(name)] += 1
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu") if on_device else asked}
    found = func(*tree_map(_here, args), **tree_map(_here, kwargs))
    known = {id(tensor.here): tensor for tensor in there}

    def back(value: Any) -> Any:
        if not isinstance(value, Tensor) or not on_device:
            return value
        own = known.get(id(value))
        if own is not None and own.shape != value.shape:
            raise NotImplementedError(f"{func} changes the shape of what it is given")
        return There(value) if own is None else own

    return tree_map(back, found)


def _here(value: Any) -> Any:
    return value.here if isinstance(value, There) else value


def _check(name: str, func: Any, args: Any, there: list[Tensor], here: list[Tensor]) -> None:
    """A GPU takes numbers and places of images from the CPU, and nothing else."""
    if not there or name in ACROSS:
        return
    apart = [tensor for tensor in here if tensor.ndim > 0]
    if name in INDEXING:
        values = [args[0], *args[2:3]]
        apart = [tensor for tensor in apart if any(tensor is value for value in values)]
    if apart:
        raise Mismatch(f"{func} of tensors on {NAME} and on the CPU")


def _waits(name: str, args: Any, there: list[Tensor], on_device: bool) -> bool:
    if not there:
        return False
    if name in INDEXING:
        places = [place for place in args[1] if isinstance(place, There)]
        return any(place.dtype == torch.bool for place in places)
    return name in WAITING or (name in ACROSS and not on_device)


def _line(name: str) -> str:
    """Where the library asked for it."""
    inside = [frame for frame in traceback.extract_stack() if PACKAGE in frame.filename]
    if not inside:
        return name
    last = inside[-1]
    return f"{last.filename.rpartition(PACKAGE)[2]}: {last.line}"
