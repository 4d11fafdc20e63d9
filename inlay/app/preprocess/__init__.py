"""`inlay preprocess`: published data made into rows."""
