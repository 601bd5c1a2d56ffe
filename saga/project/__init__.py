"""A small project that runs: what `saga new` writes. Templates lie beside the code, as `<file>.txt`."""
