"""`inlay doctor`: machine, libraries, devices, and a proof that packed samples stay apart."""
