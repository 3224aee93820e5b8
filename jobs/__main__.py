"""``python -m jobs`` lists the jobs."""

from __future__ import annotations

import pkgutil

import jobs

print("One of these, each with --help:")
for module in pkgutil.iter_modules(jobs.__path__):
    if not module.name.startswith("_"):
        print(f"  python -m jobs.{module.name}")
