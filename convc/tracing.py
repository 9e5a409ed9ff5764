"""Runs a model function on handles and writes down what it does.

While ``trace`` runs a function, each layer and each operator appends nodes to the
graph of the active ``Trace``. Every node gets the user's line and its layer, and a
broken rule becomes a ModelError that says where.
"""

import inspect
import numbers
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from convc import initializers
from convc.ir.builder import GraphBuilder
from convc.ir.errors import TypeRuleError
from convc.ir.graph import Attr, Graph, Loc, Value
from convc.ir.types import Dim, DType, Shape, TensorType
from convc.places import Place, here, mistake, place_of
from convc.spelling import NAME, checked_name, checked_shape, tensor_type

MAX_PATH = 150
"""Longest scope path, so that a value's name stays below its own limit."""

SEED, STEP = "training/seed", "training/step"
"""The states that dropout reads; the training loop owns them."""

_ACTIVE: ContextVar["Trace | None"] = ContextVar("convc_trace", default=None)


class Tensor:
    """A value of the graph being traced: it has a type and no numbers.

    ``+ - * /`` and unary ``-`` broadcast by NumPy's rule; Python numbers become
    constants of the other side's dtype. ``a @ b`` is the product of two matrices.
    """

    __slots__ = ("trace", "value")
    __array_ufunc__ = None  # a NumPy array on the left leaves the operator to us

    def __init__(self, trace: "Trace", value: Value) -> None:
        self.trace, self.value = trace, value

    @property
    def type(self) -> TensorType:
        """The tensor's type in the IR."""
        return self.value.type

    @property
    def shape(self) -> Shape:
        """The dimensions, the batch as ``"N"``: ``("N", 28, 28, 1)``."""
        return self.value.type.shape

    @property
    def rank(self) -> int:
        """The number of axes, the batch among them."""
        return self.value.type.rank

    @property
    def dtype(self) -> DType:
        """The element type."""
        return self.value.type.dtype

    def __repr__(self) -> str:
        return f"<Tensor {self.value}: {self.type}>"

    def __bool__(self) -> bool:
        raise mistake(
            f"{self!r} has no truth value: its numbers are known only when the program "
            "runs; decide by a Python value or by .shape instead"
        )

    def __add__(self, other: object) -> "Tensor":
        return _arithmetic("add", self, other)

    def __radd__(self, other: object) -> "Tensor":
        return _arithmetic("add", other, self)

    def __sub__(self, other: object) -> "Tensor":
        return _arithmetic("subtract", self, other)

    def __rsub__(self, other: object) -> "Tensor":
        return _arithmetic("subtract", other, self)

    def __mul__(self, other: object) -> "Tensor":
        return _arithmetic("multiply", self, other)

    def __rmul__(self, other: object) -> "Tensor":
        return _arithmetic("multiply", other, self)

    def __truediv__(self, other: object) -> "Tensor":
        return _arithmetic("divide", self, other)

    def __rtruediv__(self, other: object) -> "Tensor":
        return _arithmetic("divide", other, self)

    def __matmul__(self, other: object) -> "Tensor":
        return _arithmetic("matmul", self, other)

    def __neg__(self) -> "Tensor":
        with layer_scope("negate", absorb=True) as t:
            return t.emit("negate", self)


def _arithmetic(op: str, left: object, right: object) -> Tensor:
    like = left if isinstance(left, Tensor) else right
    assert isinstance(like, Tensor)
    with layer_scope(op, absorb=True) as t:
        sides = (t.operand(op, side, like) for side in (left, right))
        return t.emit(op, *sides)


@dataclass(frozen=True)
class _Entry:
    """A scope that has been entered: its path, and whether names in it are shared."""

    path: str = ""
    reuse: bool = False
    layer: bool = False


