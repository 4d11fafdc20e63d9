"""Assemblies: from a config file to built objects to a run. The only floor that sees all others."""
