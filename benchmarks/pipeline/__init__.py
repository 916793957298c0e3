"""``synthgrad bench pipeline``: decoupled stages beside update-locked ones, over real delays."""
