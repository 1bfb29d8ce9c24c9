from types import SimpleNamespace

import pytest
from fgp_workflow import rate_limit
from snakemake.cli import get_argument_parser
from snakemake.scheduling.job_scheduler import JobRateLimiter
from snakemake.settings.types import MaxJobsPerTimespan

from benchmarks import workflow

JOBS = 60
FEW = 15


def test_threads_stay_few_and_the_cure_is_still_needed(tmp_path):
    peaks = {}
    for name, snakefile in {"plain": workflow.TRIVIAL, "lifted": workflow.TRIVIAL + workflow.LIFTED}.items():
        folder = tmp_path / name
        folder.mkdir()
        _, peaks[name] = workflow.watched(folder, snakefile, JOBS)
        assert len(list((folder / "done").iterdir())) == JOBS
    assert peaks["lifted"] <= FEW
    assert peaks["plain"] > FEW, (
        "this Snakemake leaves no timers behind: remove fgp_workflow/rate_limit.py and its line in the Snakefile"
    )


@pytest.mark.parametrize(("limit", "kept"), [("50/1s", True), ("100/1m", True), (None, False)])
def test_a_limit_that_the_user_chose_stays(limit, kept):
    words = [] if limit is None else ["--max-jobs-per-timespan", limit]
    limiter = JobRateLimiter(get_argument_parser().parse_args(words).max_jobs_per_timespan)
    scheduler = SimpleNamespace(job_rate_limiter=limiter)
    rate_limit.lift(SimpleNamespace(scheduler=scheduler))
    assert (scheduler.job_rate_limiter is limiter) == kept


def test_schedulers_without_a_limit():
    scheduler = SimpleNamespace(job_rate_limiter=None)
    rate_limit.lift(SimpleNamespace(scheduler=scheduler))
    assert scheduler.job_rate_limiter is None
    rate_limit.lift(SimpleNamespace(scheduler=SimpleNamespace()))
    assert vars(MaxJobsPerTimespan(*rate_limit.DEFAULT_LIMIT[:1])) == {"max_jobs": 100, "timespan": 1}
