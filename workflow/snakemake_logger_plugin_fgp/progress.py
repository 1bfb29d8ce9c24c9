"""What `--logger fgp` shows: a line for each finished job, errors in full, a summary; on a terminal also a refreshed status line.

A dry run shows a table of rules. Everything that is left out here is in Snakemake's own log, `.snakemake/log/*.log`.
"""

import collections
import contextlib
import logging
import os
import re
import shutil
import sys
import threading
import time
from dataclasses import dataclass

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from .plan import Plan

TAIL = 20
LONGEST_REASON = 300
_REASON = re.compile(r"\berror: |^[\w.]*(Error|Exception)\b")
_KILLED = ("<Signals.SIGKILL: 9>", "exit status 137", "exit status -9")

_SILENT_EVENTS = (
    LogEvent.WORKFLOW_STARTED,
    LogEvent.GROUP_INFO,
    LogEvent.RESOURCES_INFO,
    LogEvent.JOB_STARTED,
    LogEvent.RULEGRAPH,
)
_SILENT_MESSAGES = (
    "Building DAG of jobs",
    "Select jobs to execute",
    "Using shell:",
    "Assuming unrestricted shared filesystem",
    "Conda environments: ignored",
    "Singularity containers: ignored",
    "Group jobs: inactive",
    "Elapsed time:",
    "Reasons:",
    "Some jobs were triggered by provenance information",
    "Rules with provenance triggered jobs:",
)


@dataclass(frozen=True)
class _Job:
    name: str
    logs: tuple[str, ...]
    started: float
    reason: str = ""


