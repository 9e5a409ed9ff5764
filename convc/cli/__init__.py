"""The command line: ``convc COMMAND``.

Importing this reads click alone; each command imports what it needs when it runs.
Exit codes: 0, 1 for what went wrong, 2 for a command that cannot be meant, 130 after
Ctrl-C.
"""

from convc.cli.bench import bench
from convc.cli.compare import compare
from convc.cli.doctor import doctor
from convc.cli.explain import explain, plan
from convc.cli.group import CommandGroup
from convc.cli.look import compile_command, summary
from convc.cli.profile import profile
from convc.cli.race import race
from convc.cli.report import report
from convc.cli.resources import resources
from convc.cli.run import run
from convc.cli.show import show
from convc.cli.trust import audit, bisect
from convc.cli.tune import tune
from convc.cli.use import evaluate, predict, train
from convc.cli.visualize import visualize

main = CommandGroup(
    "convc",
    help="A graph compiler for convnets: readable models in, readable kernels out.\n\n"
    "MODEL is file.py:function, or built in: two_conv, four_conv, strided, and of the "
    "examples cs20si, cs20, cs20_layers, flat784, ltfn5, ltfn5_sane, ltfn5_average, "
    "ltfn5_strided, csci1470, csci1470_cifar, fast.",
    epilog="convc COMMAND --help lists a command's options.",
)
"""The command ``convc``."""

for command in (
    train,
    evaluate,
    predict,
    race,
    visualize,
    summary,
    show,
    explain,
    plan,
    report,
    compile_command,
    run,
    resources,
    tune,
    bisect,
    audit,
    compare,
    bench,
    profile,
    doctor,
):
    main.add_command(command)
