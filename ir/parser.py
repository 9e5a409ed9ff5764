"""Reads IR text by recursive descent.

::

    graph     = "graph" string "(" [input {"," input}] ")" "->" "(" [output …] ")"
                ["stage" word] "{" {parameter} {node} {update} [arena] "}"
    input     = value ":" type ["=" (int | float)]     (what it holds if not given)
    output    = string "=" value
    parameter = ("param" | "state") value ":" type "=" string "(" [pairs] ")" [locs]
    node      = value {"," value} "=" (op | kernel) [locs]
    op        = word "(" [value {"," value}] ")" ["{" pairs "}"] ":" types
    kernel    = "kernel" string "(" [value {"," value}] ")" ":" types
                "{" {node} "yield" value {"," value} "}" ["schedule" "{" [pairs] "}"]
    update    = "update" value "=" value
    arena     = "arena" int "batch" int "threads" int ["blas" int] "{" {buffer} "}"
    buffer    = value int int "live" int int         (offset, size, first, last launch)
    types     = type {"," type}
    type      = word "[" [dim {"," dim}] "]" ["{" int {"," int} "}"]
    dim       = int | "N"
    pairs     = string "=" attr {"," string "=" attr}
    attr      = int | float | "true" | "false" | string | "[" [attr {"," attr}] "]"
    locs      = "@" loc {";" loc}
    loc       = string ":" int [string]              (the layer, on the same line)
    string    = word | quoted

In a kernel's body %0, %1, … are its operands. ``#`` starts a comment. The text is
untrusted: its size and nesting are bounded, ops come from the closed table.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from typing import TypeVar

from convc.ir.errors import IRSyntaxError, TypeRuleError
from convc.ir.graph import (
    STAGES,
    Arena,
    Attr,
    Buffer,
    Graph,
    Loc,
    Node,
    Parameter,
    Region,
    Value,
)
from convc.ir.lexer import Token, tokenize
from convc.ir.ops import op_named
from convc.ir.types import BATCH, Dim, DType, TensorType

MAX_DEPTH = 8
"""Deepest nesting of lists in an attribute."""

_SAYS = {
    "value": "a %value",
    "int": "an integer",
    "word": "a name",
    "arrow": "'->'",
    "end": "the end of the text",
}

T = TypeVar("T")
Scope = dict[str, Value]


def parse(source: str) -> Graph:
    """The graph that ``source`` describes.

    IRSyntaxError with line, column and a caret for text that breaks the grammar, uses
    a value before its definition or names an unknown op. Types are taken as written:
    ``verify`` compares them with the ops' rules.
    """
    return _Parser(source).graph()


class _Parser:
    def __init__(self, source: str) -> None:
        self.source = source
        self.tokens = tokenize(source)
        self.position = 0

    # -- tokens

    @property
    def token(self) -> Token:
        return self.tokens[self.position]

    def fail(self, reason: str, token: Token | None = None) -> IRSyntaxError:
        at = token or self.token
        return IRSyntaxError(reason, self.source, at.line, at.column)

    def take(self, kind: str, text: str | None = None) -> Token:
        token = self.token
        if token.kind != kind or (text is not None and token.text != text):
            wanted = repr(text) if text else _SAYS[kind]
            raise self.fail(f"expected {wanted}, found {token.text[:40]!r}")
        self.position += 1
        return token

    def at(self, text: str) -> bool:
        return self.token.text == text and self.token.kind in ("punct", "word", "arrow")

    def accept(self, text: str) -> bool:
        found = self.at(text)
        self.position += found
        return found

    def listed(self, close: str, item: Callable[[], T]) -> list[T]:
        items: list[T] = []
        while not self.accept(close):
            if items:
                self.take("punct", ",")
            items.append(item())
        return items

    def integer(self) -> int:
        return int(self.take("int").text)

    def string(self) -> str:
        if self.token.kind == "string":
            token = self.take("string")
            try:
                return str(json.loads(token.text))
            except ValueError:
                raise self.fail("bad escape in a quoted string", token) from None
        return self.take("word").text

    # -- graph

    def graph(self) -> Graph:
        self.take("word", "graph")
        name = self.string()
        scope: Scope = {}
        self.take("punct", "(")
        feeds: list[tuple[str, float]] = []
        inputs = tuple(self.listed(")", lambda: self.input(scope, feeds)))
        self.take("arrow")
        self.take("punct", "(")
        outputs = self.listed(")", self.output)
        stage = self.stage() if self.accept("stage") else "tensor"
        self.take("punct", "{")
        parameters = []
        while self.at("param") or self.at("state"):
            parameters.append(self.parameter(scope))
        nodes = []
        while self.token.kind == "value":
            nodes.append(self.node(scope))
        updates = []
        while self.accept("update"):
            target = self.use(scope)
            self.take("punct", "=")
            updates.append((target, self.use(scope)))
        arena = self.arena() if self.at("arena") else None
        self.take("punct", "}")
        self.take("end")
        resolved = tuple((key, self.lookup(token, scope)) for key, token in outputs)
        return Graph(
            name,
            inputs,
            tuple(parameters),
            tuple(nodes),
            resolved,
            tuple(updates),
            stage,
            arena,
            tuple(feeds),
        )

    def input(self, scope: Scope, feeds: list[tuple[str, float]]) -> Value:
        value = self.typed(scope)
        if self.accept("="):
            token = self.token
            number = self.attr(0)
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise self.fail(f"expected a number, found {token.text[:40]!r}", token)
            feeds.append((value.name, float(number)))
        return value

    def stage(self) -> str:
        word = self.take("word")
        if word.text not in STAGES:
            known = ", ".join(STAGES)
            raise self.fail(f"unknown stage {word.text!r}, known: {known}", word)
        return word.text

    def output(self) -> tuple[str, Token]:
        name = self.string()
        self.take("punct", "=")
        return name, self.take("value")

    def parameter(self, scope: Scope) -> Parameter:
        trainable = self.take("word").text == "param"
        value = self.typed(scope)
        self.take("punct", "=")
        initializer = self.string()
        self.take("punct", "(")
        attrs = self.pairs(")")
        return Parameter(value, initializer, attrs, trainable, self.locs())

    def arena(self) -> Arena:
        self.take("word", "arena")
        size = self.integer()
        self.take("word", "batch")
        batch = self.integer()
        self.take("word", "threads")
        threads, blas = self.integer(), 1
        if self.at("blas"):
            self.take("word", "blas")
            blas = self.integer()
        self.take("punct", "{")
        buffers = []
        while not self.accept("}"):
            name = self.take("value").text[1:]
            offset, extent = self.integer(), self.integer()
            self.take("word", "live")
            buffers.append(Buffer(name, offset, extent, self.integer(), self.integer()))
        return Arena(size, batch, threads, tuple(buffers), blas)

    # -- nodes

    def node(self, scope: Scope, inside: bool = False) -> Node:
        names = [self.take("value")]
        while self.accept(","):
            names.append(self.take("value"))
        self.take("punct", "=")
        if self.at("kernel"):
            if inside:
                raise self.fail("a kernel cannot stand inside a kernel")
            node = self.kernel(names, scope)
        else:
            node = self.operation(names, scope)
        for token, value in zip(names, node.results, strict=True):
            self.define(token, value, scope)
        return replace(node, locs=self.locs())

    def operation(self, names: list[Token], scope: Scope) -> Node:
        op = self.take("word")
        self.take("punct", "(")
        operands = tuple(self.listed(")", lambda: self.use(scope)))
        attrs = self.pairs("}") if self.accept("{") else {}
        results = self.results(names)
        try:
            full = op_named(op.text).check([v.type for v in operands], attrs)
        except TypeRuleError as error:
            raise self.fail(str(error), op) from None
        return Node(op.text, operands, results, full)

    def kernel(self, names: list[Token], scope: Scope) -> Node:
        self.take("word", "kernel")
        name = self.string()
        self.take("punct", "(")
        operands = tuple(self.listed(")", lambda: self.use(scope)))
        results = self.results(names)
        inputs = tuple(Value(str(i), v.type.plain) for i, v in enumerate(operands))
        local: Scope = {v.name: v for v in inputs}
        self.take("punct", "{")
        nodes = []
        while self.token.kind == "value":
            nodes.append(self.node(local, inside=True))
        self.take("word", "yield")
        yields = [self.use(local)]
        while self.accept(","):
            yields.append(self.use(local))
        self.take("punct", "}")
        schedule = None
        if self.accept("schedule"):
            self.take("punct", "{")
            schedule = self.pairs("}")
        region = Region(inputs, tuple(nodes), tuple(yields))
        attrs: dict[str, Attr] = {"name": name}
        return Node("kernel", operands, results, attrs, (), region, schedule)

    def results(self, names: list[Token]) -> tuple[Value, ...]:
        colon = self.take("punct", ":")
        types = [self.type()]
        while self.accept(","):
            types.append(self.type())
        if len(types) != len(names):
            raise self.fail(f"{len(names)} results have {len(types)} types", colon)
        return tuple(Value(n.text[1:], t) for n, t in zip(names, types, strict=True))

    def typed(self, scope: Scope) -> Value:
        token = self.take("value")
        self.take("punct", ":")
        value = Value(token.text[1:], self.type())
        self.define(token, value, scope)
        return value

    def define(self, token: Token, value: Value, scope: Scope) -> None:
        if value.name in scope:
            raise self.fail(f"{token.text} is defined twice", token)
        scope[value.name] = value

    def use(self, scope: Scope) -> Value:
        return self.lookup(self.take("value"), scope)

    def lookup(self, token: Token, scope: Scope) -> Value:
        if token.text[1:] not in scope:
            raise self.fail(f"{token.text} is not defined here", token)
        return scope[token.text[1:]]

    # -- types, attributes, locations

    def type(self) -> TensorType:
        word = self.take("word")
        known = {d.value for d in DType}
        if word.text not in known:
            listed = ", ".join(sorted(known))
            raise self.fail(f"unknown dtype {word.text!r}, known: {listed}", word)
        self.take("punct", "[")
        shape = tuple(self.listed("]", self.dim))
        layout = None
        if self.at("{") and self.tokens[self.position + 1].kind == "int":
            self.take("punct", "{")
            layout = tuple(self.listed("}", self.integer))
        try:
            return TensorType(DType(word.text), shape).with_layout(layout)
        except TypeRuleError as error:
            raise self.fail(str(error), word) from None

    def dim(self) -> Dim:
        return BATCH if self.accept(BATCH) else self.integer()

    def pairs(self, close: str) -> dict[str, Attr]:
        attrs: dict[str, Attr] = {}
        for token, key, value in self.listed(close, self.pair):
            if key in attrs:
                raise self.fail(f"{key} is given twice", token)
            attrs[key] = value
        return attrs

    def pair(self) -> tuple[Token, str, Attr]:
        token, key = self.token, self.string()
        self.take("punct", "=")
        return token, key, self.attr(0)

    def attr(self, depth: int) -> Attr:
        token = self.token
        if self.at("[") and depth >= MAX_DEPTH:
            raise self.fail(f"lists may be nested {MAX_DEPTH} deep at most")
        if self.accept("["):
            return tuple(self.listed("]", lambda: self.attr(depth + 1)))
        if token.kind == "int":
            return self.integer()
        if token.kind == "float":
            number = float(self.take("float").text)
            if not isfinite(number):
                raise self.fail("a number this large is no float", token)
            return number
        if token.kind == "word" and token.text in ("true", "false"):
            return self.take("word").text == "true"
        return self.string()

    def locs(self) -> tuple[Loc, ...]:
        if not self.accept("@"):
            return ()
        found = [self.loc()]
        while self.accept(";"):
            found.append(self.loc())
        return tuple(found)

    def loc(self) -> Loc:
        file = self.string()
        self.take("punct", ":")
        number = self.take("int")
        same_line = self.token.line == number.line
        layer = (
            self.string() if same_line and self.token.kind in ("word", "string") else ""
        )
        return Loc(file, int(number.text), layer)
