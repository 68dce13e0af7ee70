"""The compiled core.  Nothing here imports from the rest of the package."""