class LogHandler(LogHandlerBase):
    """Snakemake's log on stderr (stdout in a dry run), in place of the default one.

    The interface is that of snakemake-interface-logger-plugins 2. A handler that writes to the stream replaces Snakemake's own;
    the filter is ours, so that `--quiet` does not hide why a job failed (`--quiet all` does); the formatter is Snakemake's, for
    every message that has no shape here.
    """

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        settings = self.common_settings
        self._stream = sys.stdout if settings.stdout else sys.stderr
        quiet = {level.name for level in settings.quiet or ()}
        self._silent = "ALL" in quiet and not settings.dryrun
        self._quiet_rules = bool(quiet & {"RULES", "ALL"})
        self._quiet_progress = bool(quiet & {"PROGRESS", "ALL"})
        self._quiet_reason = bool(quiet & {"REASON", "ALL"})
        terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._has_status = terminal and not (settings.dryrun or self._quiet_progress)
        self._red, self._plain = ("\033[31m", "\033[0m") if terminal and not settings.nocolor else ("", "")
        self._started = time.time()
        self._done = self._total = 0
        self._running: dict[int, _Job] = {}
        self._failed: dict[int, _Job] = {}
        self._plan = Plan()
        self._killed: list[str] = []
        self._ended = threading.Event()
        self._ticker = None
        self._actions = {
            LogEvent.RUN_INFO: self._run_info,
            LogEvent.JOB_INFO: self._job_info,
            LogEvent.SHELLCMD: self._shell_command,
            LogEvent.JOB_FINISHED: self._job_finished,
            LogEvent.PROGRESS: self._progress,
            LogEvent.JOB_ERROR: self._job_error,
        }

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record; runs in the thread of Snakemake's queue, under the handler's lock."""
        event = getattr(record, "event", None)
        if self._silent or event in _SILENT_EVENTS:
            return
        try:
            self._actions.get(event, self._message)(record)
        except BrokenPipeError:
            pass
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Print the summary, once."""
        with self.lock:
            if not self._ended.is_set():
                self._ended.set()
                self._summary()
        super().close()

    def _message(self, record: logging.LogRecord) -> None:
        settings, text = self.common_settings, self.format(record)
        if any(sign in text for sign in _KILLED):
            self._killed.append(text)
        wanted = settings.debug_dag if getattr(record, "event", None) is LogEvent.DEBUG_DAG else settings.verbose
        unasked_debug = record.levelno < logging.INFO and not wanted
        quiet = self._quiet_rules and hasattr(record, "quietness")
        if text in ("", "None") or unasked_debug or quiet or (text.startswith(_SILENT_MESSAGES) and not settings.verbose):
            return
        self._say(text, error=record.levelno >= logging.ERROR)

    def _run_info(self, record: logging.LogRecord) -> None:
        """Say how many jobs there are of each rule; in a dry run, which calls this before and after the jobs, as a table."""
        counts = dict(record.stats)
        total = counts.pop("total", sum(counts.values()))
        before, self._total = self._total, total
        if self.common_settings.dryrun and not self._quiet_rules:
            if before:
                self._say("\n".join([_count(total), *self._plan.table(counts, with_reasons=not self._quiet_reason)]))
            return
        if total == before or (self._quiet_progress and not self.common_settings.dryrun):
            return
        self._say(f"{_count(total)}: " + ", ".join(f"{number} {rule}" for rule, number in counts.items()))
        if self._has_status and self._ticker is None:
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()

    def _job_info(self, record: logging.LogRecord) -> None:
        self._failed.pop(record.jobid, None)
        job = _Job(_describe(record), tuple(record.log), record.created)
        if not self.common_settings.dryrun:
            self._running[record.jobid] = job
            self._draw_status()
            return
        self._plan.add(record.rule_name, record.reason)
        if self.common_settings.printshellcmds and not self._quiet_rules:
            self._say(job.name if self._quiet_reason else f"{job.name}  ({_cut(record.reason)})")

    def _shell_command(self, record: logging.LogRecord) -> None:
        command = getattr(record, "shellcmd", None) or getattr(record, "cmd", None)
        if command and self.common_settings.printshellcmds and not self._quiet_rules:
            self._say(f"    {command}")

    def _job_finished(self, record: logging.LogRecord) -> None:
        job = self._running.pop(record.job_id, None)
        self._done += 1
        if job and not self._quiet_progress:
            self._say(f"[{self._done}/{self._total}] {job.name} {_duration(record.created - job.started)}")

    def _progress(self, record: logging.LogRecord) -> None:
        self._done, self._total = record.done, record.total
        self._draw_status()

    def _job_error(self, record: logging.LogRecord) -> None:
        known = self._running.pop(record.jobid, None)
        name = known.name if known else record.rule_name
        self._failed[record.jobid] = _Job(name, tuple(record.log), record.created, self._reason(record))
        lines = [f"Error in {name} (rule {record.rule_name}, job {record.jobid})"]
        facts = {
            "message": record.rule_msg,
            "input": ", ".join(record.input),
            "output": ", ".join(record.output),
            "conda-env": record.conda_env,
            "container": record.container_img,
            **record.aux,
        }
        lines += [f"    {key}: {value}" for key, value in facts.items() if value]
        lines += [f"    {line}" for line in self._log_lines(record.log)]
        if record.shellcmd:
            lines += ["    shell:", *(f"        {line}" for line in record.shellcmd.strip().splitlines())]
        self._say("\n".join(lines), error=True)

    def _reason(self, record: logging.LogRecord) -> str:
        """Return the last error in the job's logs; without one, that it was killed, if it was."""
        found = ""
        for path in record.log:
            with contextlib.suppress(OSError), open(path, errors="replace") as file:
                found = next((line for line in reversed(file.readlines()) if _REASON.search(line)), found)
        if not found and record.shellcmd and any(record.shellcmd.strip() in text for text in self._killed):
            return "killed without a word, most likely for lack of memory"
        return _cut(found.strip())

    def _log_lines(self, paths: list[str]) -> list[str]:
        lines = []
        for path in paths:
            try:
                with open(path, errors="replace") as file:
                    tail = list(collections.deque(file, None if self.common_settings.show_failed_logs else TAIL))
            except OSError as error:
                lines.append(f"log: {path} ({error.strerror})")
                continue
            what = f"last {len(tail)} lines:" if len(tail) == TAIL else "in full:"
            lines.append(f"log: {path}, {what}" if tail else f"log: {path} (empty)")
            lines += [f"    | {line.rstrip()}" for line in tail]
        return lines

    def _summary(self) -> None:
        if self.common_settings.dryrun or self._silent or not self._total:
            return
        seconds = _duration(time.time() - self._started)
        running = list(self._running.values())
        if self._quiet_progress:  # Snakemake then reports no finished jobs
            text, running = f"{_count(len(self._failed))} failed in {seconds}", []
        elif self._done < self._total:
            text = f"{self._done} of {_count(self._total)} done in {seconds}, {len(self._failed)} failed"
        else:
            text = f"{_count(self._done)} done in {seconds}"
        if self._quiet_progress and not self._failed:
            return
        lines = [f"    failed: {job.name}{job.reason and ': '}{job.reason}{_where(job)}" for job in self._failed.values()]
        lines += [f"    not finished: {job.name}{_where(job)}" for job in running]
        self._say("\n".join([text, *lines]), error=bool(lines))

    def _say(self, text: str, error: bool = False) -> None:
        self._clear_status()
        red, plain = (self._red, self._plain) if error else ("", "")
        self._stream.write(f"{red}{text}{plain}\n")
        self._stream.flush()
        self._draw_status()

    def _tick(self) -> None:
        while not self._ended.wait(1):
            with self.lock:
                self._draw_status()

    def _clear_status(self) -> None:
        if self._has_status:
            self._stream.write("\r\033[K")

    def _draw_status(self) -> None:
        if not self._has_status or self._done >= self._total or self._ended.is_set():
            return
        elapsed = time.time() - self._started
        line = f"{self._done}/{self._total} done, {_duration(elapsed)}"
        if self._done:
            line += f", about {_duration(elapsed * (self._total - self._done) / self._done)} left"
        if self._running:
            line += ": " + ", ".join(job.name for job in self._running.values())
        self._clear_status()
        self._stream.write(line[: shutil.get_terminal_size().columns - 1] + "\r")
        self._stream.flush()


def _describe(record: logging.LogRecord) -> str:
    """Return the rule's message on one line; without one, the rule and its wildcards, `seed=0` as `seed0`."""
    if record.rule_msg:
        return " ".join(record.rule_msg.split())
    values = [f"{key}{value}" if str(value).isdigit() else str(value) for key, value in record.wildcards.items()]
    return " ".join([record.rule_name, *values])


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ..."


def _where(job: _Job) -> str:
    return f" (log: {', '.join(job.logs)})" if job.logs else ""


def _count(number: int) -> str:
    return f"{number} job" if number == 1 else f"{number} jobs"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
