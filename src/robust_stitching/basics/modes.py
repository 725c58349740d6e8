"""Looking at a network without leaving a trace on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients, in full float32; every module's mode is put back
    afterwards."""
    with _in_evaluation_mode(*networks), torch.no_grad(), without_tf32():
        yield


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """What a network answers to images, in evaluation mode and without gradients. It is given a
    copy of them, since some networks overwrite what they are given."""
    with evaluating(network):
        return network(images.clone())


@contextmanager
def untouched(network: nn.Module, but: str) -> Iterator[None]:
    """Whatever attributes, parameters, buffers and modules are set within the block are afterwards
    as they were before, and what is in dictionaries and lists that modules hold, and the values of
    buffers; but for names that begin with `but`."""
    holding = [held for module in network.modules() for held in (vars(module), *_inside(module))]
    before = [(held, held.copy()) for held in holding]
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for held, then in before:
            if isinstance(held, list):
                held[:] = then
                continue
            for key in [key for key in held if key not in then and not str(key).startswith(but)]:
                del held[key]
            for key, value in then.items():
                if held.get(key, held) is not value and not str(key).startswith(but):
                    held[key] = value
        with torch.no_grad():
            for buffer, version, value in buffers:
                if buffer._version != version:
                    buffer.copy_(value)


def _inside(module: nn.Module) -> list[Any]:
    """The dictionaries and lists that a module holds, those of its parameters and hooks, too."""
    return [held for held in vars(module).values() if isinstance(held, dict | list)]


@contextmanager
def attackable(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and frozen parameters, for gradients with respect to images; modes and
    `requires_grad` are put back afterwards."""
    wanted = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    with _in_evaluation_mode(network):
        network.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, requires_grad in wanted:
                parameter.requires_grad_(requires_grad)


@contextmanager
def _in_evaluation_mode(*networks: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def usual_settings() -> Iterator[None]:
    """Gradients, float32 and no autocast, whatever the caller has chosen for his own code, or code
    within the block chooses; put back afterwards."""
    dtype = torch.get_default_dtype()
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        try:
            torch.set_default_dtype(torch.float32)
            yield
        finally:
            torch.set_default_dtype(dtype)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Full float32 products, on GPUs that would round them to ten bits and where the caller has
    chosen autocast."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
