"""Speed, as ratios of alternatives measured in one run; see benchmarks/README.md."""