class Trace:
    """The graph being built, the scopes entered and the names given so far."""

    def __init__(self, name: str) -> None:
        self.builder = GraphBuilder(name)
        self.place: Place | None = None
        self._entered = [_Entry()]
        self._variables: dict[str, tuple[Value, Place | None]] = {}
        self._layers: dict[str, Place | None] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._calls: Counter[str] = Counter()

    @property
    def scope(self) -> str:
        """The path of the innermost scope, empty outside of all."""
        return self._entered[-1].path

    @property
    def in_layer(self) -> bool:
        """Whether a layer is being built."""
        return self._entered[-1].layer

    def locate(self) -> None:
        """Find the user's line; what convc itself adds (a loss) keeps the last one."""
        self.place = here(until=trace.__code__) or self.place or here()

    def locs(self) -> tuple[Loc, ...]:
        """The user's line and the present scope."""
        if self.place is None:
            return ()
        return (Loc(self.place.short, self.place.line, self.scope),)

    def enter(self, kind: str, name: str | None, reuse: bool, layer: bool) -> None:
        """Go into a scope below the present one; TypeRuleError for a bad name."""
        above = self._entered[-1]
        reuse = reuse or above.reuse
        name = self._unused(kind) if name is None else checked_name(kind, name)
        path = f"{above.path}/{name}" if above.path else name
        if len(path) > MAX_PATH:
            raise TypeRuleError(
                f"{kind}: the scope path has {len(path)} characters, the most is "
                f"{MAX_PATH}; use shorter names or fewer nested scopes"
            )
        if layer:
            self._claim(kind, path, reuse)
        self._entered.append(_Entry(path, reuse, layer))
        if reuse:
            # What is unnamed in a shared scope gets the same names each time.
            for key in [k for k in self._counts if f"{k[0]}/".startswith(f"{path}/")]:
                del self._counts[key]

    def leave(self) -> None:
        """Go back to the scope above."""
        self._entered.pop()

    def _unused(self, kind: str) -> str:
        """conv2d, conv2d_1, …: the first that no layer of this scope has."""
        above = self._entered[-1]
        while True:
            count = self._counts[above.path, kind]
            self._counts[above.path, kind] += 1
            name = f"{kind}_{count}" if count else kind
            path = f"{above.path}/{name}" if above.path else name
            if above.reuse or path not in self._layers:
                return name

    def _claim(self, kind: str, path: str, reuse: bool) -> None:
        if path in self._layers and not reuse:
            raise TypeRuleError(
                f"{kind}: the name {path} is taken by the layer at "
                f"{self._layers[path]}; give this one another name, or pass reuse=True "
                "to share its variables"
            )
        self._layers.setdefault(path, self.place)

    def emit(self, op: str, *operands: Tensor, **attrs: Attr) -> Tensor:
        """Append a node with one result."""
        for tensor in operands:
            self._own(op, tensor)
        return Tensor(self, self.builder(op, *(x.value for x in operands), **attrs))

    def _own(self, what: str, tensor: Tensor) -> None:
        if tensor.trace is not self:
            raise TypeRuleError(
                f"{what}: {tensor!r} belongs to another trace, of "
                f"{tensor.trace.builder.name}; return it from there and make it an "
                f"input of {self.builder.name}, or compute it here"
            )

    def operand(self, what: str, side: object, like: Tensor) -> Tensor:
        """``side`` as a tensor: a Python number becomes a constant of like's dtype."""
        if isinstance(side, Tensor):
            return side
        if isinstance(side, bool) or not isinstance(side, numbers.Real):
            raise TypeRuleError(
                f"{what}: a {type(side).__name__} cannot stand beside {like!r}; "
                "use a tensor or a number (get_variable makes a tensor of values)"
            )
        if not like.dtype.is_float and not float(side).is_integer():
            raise TypeRuleError(
                f"{what}: the number {side} is no {like.dtype.value}, the dtype of "
                f"{like!r}; use a whole number"
            )
        return Tensor(self, self.builder.constant(float(side), like.type))

    def variable(
        self, name: str, shape: Sequence[Dim], initializer: Any, trainable: bool = True
    ) -> Tensor:
        """The variable ``name`` of the present scope, made or shared.

        As ``get_variable``, with a TypeRuleError for a mistake.
        """
        name = checked_name("get_variable", name)
        path = f"{self.scope}/{name}" if self.scope else name
        kind = TensorType(DType.F32, checked_shape(path, shape))
        if path in self._variables:
            return self._shared(path, kind)
        rule = initializers.resolve(initializer, kind)
        value = self.builder.parameter(path, kind, rule.name, rule.attrs, trainable)
        self._variables[path] = (value, self.place)
        return Tensor(self, value)

    def _shared(self, path: str, kind: TensorType) -> Tensor:
        value, place = self._variables[path]
        if not self._entered[-1].reuse:
            raise TypeRuleError(
                f"the variable {path} was already made at {place}; "
                "choose another name, or enter its scope with reuse=True to share it"
            )
        if value.type != kind:
            raise TypeRuleError(
                f"the shared variable {path} is {value.type} (made at {place}), "
                f"here it would be {kind}; use the same sizes, or another name"
            )
        return Tensor(self, value)

    def state(self, name: str) -> Tensor:
        """One of the two scalars SEED and STEP, declared on first use."""
        if name not in self._variables:
            initializer = "seed" if name == SEED else "zeros"
            kind = TensorType(DType.I64, ())
            made = self.builder.parameter(name, kind, initializer, trainable=False)
            self._variables[name] = (made, self.place)
        return Tensor(self, self._variables[name][0])

    def latest(self, state: Tensor) -> Tensor:
        """What the state holds after the updates so far."""
        updates = {p.name: v for p, v in self.builder.updates}
        return Tensor(self, updates.get(state.value.name, state.value))

    def update(self, state: Tensor, new: Tensor) -> None:
        """Let ``state`` take ``new`` at the end of a step, in place of any before."""
        updates = self.builder.updates
        updates[:] = [(p, v) for p, v in updates if p != state.value]
        self.builder.update(state.value, new.value)

    def call_of(self, path: str) -> int:
        """How often the layer ``path`` has been called before; counts this call."""
        self._calls[path] += 1
        return self._calls[path] - 1

    def outputs(self, result: object, what: str) -> None:
        """Declare what the traced function returned."""
        named = result if isinstance(result, Mapping) else {"output": result}
        if not named:
            raise TypeRuleError(
                f"{what} must return a tensor, it returned an empty dict"
            )
        for name, tensor in named.items():
            if not isinstance(tensor, Tensor):
                given = "None" if tensor is None else f"a {type(tensor).__name__}"
                raise TypeRuleError(
                    f"{what} must return a tensor or a dict of tensors, "
                    f"{name} is {given}; end it with `return x`"
                )
            self._own(what, tensor)
            self.builder.output(checked_name("output", name), tensor.value)


