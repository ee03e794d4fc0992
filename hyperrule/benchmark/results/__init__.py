"""Shows the results of a grid as tables, plots and pages, beside published figures."""
