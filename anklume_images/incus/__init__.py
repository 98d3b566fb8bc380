"""Everything that speaks to Incus: no path of its API is written anywhere else."""
