//! The guest image: a kernel, and an initramfs of our agent and the modules it needs.
