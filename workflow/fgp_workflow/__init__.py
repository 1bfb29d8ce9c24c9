"""What the Snakemake workflow is made of: configuration, cells, settings and keys of stages, tables and figures."""
