"""A pretended GPU: tensors that say they are on cuda:0 while their values stay in memory.

Inside `PretendedGpu()` a tensor that is made on or moved to `cuda` becomes an `OnGpu`; operations on such tensors give
such tensors, an operation on tensors of both kinds raises, and every place of the project where the host would wait for
the device is noted as `file:line what`. What it can't see: kernels, streams, memory, and waits inside torch itself.
"""

import sys
from pathlib import Path

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda:0")
ROOT = str(Path(__file__).parents[1])
READS = {"item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__"}
MAKES = {"tensor", "as_tensor"}  # of host values, which a device has to be sent


class OnGpu(torch.Tensor):
    """A tensor that says it is on cuda:0."""


class PretendedGpu(torch.overrides.TorchFunctionMode):
    """See the module. Attributes: waits: set of `file:line what`."""

    def __init__(self):
        super().__init__()
        self.waits = set()

    @staticmethod
    def _is_ours(file):
        return file.startswith(ROOT) and "/tests/" not in file and "/site-packages/" not in file

    def _note(self, what):
        frame = sys._getframe(3)
        if "/torch/" in frame.f_code.co_filename:
            return
        while frame is not None and not self._is_ours(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is not None:
            self.waits.add(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {what}")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), func.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        ours = [x for x in tensors if isinstance(x, OnGpu)]
        if name == "__get__" and ours and func.__self__ is torch.Tensor.device:
            return CUDA
        if name == "__get__" and ours and func.__self__ is torch.Tensor.is_cuda:
            return True
        in_backward = torch._C._current_autograd_node() is not None  # the engine's gradients have no subclass
        result_on_gpu = bool(ours) if in_backward else self._check(name, args, kwargs, tensors, ours)
        args, kwargs = tree_map_only(torch.device, lambda _: torch.device("cpu"), (args, kwargs))
        if isinstance(kwargs.get("device"), str):
            kwargs["device"] = "cpu"
        kind = OnGpu if result_on_gpu else torch.Tensor

        def mark(x):
            return x if type(x) is kind or isinstance(x, torch.nn.Parameter) else x.as_subclass(kind)

        with torch._C.DisableTorchFunctionSubclass():
            return tree_map_only(torch.Tensor, mark, func(*args, **kwargs))

    def _check(self, name, args, kwargs, tensors, ours):
        """Note waits, raise where two devices meet. Returns: whether the result is on the GPU."""
        targets = [x for x in (*args[1:], kwargs.get("device")) if isinstance(x, torch.device)]
        on_gpu = targets[0].type == "cuda" if targets else bool(ours)
        if ours and (name in READS or (name == "to" and not on_gpu)):
            self._note(name)
            return False
        if targets and on_gpu and not ours and (tensors or name in MAKES):
            if not kwargs.get("non_blocking"):
                self._note("copy that is waited for")
        elif name == "__getitem__" and any(
            isinstance(x, OnGpu) and x.dtype == torch.bool for x in tree_leaves(args[1])
        ):
            self._note("boolean index")
        elif ours and name not in ("copy_", "__get__", "__set__"):
            for x in tensors:
                assert isinstance(x, OnGpu) or x.dim() == 0, f"{name}: tensors of two devices"
        return on_gpu


def move_parameters(model):
    """Put a module's parameters on the pretended GPU."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                values = parameter.detach().as_subclass(OnGpu)
                module._parameters[name] = torch.nn.Parameter(values, parameter.requires_grad)
    return model
