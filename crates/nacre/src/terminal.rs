//! The user's terminal: raw while a sandbox uses it, and restored on every way out.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

use agent_api::WindowSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// What the terminal was like, while it is not.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input in raw mode until dropped.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Saves the settings and changes to raw mode.
    pub fn enter() -> rustix::io::Result<Raw> {
        let terminal = std::io::stdin();
        let saved = tcgetattr(&terminal)?;
        let mut raw = saved.clone();
        raw.make_raw();
        *SAVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(saved);
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(Raw(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back, if it was changed.
pub fn restore() {
    // Not `lock`: a panic may have come while it was held.
    if let Some(saved) = SAVED.try_lock().ok().and_then(|mut saved| saved.take()) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &saved);
    }
}

/// Panics abort in release builds, so nothing would be dropped.
pub fn restore_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        print(info);
    }));
}

/// A terminal's size; zeros if it has none.
pub fn size(terminal: BorrowedFd<'_>) -> WindowSize {
    match tcgetwinsize(terminal) {
        Ok(size) => WindowSize {
            rows: size.ws_row.into(),
            columns: size.ws_col.into(),
            x_pixels: size.ws_xpixel.into(),
            y_pixels: size.ws_ypixel.into(),
        },
        Err(_) => WindowSize::default(),
    }
}

/// The size of standard input's terminal.
pub fn own_size() -> WindowSize {
    size(std::io::stdin().as_fd())
}
