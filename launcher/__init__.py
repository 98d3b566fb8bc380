"""From an infra.yml to running machines."""
