"""What the Snakemake workflow is made of: configuration, grid of cells, command lines, tables and figures."""
