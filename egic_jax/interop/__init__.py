"""Parameters from and to other projects' formats."""
