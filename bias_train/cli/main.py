"""``bias-train``: finds the command and runs it; heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from bias_train.preemption import Preempted

COMMANDS = {
    "demo": ("render a small world, train with and without debiasing, and report, in minutes", "bias_train.cli.demo"),
    "shards": ("import, index and inspect shards", "bias_train.cli.shards"),
    "world": ("render the embedded world as shards", "bias_train.cli.world"),
    "embed": ("keep what frozen towers make of pictures, to train heads from", "bias_train.cli.embed"),
    "fit": ("train one retriever", "bias_train.cli.fit"),
    "sweep": ("run a grid of trainings and see how far it is", "bias_train.cli.sweep"),
    "synthesize": ("make counterfactual views: twins of photos, objects taken out", "bias_train.cli.synthesize"),
    "curate": ("see how captions parrot the text in pictures, and choose samples", "bias_train.cli.curate"),
    "audit": ("measure the bias of any retriever, with intervals and tests", "bias_train.cli.audit"),
    "erase": ("remove a bias from finished vectors or weights, without training", "bias_train.cli.erase"),
    "remedy": ("fit, compare and apply remedies against social bias and reading", "bias_train.cli.remedy"),
    "explain": ("show what a bias is made of", "bias_train.cli.explain"),
    "report": ("write an HTML report of runs or of a sweep", "bias_train.cli.report"),
    "wandb": ("send offline runs to W&B, and set up a dashboard there", "bias_train.cli.wandb"),
}

# Errors that name what the user can mend: one line, no traceback. Anything else is a defect of ours.
_USER_ERRORS = ("DataError", "LossError", "ModelError", "RunError", "SweepError", "ReportError")


def usage() -> str:
    """Return the help text."""
    lines = ["usage: bias-train COMMAND [OPTIONS]", "", "commands:"]
    lines += [f"  {name:<10} {text}" for name, (text, _) in COMMANDS.items()]
    lines += [
        "",
        "`bias-train COMMAND --help` lists a command's options.",
        "BIAS_TRAIN_TRACEBACK=1 shows where an error arose.",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments after the program's name; those of the process where None.

    Returns:
        0 on success, 1 where a run failed, 2 for wrong usage or input, 130 after an interrupt, 143 or 138 where a run
        was asked to stop by SIGTERM or SIGUSR1 and has done so with a checkpoint.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"bias-train {version('bias-train')}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(f"bias-train: no command {name!r}\n\n{usage()}", file=sys.stderr)
        return 2
    try:
        return int(import_module(COMMANDS[name][1]).main(rest) or 0)
    except KeyboardInterrupt:
        print("bias-train: interrupted; what was done is kept", file=sys.stderr)
        return 130
    except Preempted as stop:
        print(f"bias-train {name}: {stop} (--resume auto)", file=sys.stderr)
        return 128 + stop.signum
    except (ValueError, OSError) as error:
        message = user_message(error)
        if message is None or os.environ.get("BIAS_TRAIN_TRACEBACK"):
            raise
        print(f"bias-train {name}: error: {message}", file=sys.stderr)
        return 2


def user_message(error: BaseException) -> str | None:
    """Return the one line that an error is for the user, None where it is a defect that wants its traceback."""
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return str(error)
    # What a class of the configuration refuses comes wrapped by the parser, with every option of the class around it.
    own: BaseException | None = error
    while own is not None and not any(kind.__name__ in _USER_ERRORS for kind in type(own).__mro__):
        own = own.__cause__
    if own is None:
        return None
    text = str(own)
    # An error from a loader worker comes wrapped in that worker's traceback; its own message is the last part.
    return text.rsplit(f"{type(own).__name__}: ", 1)[-1].strip() if text.startswith("Caught ") else text


if __name__ == "__main__":
    sys.exit(main())
