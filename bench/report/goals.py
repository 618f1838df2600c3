"""The goals that the report holds figures against: a case, what of it, and the limit.

SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""
from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Goal:
    case: str
    figure: str  # of the case
    limit: float
    by: Optional[str] = None  # divided by this figure of the same case
    least: bool = False  # the limit is the least that will do, else the most
    about: str = ""

    def what(self):
        return self.about or (f"{self.figure} / {self.by}" if self.by else self.figure)

    def value(self, rows):
        """None if there is no such figure."""
        figures = rows.get(self.case, {})
        value = figures.get(self.figure)
        if not isinstance(value, (int, float)):
            return None
        if self.by is None:
            return value
        divisor = figures.get(self.by)
        return value / divisor if isinstance(divisor, (int, float)) and divisor > 0 else None

    def met(self, value):
        return value >= self.limit if self.least else value <= self.limit


def most(case, figure, limit, by=None, about=""):
    return Goal(case, figure, limit, by, False, about)


def least(case, figure, limit, by=None, about=""):
    return Goal(case, figure, limit, by, True, about)


def all_goals():
    goals = []
    for name in ("lua", "sqlite", "zstd", "llvm"):
        case = "link/" + name
        goals += [most(case, "tenon", 2, "floor"), least(case, "jitlink", 15, "tenon"), least(case, "orc", 40, "tenon")]
    goals.append(least("link/llvm-cold", "orc", 8, "tenon"))
    goals.append(least("link/llvm-2t", "one_thread", 1.8, "two_threads"))
    for size in ("1k", "10k", "100k", "1m"):
        case = "many/" + size
        goals += [
            most(case, "tenon", 1, about="µs a module"),
            most(case, "tenon_last_by_first", 1.2, about="the last modules against the first"),
            most(case, "tenon_mappings", 16, about="kernel mappings more"),
            most(case, "tenon_bytes", 700, about="resident bytes a module beyond its content"),
        ]
    goals.append(least("many/10k", "orc", 35, "tenon"))
    goals.append(most("many/chain", "tenon", 1, about="µs a module"))
    for order in ("fifo", "lifo", "random"):
        goals.append(most("remove/" + order, "tenon", 0.5, about="µs each"))
        goals.append(most("remove/" + order, "tenon_memory", 5, about="% more memory than before"))
    goals += [
        most("teardown", "tenon", 5, about="ms"),
        most("engine/create", "tenon", 50, about="µs"),
        most("library/churn", "tenon", 3, about="µs"),
        most("lookup/1t", "tenon", 40, about="ns"),
        most("lookup/1t", "tenon_1m", 1.3, "floor_1m"),
        least("lookup/2t", "tenon_ratio", 1.9, about="two threads against one"),
        most("throw", "tenon_first", 100, about="µs for the first throw"),
        most("throw", "tenon", 1.25, "static", about="later throws against a statically linked program's"),
        most("abort", "tenon_by_linked", 1.2, about="a dropped change against getting to Linked"),
        most("memory/llvm", "tenon", 0.5, about="bytes of bookkeeping for a byte of content"),
    ]
    return goals
