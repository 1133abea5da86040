"""A GPU of fake tensors: what a model's own forward, backward and optimizer step take there, counted on any machine.

Inside `FakeGpu()` tensors on `cuda` have shapes, types and storages and no values (torch's FakeTensorMode); tensors on
the CPU stay real. Every storage is counted from the operation that makes it until its last holder lets it go, in blocks
of 512 bytes as CUDA's allocator gives them, under the name of a part. `backward` walks the graph of autograd in the
order of torch's engine, which itself refuses a CUDA tensor where no driver is. What can't be seen: the memory of the
CUDA context and its libraries, and what the allocator loses in pieces.
"""

import contextlib
import heapq
import itertools
import weakref
from collections import Counter
from unittest import mock

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import GraphExecGroup
from torch.utils.flop_counter import flop_registry

from benchmark.timing import FORMULAS

BLOCK = 512  # bytes, the allocator's smallest
ALIGNMENT = 16  # elements; the fused attention takes a padded copy of a bias whose rows start elsewhere


class FakeGpu(TorchDispatchMode):
    """See the module.

    Args:
        name_part: function of (operation, its tensors' parts, new tensor) -> name of the part, or None for
            `activations`, inside `working` and `backward` `working memory`.

    Attributes:
        live: Counter, bytes by part now.
        peak: the same at the moment of most bytes since `reset`.
        flops: of matrix products, convolutions and attention since `reset`.
    """

    def __init__(self, name_part=lambda operation, parts, tensor: None):
        super().__init__()
        self.name_part = name_part
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.live, self.peak, self.flops = Counter(), Counter(), 0
        self._total = self._most = 0
        self._keeps = True  # what is made now may be kept for the backward pass
        self._owners = weakref.WeakKeyDictionary()  # storage -> [its part]
        self._contexts = contextlib.ExitStack()

    def __enter__(self):
        for context in (_cuda_without_driver(), self.fake, _FusedAttention()):
            self._contexts.enter_context(context)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._contexts.close()

    def reset(self):
        """Begin a new count of `peak` and `flops`."""
        self.peak, self.flops, self._most = Counter(self.live), 0, self._total

    def label(self, tensor, part):
        """Count the storage of a tensor under another part."""
        storage = tensor.untyped_storage()
        size = _allocated(storage)
        self.live[self._owners[storage][0]] -= size
        self.live[part] += size
        self._owners[storage][0] = part

    @contextlib.contextmanager
    def working(self):
        """What is made inside counts as `working memory`, unless it is computed again for the backward pass."""
        self._keeps = False
        try:
            yield
        finally:
            self._keeps = True

    def backward(self, loss, accumulate):
        """The backward pass of a scalar, node by node, in the order and with the releases of torch's engine.

        Args:
            loss: list of the one () tensor, taken out of it; what else the caller holds of its graph stays alive.
            accumulate: function of (parameter, gradient) that takes each part of a gradient.
        """
        with GraphExecGroup(), torch.no_grad(), self.working():
            _walk(loss, accumulate)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        leaves = tree_leaves((args, kwargs))
        inputs = [x for x in leaves if isinstance(x, FakeTensor)]
        if not inputs and not any(isinstance(x, torch.device) and x.type == "cuda" for x in leaves):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        with self.fake:
            out = func(*args, **kwargs)
        self.flops += _count_flops(func, args, kwargs, out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, FakeTensor) and tensor.device.type == "cuda":
                self._count(func, inputs, tensor)
        return out

    def _count(self, func, inputs, tensor):
        storage = tensor.untyped_storage()
        if storage in self._owners:
            return
        default = "activations" if self._keeps or _recomputes() else "working memory"
        parts = [self._owners[x.untyped_storage()][0] for x in inputs if x.untyped_storage() in self._owners]
        owner = self._owners[storage] = [self.name_part(func, parts, tensor) or default]
        size = _allocated(storage)
        self.live[owner[0]] += size
        self._total += size
        weakref.finalize(storage, self._free, owner, size)
        if self._total > self._most:
            self._most, self.peak = self._total, Counter(self.live)

    def _free(self, owner, size):
        self.live[owner[0]] -= size
        self._total -= size


