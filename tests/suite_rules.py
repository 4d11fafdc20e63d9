"""Rules of the whole suite, as a pytest plugin that ``conftest.py`` loads.

- A test may be skipped (or expected to fail) only under the markers in ``MAY_SKIP``: anything else
  that did not run fails the suite, so that no test falls silent.
- Files with long tests start first, so that two workers finish at about the same time.
- A forked child renews torch's thread pool before anything else: torch does that at its first
  parallel work, and where several threads begin at once (transformers loads weights on several) one
  of them may meet no pool ("Invalid thread pool!").
"""

from __future__ import annotations

import os
import sys

import pytest

MAY_SKIP = {"gpu", "shared", "long", "browser"}


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SkipRule(), "skip-rule")
    os.register_at_fork(after_in_child=renew_thread_pool)


def renew_thread_pool() -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(torch.get_num_threads())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    long_files = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in long_files)


class SkipRule:
    """Fails the session over a silent skip, here or in a worker of pytest-xdist."""

    def __init__(self) -> None:
        self.silent: dict[str, None] = {}  # node ids, in order

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not MAY_SKIP & set(report.keywords):
            self.silent[report.nodeid] = None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.silent[report.nodeid] = None

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.silent:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.silent:
            return
        terminalreporter.section("skipped without leave", red=True)
        allowed = ", ".join(sorted(MAY_SKIP))
        terminalreporter.line(f"Only tests marked {allowed} may be skipped or expected to fail:")
        for nodeid in self.silent:
            terminalreporter.line(f"  {nodeid}")
