"""Everything outside us, one file per thing: streams, DNS, TLS, clocks, real threads."""
