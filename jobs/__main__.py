"""The command ``pix2score JOB …`` of an installed package: ``python -m jobs.JOB …`` without a checkout.

Without a job it lists them.
"""

from __future__ import annotations

import ast
import difflib
import runpy
import sys
from pathlib import Path

from pix2score.host.process import tell_of_an_interrupt_in_a_line


def main() -> None:
    """Run the job that the first word names, with the rest as its flags."""
    tell_of_an_interrupt_in_a_line()
    jobs = abouts()
    job = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if job in ("-h", "--help"):
        command = "python -m jobs.JOB" if __package__ == "jobs" else "pix2score JOB"
        print(f"usage: {command} [OPTIONS]\n\nEach of these jobs tells more with --help:")
        print(*(f"  {name:<9}  {about}" for name, about in jobs.items()), sep="\n")
        return
    if job not in jobs:
        near = difflib.get_close_matches(job, jobs, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(jobs)}"
        print(f"pix2score: unknown job {job!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    runpy.run_module(f"{__package__}.{job}", run_name="__main__", alter_sys=True)


def abouts() -> dict[str, str]:
    """The first line about each job, without importing any."""
    modules = sorted(Path(__file__).parent.glob("[a-z]*.py"))
    return {
        module.stem: (ast.get_docstring(ast.parse(module.read_text("utf-8"))) or "").partition("\n")[0]
        for module in modules
    }


if __name__ == "__main__":
    main()
