//! virtio-fs: the gofer's passthrough core behind FUSE, served to a VM as a vhost-user device.
