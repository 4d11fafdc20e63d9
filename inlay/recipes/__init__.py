"""Ready-made configs: short files on the shared parts of ``_base`` (see ``inlay list-cfg``)."""
