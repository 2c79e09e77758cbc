//! [`Told`]: what of a sandbox's events containerd knows already.
//!
//! The agent tells everything again from the beginning to whoever follows it. A process's end is told once because its stage says so; of a lack of memory nothing stays but
//! what is written down here, for the shim that follows this one.

use std::path::{Path, PathBuf};

use runtime::state::write_whole;

/// In the state directory of the sandbox's first container.
const FILE: &str = "shim-told";

pub(super) struct Told {
    path: PathBuf,
    /// The number of the last event.
    last: u64,
}

impl Told {
    pub fn open(dir: &Path) -> Told {
        let path = dir.join(FILE);
        let last = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Told { path, last }
    }

    /// Whether this event is news. From now on it is not.
    pub fn is_news(&mut self, sequence: u64) -> bool {
        if sequence <= self.last {
            return false;
        }
        self.last = sequence;
        if let Err(error) = write_whole(&self.path, sequence.to_string().as_bytes()) {
            tracing::warn!("a shim that follows this one may tell of a lack of memory again: {error}");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_shim_tells_only_what_is_new() {
        let dir = std::env::temp_dir().join(format!("nacre-shim-told-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("dir");
        let mut first = Told::open(&dir);
        assert!(first.is_news(3) && !first.is_news(3) && first.is_news(5));
        let mut second = Told::open(&dir);
        assert!(!second.is_news(3) && !second.is_news(5) && second.is_news(6));
        std::fs::remove_dir_all(dir).expect("clean up");
    }
}
