//! The file system of host files, through a gofer.
//!
//! [`connect`] makes the connection of a container, which its attached trees share.

mod connect;

pub use connect::connect;