def _recomputes():
    """Whether a checkpointed region runs again: only there the backward pass has hooks for what autograd saves."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def _count_flops(func, args, kwargs, out):
    formula = {**flop_registry, **FORMULAS}.get(func.overloadpacket)
    return formula(*args, **kwargs, out_val=out) if formula else 0


def _allocated(storage):
    return -(-storage.nbytes() // BLOCK) * BLOCK


@contextlib.contextmanager
def _cuda_without_driver():
    """torch.autocast and the choice of a precision take `cuda` as they do beside a recent GPU."""
    with (
        mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", return_value=False),
        mock.patch.object(torch.cuda, "is_bf16_supported", return_value=True),
    ):
        yield


class _FusedAttention(TorchFunctionMode):
    """F.scaled_dot_product_attention with a mask as CUDA runs it: autocast, a float mask, rows aligned, one kernel."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return _attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
    states, mask = (query, key, value), attn_mask
    if torch.is_autocast_enabled("cuda"):
        states = [x.to(torch.get_autocast_dtype("cuda")) for x in states]
    q, k, v = states
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
        mask = mask.to(q.dtype)
        if any(stride % ALIGNMENT for stride in mask.stride()[:-1]):
            steps = mask.shape[-1]
            mask = F.pad(mask, (0, ALIGNMENT - steps % ALIGNMENT))[..., :steps]
        mask = mask.expand(*q.shape[:3], k.shape[2])
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in states)
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(q, k, v, mask, keep, dropout_p, is_causal, scale=scale)[0]


def _walk(loss, accumulate):
    root, order = loss[0].grad_fn, itertools.count()
    gradients, owners = {root: {0: torch.ones_like(loss.pop())}}, {}
    waits = _count_consumers(root)
    ready = [(*_priority(root), next(order), root)]
    del root  # from here on each node goes, with what it saved, once it has run
    while ready:
        node = heapq.heappop(ready)[-1]
        owner = owners.pop(node, None)
        results = _run(node, gradients.pop(node, {}), accumulate)
        for (following, slot), result in zip(node.next_functions, results, strict=False):
            if following is None:
                continue
            if result is not None:
                _add(gradients.setdefault(following, {}), slot, _fit(result, following._input_metadata[slot]))
            waits[following] -= 1
            if not waits[following]:
                del waits[following]
                heapq.heappush(ready, (*_priority(following), next(order), following))
                if _is_python(following):
                    owners[following] = (node, owner)  # its own graph goes with the last node above it
        node = owner = following = result = results = None


def _is_python(node):
    return isinstance(node, torch.autograd.function.BackwardCFunction)


def _add(gradients, slot, gradient):
    gradients[slot] = gradients[slot] + gradient if slot in gradients else gradient


def _priority(node):
    """Gradients of parameters first, then the operations from last to first."""
    return (0, 0) if hasattr(node, "variable") else (1, -node._sequence_nr())


def _count_consumers(root):
    """{node: how many edges lead to it} of the graph below a node."""
    waits, stack = Counter(), [root]
    while stack:
        for following, _ in stack.pop().next_functions:
            if following is not None:
                if following not in waits:
                    stack.append(following)
                waits[following] += 1
    return waits


def _run(node, gradients, accumulate):
    """The gradients of one node's inputs, None where there is none."""
    if not gradients:
        return [None] * len(node.next_functions)
    if hasattr(node, "variable"):
        accumulate(node.variable, gradients.pop(0))
        return []
    arguments = [gradients.pop(slot, None) for slot in range(len(node._input_metadata))]
    results = node.apply(*arguments) if _is_python(node) else node(*arguments)
    return results if isinstance(results, tuple) else (results,)


def _fit(gradient, wanted):
    """A gradient in the shape and type of what it belongs to."""
    if tuple(gradient.shape) != tuple(wanted.shape):
        gradient = gradient.sum_to_size(wanted.shape)
    return gradient.to(wanted.dtype)
