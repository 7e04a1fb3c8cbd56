"""Read untrusted plain data (YAML, JSON), and describe its mistakes in plain words."""
