//! A platform without a host: contexts run scripts instead of machine code. For the kernel's unit tests.
