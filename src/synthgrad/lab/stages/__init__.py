"""The command line of decoupled pipelines: ``synthgrad launch``, ``stage`` and ``store``."""
