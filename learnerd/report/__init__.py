"""The report: one HTML file that says how learning went, also to whoever has not the machine."""
