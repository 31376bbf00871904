"""One self-contained page that shows what a simulation was and what came of it."""

from simulations.report.page import write

__all__ = ["write"]
