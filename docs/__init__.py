"""The documentation: its pages, and what writes the generated ones."""
