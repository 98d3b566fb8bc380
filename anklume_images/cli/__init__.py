"""The `anklume-images` command: a module for each family of commands, on top of everything else."""
