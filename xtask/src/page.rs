//! docs/performance.md: sections that are written by different commands, each leaving the others as they are.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::sh;

fn path() -> PathBuf {
    sh::top().join("docs/performance.md")
}

/// The page as it is; empty if there is none.
pub fn read() -> String {
    std::fs::read_to_string(path()).unwrap_or_default()
}

pub fn write(page: &str) -> Result<()> {
    let path = path();
    std::fs::create_dir_all(path.parent().context("a page without a directory")?)?;
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}

/// Prints a section; a whole one goes to the page.
///
/// # Errors
/// The page cannot be written.
pub fn show(heading: &str, text: &str, whole: bool) -> Result<()> {
    print!("{text}");
    if whole { write(&replace(&read(), heading, text)) } else { Ok(()) }
}

/// What people have written between the line about the machine and the first section.
pub fn prose(page: &str) -> &str {
    let from = page.find("\nMachine: ").and_then(|at| Some(at + 1 + page[at + 1..].find('\n')?));
    let text = from.map_or("", |from| &page[from..]);
    text[..text.find("\n## ").unwrap_or(text.len())].trim()
}

/// A section of a page, by the beginning of its heading: with that and an empty line before it, up to the next section. Empty if there is none.
pub fn section(page: &str, heading: &str) -> String {
    find(page, heading).map_or_else(String::new, |(from, to)| format!("\n{}\n", page[from..to].trim_end()))
}

/// The page with `text`, which begins with a heading, in the place of the section whose heading begins so; at the end if there was none.
pub fn replace(page: &str, heading: &str, text: &str) -> String {
    let (from, to) = find(page, heading).unwrap_or((page.len(), page.len()));
    let (before, after) = (page[..from].trim_end(), page[to..].trim_end());
    let gap = if after.is_empty() { "" } else { "\n" };
    format!("{before}\n\n{}\n{gap}{after}{gap}", text.trim())
}

fn find(page: &str, heading: &str) -> Option<(usize, usize)> {
    let from = if page.starts_with(heading) { 0 } else { page.find(&format!("\n{heading}"))? + 1 };
    let to = page[from..].find("\n## ").map_or(page.len(), |at| from + at + 1);
    Some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Page\n\nText.\n\n## One\n\n1\n\n## Two (of 2)\n\n2\n";

    #[test]
    fn prose_is_what_stands_before_the_sections() {
        assert_eq!(
            prose("# Page\n\nWritten.\n\nMachine: M, load 1.\n\nA call\ncosts.\n\nMore.\n\n## One\n\n1\n"),
            "A call\ncosts.\n\nMore."
        );
        assert_eq!((prose(PAGE), prose("")), ("", ""));
    }

    #[test]
    fn a_section_is_replaced_where_it_is_and_others_stay() {
        assert_eq!(section(PAGE, "## One"), "\n## One\n\n1\n");
        assert_eq!(section(PAGE, "## Two"), "\n## Two (of 2)\n\n2\n");
        assert_eq!(section(PAGE, "## Three"), "");
        assert_eq!(replace(PAGE, "## One", "\n## One\n\nnew\n"), "# Page\n\nText.\n\n## One\n\nnew\n\n## Two (of 2)\n\n2\n");
        assert_eq!(replace(PAGE, "## Two", "## Two\n\nnew"), "# Page\n\nText.\n\n## One\n\n1\n\n## Two\n\nnew\n");
        assert_eq!(replace(PAGE, "## Three", "## Three"), format!("{PAGE}\n## Three\n"));
    }
}
