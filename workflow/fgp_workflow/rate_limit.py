"""Takes away Snakemake's limit on the jobs that it starts in a second, unless the user chose one.

While the limit is on and jobs are ready, every round of Snakemake's scheduler (9.27) starts a timer thread that brings about
another round a second later, which starts a timer again: each finished job adds such a thread, and they end when no job is ready.
"""

from snakemake_interface_executor_plugins.workflow import WorkflowExecutorInterface

DEFAULT_LIMIT = (100, 1)
"""Jobs and seconds of Snakemake's own limit (`--max-jobs-per-timespan 100/1s`)."""


def lift(workflow: WorkflowExecutorInterface) -> None:
    """Let the scheduler start jobs as soon as there is room for them; a limit other than Snakemake's own stays.

    To be called in `onstart`, where the scheduler is there and has started nothing. How many jobs run at once is still up to
    `--cores` and `--jobs`.
    """
    limit = getattr(workflow.scheduler, "job_rate_limiter", None)
    if limit is not None and (limit.max_jobs, limit.timespan) == DEFAULT_LIMIT:
        workflow.scheduler.job_rate_limiter = None
