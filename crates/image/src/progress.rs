//! What happens while an image is fetched and unpacked, for whoever shows it.

/// Something that happens to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Pulling,
    Unpacking,
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    pub layer: &'a str,
    pub step: Step,
    /// Bytes of the layer as it is stored.
    pub done: u64,
    pub total: u64,
}

/// Shows progress.
pub trait Progress {
    /// Often; `done == total` once, at the end.
    fn update(&self, update: Update<'_>);
    /// A line worth saying.
    fn note(&self, text: &str);
}

/// Shows nothing.
#[derive(Debug)]
pub struct Quiet;

impl Progress for Quiet {
    fn update(&self, _: Update<'_>) {}
    fn note(&self, _: &str) {}
}
