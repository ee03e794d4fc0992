"""What a grid measured, as tables, plots and pages, beside published figures."""
