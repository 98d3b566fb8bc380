"""What a person writes: spec.yml, YAML with positions, Jinja2 rendering."""
