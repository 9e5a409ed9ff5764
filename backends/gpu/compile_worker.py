"""A process that compiles kernels: jobs come in as lines of JSON, answers go out so.

It is run as a script and needs Triton and the standard library only: not torch, which
takes seconds to import and whose tensors no kernel needs in order to be compiled.
"""

import ast
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Answer one job after the other until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this ends it
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a compiler prints is no answer
    for line in sys.stdin:
        json.dump({"error": _error(json.loads(line))}, answers)
        answers.write("\n")
        answers.flush()


def _error(job: dict[str, Any]) -> str:
    """Do a job; what went wrong, or nothing."""
    try:
        _compile(job)
    except Exception as error:  # noqa: BLE001 - any failure is an answer
        return str(error) or type(error).__name__
    return ""


def _compile(job: dict[str, Any]) -> None:
    """Compile a kernel of a file; put metadata and machine code into a folder.

    ``job``: ``file``, ``kernel``, ``signature``, ``aligned``, ``options``, ``target``
    (backend, architecture, warp size), ``folder``, ``stem`` (of the files' names) and
    ``keep`` (their endings).
    """
    folder, stem = Path(job["folder"]), job["stem"]
    scratch = folder / f"{stem}.scratch"
    os.environ["TRITON_CACHE_DIR"] = str(scratch)  # read anew for each kernel
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(
        fn=_functions(Path(job["file"]))[job["kernel"]],
        signature=job["signature"],
        attrs={(i,): [["tt.divisibility", 16]] for i in job["aligned"]},
    )
    compiled = triton.compile(
        source, target=GPUTarget(*job["target"]), options=job["options"]
    )
    for kind in job["keep"]:
        if kind in compiled.asm:
            code = compiled.asm[kind]
            data = code if isinstance(code, bytes) else code.encode("utf-8")
            (folder / f"{stem}.{kind}").write_bytes(data)
    metadata = json.dumps(compiled.metadata._asdict(), default=vars, indent=1)
    (folder / f"{stem}.json").write_text(metadata, "utf-8")
    shutil.rmtree(scratch)


def _functions(path: Path) -> dict[str, Any]:
    """The functions of an emitted file, without what runs them."""
    tree = ast.parse(path.read_text("utf-8"))
    tree.body = [node for node in tree.body if not _runs(node)]
    space: dict[str, Any] = {"__name__": path.stem}
    exec(compile(tree, str(path), "exec"), space)
    return space


def _runs(node: ast.stmt) -> bool:
    """Whether a statement is about running the kernels: torch, Program, main."""
    if isinstance(node, ast.Import):
        return any(name.name.split(".")[0] == "torch" for name in node.names)
    return isinstance(node, ast.ClassDef | ast.If)


if __name__ == "__main__":
    main()
