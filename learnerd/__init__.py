"""The daemon and its command line. Importing this package loads nothing heavy."""