def active_trace(what: str) -> Trace:
    """The trace being made; ModelError when ``what`` is used outside of one."""
    active = _ACTIVE.get()
    if active is None:
        raise mistake(
            f"{what}: used outside of a model; put it into a function of the inputs "
            "and pass that to convc.Model, as in "
            'Model(network, image="f32[N,28,28,1]")'
        )
    return active


class Scope:
    """A scope of the active trace as a context; made by the two functions below.

    On the way out a TypeRuleError becomes a ModelError with the layer and the line.
    """

    def __init__(
        self, kind: str, name: str | None, reuse: bool, layer: bool, absorb: bool
    ) -> None:
        self._settings = (kind, name, reuse, layer)
        self._absorb = absorb

    def __enter__(self) -> Trace:
        kind, name, _, _ = self._settings
        t = active_trace(kind)
        self._absorbed = self._absorb and name is None and t.in_layer
        if not self._absorbed:
            t.locate()
            try:
                t.enter(*self._settings)
            except TypeRuleError as error:
                raise mistake(str(error), t.scope, t.place) from None
            self._outer, t.builder.locs = t.builder.locs, t.locs()
        return t

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._absorbed:
            return
        t = active_trace("scope")
        path = t.scope
        t.leave()
        t.builder.locs = self._outer
        if isinstance(error, TypeRuleError):
            raise mistake(str(error), path, t.place) from None


