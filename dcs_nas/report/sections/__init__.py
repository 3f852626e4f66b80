"""What the parts of a report show, as plain data for the templates."""
