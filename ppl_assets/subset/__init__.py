"""The selected subset, its rivals, the export and the report."""