def layer_scope(
    kind: str, name: str | None = None, reuse: bool = False, absorb: bool = False
) -> Scope:
    """The scope of one layer: its own name (``kind``, ``kind_1``, … if not given).

    With ``absorb`` an unnamed one inside another layer becomes a part of that layer.
    """
    return Scope(kind, name, reuse, layer=True, absorb=absorb)


def variable_scope(name: str, reuse: bool = False) -> Scope:
    """Puts ``name/`` in front of the names of all layers and variables inside.

    With ``reuse=True``, here or in a scope around, what exists is shared and the rest
    is made; unnamed layers inside get the same names on each entry. Without it, a
    name that is taken is a ModelError.
    """
    return Scope("variable_scope", name, reuse, layer=False, absorb=False)


def get_variable(
    name: str,
    shape: Sequence[Dim],
    initializer: Any = "glorot_uniform",
    trainable: bool = True,
) -> Tensor:
    """The variable ``name`` of the present scope, an f32 tensor of ``shape``.

    ``initializer`` is one of ``convc.initializers`` or its name. In a scope entered
    with reuse=True an existing variable is shared (its first initializer holds);
    ModelError when its shape differs, or when the name is taken without reuse.
    """
    t = active_trace("get_variable")
    t.locate()
    outer, t.builder.locs = t.builder.locs, t.locs()
    try:
        return t.variable(name, shape, initializer, trainable)
    except TypeRuleError as error:
        raise mistake(str(error), t.scope, t.place) from None
    finally:
        t.builder.locs = outer


def trace(
    function: Callable[..., object],
    inputs: Mapping[str, TensorType | str],
    name: str | None = None,
) -> Graph:
    """The graph of what ``function`` does with tensors of the given types.

    The inputs are passed by name (a single one to a function of one argument by
    position). The function returns a Tensor, which becomes the output ``output``, or
    a dict of named Tensors. ModelError for a mistake in it, with its line.
    """
    what = getattr(function, "__name__", type(function).__name__)
    t = Trace(name or (what if NAME.fullmatch(what) else "model"))
    token = _ACTIVE.set(t)
    try:
        handles = {
            checked_name("input", k): Tensor(t, t.builder.input(k, tensor_type(given)))
            for k, given in inputs.items()
        }
        result = called(function, handles)
    except TypeRuleError as error:
        raise mistake(str(error), place=t.place) from None
    finally:
        _ACTIVE.reset(token)
    try:
        t.outputs(result, what)
    except TypeRuleError as error:
        code = getattr(function, "__code__", None)
        place = place_of(code, code.co_firstlineno) if code else t.place
        raise mistake(str(error), place=place) from None
    return t.builder.finish()


def called(function: Callable[..., Any], handles: Mapping[str, Tensor]) -> Any:
    """What ``function`` returns for the handles: by name, a single one by position.

    TypeRuleError if it does not take them.
    """
    what = getattr(function, "__name__", type(function).__name__)
    if not callable(function):
        raise TypeRuleError(f"a model is a function of its inputs, got a {what}")
    signature = inspect.signature(function)
    if _takes(signature, **handles):
        return function(**handles)
    if len(handles) == 1 and _takes(signature, *handles.values()):
        return function(*handles.values())
    taken = ", ".join(str(p) for p in signature.parameters.values())
    raise TypeRuleError(
        f"{what} takes ({taken}), its inputs are {', '.join(handles) or 'none'}; "
        "name the inputs like the function's arguments"
    )


def _takes(signature: inspect.Signature, *args: Tensor, **kwargs: Tensor) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True
