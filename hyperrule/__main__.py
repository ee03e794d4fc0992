"""`python -m hyperrule` is the command `hyperrule`."""

from hyperrule.cli import main

if __name__ == "__main__":
    main(prog_name="hyperrule")
