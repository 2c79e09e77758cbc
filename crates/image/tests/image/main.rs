//! Images from end to end, without a sandbox: archives made here, well-formed and hostile; layouts; a registry on loopback; stores that
//! several use at once.

mod build;
mod hostile;
mod layers;
mod mutations;
mod registry;
mod sources;
mod stores;
