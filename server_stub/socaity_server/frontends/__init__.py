"""How the data plane is reached from outside: one file per protocol."""
