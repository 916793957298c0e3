"""Everything that knows a data set, a file or a screen; behind ``pip install synthgrad[lab]``."""
