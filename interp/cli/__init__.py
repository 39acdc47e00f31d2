"""The command line: each command a thin shell over a public verb."""
